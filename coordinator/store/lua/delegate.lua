-- delegate.lua: a worker leaves an offer adoptable by id: its caller will come back to some door.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS leases   ZSET                      offers and handovers
-- KEYS events   STREAM                    what happened
-- KEYS instance HASH <instance(instance)> the instance that delegates
-- KEYS session  HASH <session(session)>   the record
-- KEYS offers   STREAM <offers(pool)>     offers of the pool
-- ARGV server   text             run id of the server of this connection
-- ARGV id       text <session>   session id
-- ARGV by       text <instance>  instance id
-- ARGV epoch    int              epoch of the offer
-- ARGV lease_ms duration         how long it waits to be adopted by id before it is offered again
-- REPLY OK
-- REPLY GONE
-- REPLY FENCED cause
-- RETRY safe: a second call extends the lease.
-- USES now read stream event hold entry
local meta, detector, leases, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local instance, session, offers = KEYS[5], KEYS[6], KEYS[7]
local server, id, by, epoch, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local now = now_ms()
guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
local r = read_session(session, 'state', 'epoch', 'offer_id')
if r.state ~= 'offered' or r.epoch ~= epoch then
  return { 'GONE' }
end
redis.call('HSET', session, 'offer_id', '', 'lease_holder', by, 'lease_until', int(now + lease_ms))
redis.call('ZADD', leases, int(now + lease_ms), id)
drop_entry(offers, r.offer_id)
if (r.offer_id or '') ~= '' then
  event(events, 'delegated', now, 'session', id, 'instance', by, 'epoch', epoch)
end
return { 'OK' }
