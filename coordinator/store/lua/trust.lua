-- trust.lua: tells a process that writes on its parent's behalf how long the owner of the session may still be relied on.
-- It permits the child to believe for a short time. The owner waits it out before it gives the session away.
--
-- KEYS instances ZSET                      heartbeats
-- KEYS instance  HASH <instance(instance)> the owner
-- KEYS session   HASH <session(session)>   the record
-- KEYS mailbox   CHANNEL <mailbox(child)>  the child's: it is told there to stop
-- ARGV server    text             run id of the server of this connection
-- ARGV owner     text <instance>  instance id
-- ARGV epoch     int              the epoch that is held
-- ARGV belief_ms duration         for how long the child will believe this answer
-- REPLY OK remaining_ms:duration dead_after_ms:duration
-- REPLY STOP
-- REPLY FENCED
-- RETRY safe: a second call permits it again.
-- USES now read owner tell children
local instances, instance, session, mailbox = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owner, epoch, belief_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])

local now = now_ms()
local me = read_instance(instance, 'state', 'dead_after_ms')
local r = read_session(session, 'state', 'owner', 'epoch', 'children', 'child_until', 'children_stop_until',
  'children_stop_epoch')
if objection(me.state, r, owner, epoch) then
  return { 'FENCED' }
end
local stopped = r.children_stop_epoch == epoch and tonumber(r.children_stop_until) or 0
if stopped > now and stopped <= now + CHILDREN_PAUSE_MS then
  return { 'STOP' } -- the owner is about to give it away; if that comes to nothing it is permitted again
end
local deadline = tonumber(redis.call('ZSCORE', instances, owner) or 0)
local last = tonumber(r.child_until) or 0
local known = last > now and r.children or '' -- children whose time is over are forgotten
if not string.find(' ' .. known .. ' ', ' ' .. mailbox .. ' ', 1, true) then
  known = known == '' and mailbox or known .. ' ' .. mailbox
end
local till = now + math.min(belief_ms, MOST_BELIEF_MS)
if last > till and last <= now + MOST_BELIEF_MS then
  till = last
end
redis.call('HSET', session, 'children', known, 'child_until', int(till))
return { 'OK', 'remaining_ms', int(math.max(0, deadline - now)), 'dead_after_ms', me.dead_after_ms or '0' }
