-- certify.lua: a certificate buries an instance: it left, its process exited, or an operator says so.
--
-- KEYS meta          HASH                      the partition
-- KEYS detector      HASH                      holds
-- KEYS instances     ZSET                      heartbeats
-- KEYS graves        ZSET                      dead instances that still own sessions
-- KEYS events        STREAM                    what happened
-- KEYS instance      HASH <instance(instance)> the instance that ended
-- KEYS owned         SET <owned(instance)>     what it owns
-- ARGV server        text             run id of the server of this connection
-- ARGV id            text <instance>  instance id
-- ARGV cause         text             left, exited, operator, or restated after lost writes
-- ARGV by            text             the program or person that says so
-- ARGV reason        reason           why
-- ARGV fenced_ttl_ms duration=DAY     how long the id of one that the store does not know is refused, when its death is restated
-- REPLY OK owned:int
-- REPLY ALREADY cause
-- REPLY UNKNOWN
-- RETRY safe: written once, a second call answers ALREADY.
-- USES now read stream event hold bury
local meta, detector, instances, graves, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local instance, owned = KEYS[6], KEYS[7]
local server, id, cause, by, reason, fenced_ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local now = now_ms()
local m = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'dead_after_ms')
if me.state == 'dead' then
  return { 'ALREADY', 'cause', me.cause or '' }
end
if not me.state and m.lineage and cause == 'restated' then -- it is from before a wipe, and is refused if it comes back
  redis.call('HSET', instance, 'state', 'dead', 'ended_at', int(now), 'cause', cause, 'by', by, 'reason', reason)
  redis.call('PEXPIRE', instance, fenced_ttl_ms)
  return { 'OK', 'owned', '0' }
elseif not me.state then
  return { 'UNKNOWN' }
end
local score = tonumber(redis.call('ZSCORE', instances, id) or nil)
local last_beat = score and math.min(now, score - (tonumber(me.dead_after_ms) or 0)) or now
bury(instance, instances, graves, events, id, now, cause, by, reason, now, cause == 'left' and now or last_beat)
return { 'OK', 'owned', int(redis.call('SCARD', owned)) }
