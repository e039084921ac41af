-- declare.lua: a coordinator declares an instance dead by its silence. The guards are checked again here, in the same moment.
--
-- KEYS meta              HASH                        the partition
-- KEYS detector          HASH                        the last scan, holds
-- KEYS instances         ZSET                        heartbeats
-- KEYS graves            ZSET                        dead instances that still own sessions
-- KEYS events            STREAM                      what happened
-- KEYS instance          HASH <instance(instance)>   the silent instance
-- KEYS owned             SET <owned(instance)>       what it owns
-- KEYS mailbox           CHANNEL <mailbox(instance)> its presence connection listens there
-- ARGV server            text             run id of the server of this connection
-- ARGV id                text <instance>  instance id
-- ARGV deadline_ms       int              the deadline that the coordinator has seen unchanged
-- ARGV max_scan_gap_ms   duration         longest time since the last scan
-- ARGV cause             text='silence'   silence or lost_connection
-- ARGV by                text=''          the program or person that says so
-- ARGV lost_after_ms     duration=0       age of the last beat at which a lost connection counts
-- ARGV breaker_window_ms duration=2       see scan
-- REPLY OK owned:int
-- REPLY ALIVE
-- REPLY HELD reason
-- REPLY ALREADY cause
-- REPLY UNKNOWN
-- RETRY safe: death is one-way, a second call answers ALREADY.
-- USES now read stream event hold bury breaker
local meta, detector, instances, graves, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local instance, owned, mailbox = KEYS[6], KEYS[7], KEYS[8]
local server, id, deadline_ms, max_scan_gap_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local cause, by, lost_after_ms, breaker_window_ms = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

local now = now_ms()
local m, lost = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'dead_after_ms', 'trust_ms', 'presence')
if me.state == 'dead' then
  return { 'ALREADY', 'cause', me.cause or '' }
end
if not me.state then
  return { 'UNKNOWN' }
end
local dead_after_ms = tonumber(me.dead_after_ms) or 0
local d = read(detector, 'last_scan_ms', 'hold_until_ms', 'hold_reason', 'breaker_since_ms')
local last = tonumber(d.last_scan_ms)
if lost then
  return { 'HELD', 'reason', 'lost_writes' }
elseif not last or now < last or now - last > max_scan_gap_ms then
  return { 'HELD', 'reason', 'gap' } -- the next scan will begin a hold
elseif (tonumber(d.hold_until_ms) or 0) > now then
  return { 'HELD', 'reason', d.hold_reason or '' }
elseif (tonumber(d.breaker_since_ms) or 0) > now - math.min(dead_after_ms, tonumber(m.hold_ms) or dead_after_ms) then
  return { 'HELD', 'reason', 'breaker' }
end
local score = tonumber(redis.call('ZSCORE', instances, id) or nil)
if not score or score ~= deadline_ms then
  return { 'ALIVE' }
end
local last_beat, evidence, reason = score - dead_after_ms, score, 'deadline passed'
if cause == 'lost_connection' then
  evidence = last_beat + lost_after_ms
  reason = 'connection gone and no beat'
  -- Its own trust window counts too: its settings may differ from the coordinator's.
  if me.presence ~= '1' or now < evidence or now <= last_beat + (tonumber(me.trust_ms) or dead_after_ms) then
    return { 'ALIVE' }
  end
  local heard = redis.pcall('PUBSUB', 'NUMSUB', mailbox)
  if heard.err or tonumber(heard[2]) ~= 0 then
    return { 'ALIVE' }
  end
elseif score > now then
  return { 'ALIVE' }
end
bury(instance, instances, graves, events, id, now, cause, by, reason, evidence, last_beat)
count_silent_death(detector, now, breaker_window_ms)
return { 'OK', 'owned', int(redis.call('SCARD', owned)) }
