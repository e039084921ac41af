-- declare.lua: an instance is declared dead by its silence. The guards are looked at again here, in the same moment.
--
-- KEYS meta            HASH    the partition
-- KEYS detector        HASH    the last scan, holds
-- KEYS instances       ZSET    heartbeats
-- KEYS graves          ZSET    dead instances that still own sessions
-- KEYS events          STREAM  what happened
-- KEYS instance        HASH    who is silent
-- KEYS owned           SET     what it owns
-- ARGV server          text    run id of the server of this connection
-- ARGV id              text    instance id
-- ARGV deadline_ms     int     the deadline that the coordinator has seen unchanged
-- ARGV max_scan_gap_ms int     longest time since the last scan
-- ARGV cause           text    silence
-- ARGV by              text    who says so
-- REPLY OK owned
-- REPLY ALIVE
-- REPLY HELD reason
-- REPLY ALREADY cause
-- REPLY UNKNOWN
-- RETRY safe: death is one-way, a second call answers ALREADY.
-- USES now read event hold bury
local meta, detector, instances, graves, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local instance, owned = KEYS[6], KEYS[7]
local server, id, deadline_ms, max_scan_gap_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local cause, by = ARGV[5], ARGV[6]

local now = now_ms()
local _, lost = guard(meta, detector, events, now, server)
local me = read(instance, 'state', 'cause', 'dead_after_ms')
if me.state == 'dead' then
  return { 'ALREADY', 'cause', me.cause or '' }
end
if not me.state then
  return { 'UNKNOWN' }
end
local d = read(detector, 'last_scan_ms', 'hold_until_ms', 'hold_reason')
local last = tonumber(d.last_scan_ms)
if lost then
  return { 'HELD', 'reason', 'lost_writes' }
elseif not last or now < last or now - last > max_scan_gap_ms then
  return { 'HELD', 'reason', 'gap' } -- the next scan will begin a hold
elseif (tonumber(d.hold_until_ms) or 0) > now then
  return { 'HELD', 'reason', d.hold_reason or '' }
end
local score = tonumber(redis.call('ZSCORE', instances, id) or nil)
if not score or score ~= deadline_ms or score > now then
  return { 'ALIVE' }
end
bury(instance, instances, graves, events, id, now, cause, by, 'deadline passed', score,
  score - (tonumber(me.dead_after_ms) or 0))
return { 'OK', 'owned', int(redis.call('SCARD', owned)) }
