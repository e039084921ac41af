-- drain.lua: an instance takes nothing new from now on, and hands over what it owns.
--
-- KEYS meta       HASH                        the partition
-- KEYS detector   HASH                        holds
-- KEYS events     STREAM                      what happened
-- KEYS instance   HASH <instance(instance)>   the instance that drains
-- KEYS owned      SET <owned(instance)>       what it owns
-- KEYS mailbox    CHANNEL <mailbox(instance)> it is told there
-- ARGV server     text             run id of the server of this connection
-- ARGV id         text <instance>  instance id
-- ARGV by         text             the program or person that says so
-- ARGV reason     reason           why
-- ARGV timeout_ms duration=0       after so long the rest is offered as orphans; 0 when only the instance itself knows
-- REPLY OK owned:int
-- REPLY ALREADY owned:int
-- REPLY GONE
-- RETRY safe: a second call answers ALREADY.
-- USES now read stream event hold tell
local meta, detector, events, instance, owned, mailbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local ROLLOUT_GAP_MS = 600000
local server, id, by, reason, timeout_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local now = now_ms()
guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state')
if not me.state or me.state == 'dead' then
  return { 'GONE' }
end
local left = int(redis.call('SCARD', owned))
if timeout_ms > 0 then
  redis.call('HSET', instance, 'drain_until', int(now + timeout_ms))
end
if me.state == 'draining' then
  return { 'ALREADY', 'owned', left }
end
-- Drains that follow each other are one rollout. It does not restart again an instance that was started since it began.
local m = read(meta, 'rollout_since_ms', 'last_drain_ms')
local last = tonumber(m.last_drain_ms) or 0
redis.call('HSET', meta, 'last_drain_ms', int(now))
if now - last > ROLLOUT_GAP_MS or last > now then
  redis.call('HSET', meta, 'rollout_since_ms', int(now))
end
redis.call('HSET', instance, 'state', 'draining', 'draining_since', int(now), 'drain_reason', reason)
tell(mailbox, 'drain ' .. id)
event(events, 'draining', now, 'instance', id, 'by', by, 'reason', reason, 'sessions', left)
return { 'OK', 'owned', left }
