-- beat.lua: an instance says "still here"; never creates one.
--
-- KEYS meta            HASH                        the partition
-- KEYS detector        HASH                        holds
-- KEYS instances       ZSET                        heartbeats
-- KEYS events          STREAM                      what happened
-- KEYS instance        HASH <instance(instance)>   the instance that beats
-- KEYS owned           SET <owned(instance)>       what it owns
-- KEYS mailbox         CHANNEL <mailbox(instance)> its presence connection listens there
-- ARGV server          text                 run id of the server of this connection
-- ARGV id              text <instance>      instance id
-- ARGV dead_after_ms   duration             silence that means death
-- ARGV seen_server     text                 run id of the server with which it last agreed on what it owns
-- ARGV lineage         text <past.lineage>  lineage with which it last agreed
-- ARGV since_ms        int <past.since_ms>  since when it knows that one, by the server's clock of then
-- ARGV epoch           int <past.epoch>     highest epoch that it remembers
-- ARGV roll            text                 roll call: number and digest (lib/roll.lua) of the sessions that it believes to own here, under
--                            which epochs; '' when it cannot say just now
-- ARGV loop_lag_ms     duration             how far its event loop is behind
-- ARGV wedged_after_ms duration=0           a loop that is so far behind stands still; 0 for never
-- ARGV presence        flag=0               1 while it believes that its presence connection is up; counts if this server knows of one, and has a run id
-- REPLY OK server lineage now_ms:int asked:int state presence
-- REPLY RESYNC server lineage held:flag owned:int
-- REPLY WEDGED
-- REPLY UNKNOWN server lineage
-- REPLY FENCED cause
-- RETRY safe: a repeated beat moves the deadline again, as a later one would.
-- USES now read stream event hold
local meta, detector, instances, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local instance, owned, mailbox = KEYS[5], KEYS[6], KEYS[7]
local server, id, dead_after_ms, seen_server, lineage = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local since_ms, epoch = ARGV[6], ARGV[7]
local roll, loop_lag_ms, wedged_after_ms, presence = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11]

local now = now_ms()
local me = read_instance(instance, 'state', 'cause', 'asked', 'loop_lag', 'owned', 'presence', 'roll', 'incomplete')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
local m, held = guard(meta, detector, events, now, server, lineage, since_ms, epoch)
if not me.state or me.incomplete or not m.lineage then
  return { 'UNKNOWN', 'server', m.server or '', 'lineage', m.lineage or '' }
end
local wedged = wedged_after_ms > 0 and tonumber(loop_lag_ms) >= wedged_after_ms
if not wedged then
  redis.call('ZADD', instances, int(now + dead_after_ms), id)
end
if presence == '1' and server == '' then -- it could as well be one at a server that was replaced
  presence = '0'
elseif presence == '1' then -- a connection dropped in silence on the way, or held by another server, cannot be lost here
  local heard = redis.pcall('PUBSUB', 'NUMSUB', mailbox)
  if not heard.err and tonumber(heard[2]) == 0 then
    presence = '0'
  end
end
if me.loop_lag ~= loop_lag_ms or me.presence ~= presence then
  redis.call('HSET', instance, 'loop_lag', loop_lag_ms, 'presence', presence)
end
if wedged then -- it is asked to fence itself; if it does not, its deadline passes
  return { 'WEDGED' }
end
local here = int(redis.call('SCARD', owned))
if me.owned ~= here then
  redis.call('HSET', instance, 'owned', here)
end
if held or lineage ~= m.lineage or seen_server ~= server or (roll ~= '' and roll ~= here .. ' ' .. (me.roll or '0')) then
  return { 'RESYNC', 'server', server, 'lineage', m.lineage, 'held', held and '1' or '0', 'owned', here }
end
return { 'OK', 'server', server, 'lineage', m.lineage, 'now_ms', int(now), 'asked', me.asked or '0', 'state', me.state,
  'presence', presence }
