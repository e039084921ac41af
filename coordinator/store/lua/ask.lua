-- ask.lua: an heir asks the living owner to hand the session over: the caller came back to the heir, or it accepts an offer.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS leases   ZSET                      offers and handovers
-- KEYS events   STREAM                    what happened
-- KEYS heir     HASH <instance(instance)> the instance that asks
-- KEYS owner    HASH <instance(owner)>    the owner's instance
-- KEYS session  HASH <session(session)>   the record
-- KEYS mailbox  CHANNEL <mailbox(owner)>  the owner's
-- ARGV server   text             run id of the server of this connection
-- ARGV id       text <session>   session id
-- ARGV heir_id  text <instance>  instance id of the heir
-- ARGV owner_id text <owner>     instance id of the owner as last read
-- ARGV request  text             request id, with which the heir adopts once the owner has let go
-- ARGV lease_ms duration         for how long the heir waits unless it asks again; then the owner goes on
-- REPLY OK left_ms:duration
-- REPLY OWNED owner state
-- REPLY ORPHAN
-- REPLY FOREIGN
-- REPLY GONE state
-- REPLY DRAINING
-- REPLY HELD
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: asks again, and the lease begins anew.
-- USES now read stream event hold tell
local meta, detector, leases, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local heir, owner, session, mailbox = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local server, id, heir_id, owner_id, request, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local now = now_ms()
local _, held = guard(meta, detector, events, now, server)
local me = read_instance(heir, 'state', 'cause', 'pool', 'tenant')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
elseif not me.state then
  return { 'UNKNOWN' }
elseif me.state == 'draining' then
  return { 'DRAINING' }
elseif held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'owner', 'pool', 'heir', 'tenant')
if r.state and (me.tenant or '') ~= '' and (r.tenant or '') ~= me.tenant then
  return { 'FOREIGN' }
end
if (r.state ~= 'active' and r.state ~= 'handing_over') or r.pool ~= me.pool then
  return { 'GONE', 'state', r.state or '' }
end
if r.owner ~= owner_id or r.owner == heir_id or (r.state == 'handing_over' and r.heir and r.heir ~= '' and r.heir ~= heir_id) then
  return { 'OWNED', 'owner', r.owner, 'state', r.state }
end
local keeper = read_instance(owner, 'state', 'drain_until', 'asked')
if keeper.state == 'dead' then
  return { 'ORPHAN' } -- a coordinator will claim it
end
redis.call('ZADD', leases, int(now + lease_ms), id)
redis.call('HSET', session, 'state', 'handing_over', 'heir', heir_id, 'heir_request', request,
  'lease_holder', heir_id, 'lease_until', int(now + lease_ms))
if r.heir ~= heir_id then
  redis.call('HSET', session, 'accepted_at', int(now))
end
redis.call('HINCRBY', owner, 'asked', 1)
tell(mailbox, 'ask ' .. id .. ' ' .. heir_id)
-- When the owner drains, it lets go within this time, busy or not. 0 without a drain, or when its end is not known.
local drains = keeper.state == 'draining' and tonumber(keeper.drain_until) or 0
return { 'OK', 'left_ms', int(math.max(0, drains - now)) }
