-- withdraw.lua: an heir no longer waits for a handover that it asked for: the owner goes on, or asks another instance.
--
-- KEYS meta     HASH                    the partition
-- KEYS detector HASH                    holds
-- KEYS leases   ZSET                    offers and handovers
-- KEYS events   STREAM                  what happened
-- KEYS session  HASH <session(session)> the record
-- KEYS offers   STREAM <offers(pool)>   offers of the session's pool
-- ARGV server   text                    run id of the server of this connection
-- ARGV id       text <session>          session id
-- ARGV heir_id  text <instance>         instance id of the heir
-- ARGV request  text                    request id with which it asked
-- REPLY OK
-- REPLY YOURS
-- REPLY GONE state
-- RETRY safe: the second call finds nothing of it left and answers GONE.
-- USES now read stream event hold entry
local meta, detector, leases, events, session, offers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local server, id, heir_id, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local now = now_ms()
guard(meta, detector, events, now, server)
local r = read_session(session, 'state', 'owner', 'heir', 'heir_request', 'request', 'offer_id')
if r.state == 'active' and r.owner == heir_id and r.request == request then
  return { 'YOURS' } -- its owner has let go: adopt it
end
if r.state ~= 'handing_over' or r.heir ~= heir_id or r.heir_request ~= request then
  return { 'GONE', 'state', r.state or '' }
end
redis.call('HSET', session, 'state', 'active', 'heir', '', 'heir_request', '', 'offer_id', '', 'lease_holder', '',
  'lease_until', '0')
drop_entry(offers, r.offer_id)
redis.call('ZREM', leases, id)
event(events, 'returned', now, 'session', id, 'instance', r.owner or '', 'outcome', 'withdrawn')
return { 'OK' }
