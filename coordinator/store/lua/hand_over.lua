-- hand_over.lua: an owner that drains offers a session and goes on serving it; an heir accepts with ask, then the owner lets go.
--
-- KEYS meta         HASH                      the partition
-- KEYS detector     HASH                      holds
-- KEYS leases       ZSET                      offers and handovers
-- KEYS events       STREAM                    what happened
-- KEYS instance     HASH <instance(instance)> the owner
-- KEYS session      HASH <session(session)>   the record
-- KEYS offers       STREAM <offers(pool)>     offers of the session's pool
-- ARGV server       text              run id of the server of this connection
-- ARGV id           text <session>    session id
-- ARGV owner        text <instance>   instance id
-- ARGV epoch        int               the epoch that the owner holds, and goes on holding
-- ARGV lease_ms     duration          how long the offer stands; then the owner goes on
-- ARGV inline_bytes int=INLINE_BYTES  data up to this size travels in the offer
-- REPLY OK heir
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY HELD
-- REPLY UNKNOWN
-- RETRY safe: an offer that stands is not written again.
-- USES now read stream event hold owner refuse offer
local meta, detector, leases, events, instance = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local session, offers = KEYS[6], KEYS[7]
local server, id, owner, epoch, lease_ms, inline_bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])

local now = now_ms()
local _, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state').state
local refused = refuse(state, nil, held, events, now, 'hand_over', id, owner, epoch)
if refused then
  return refused
end
if held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'owner', 'epoch', 'renewed_from', 'pool', 'data', 'encoding', 'anew', 'heir', 'offer_id', 'requires', 'tenant')
refused = refuse(state, r, held, events, now, 'hand_over', id, owner, epoch)
if refused then
  return refused
end
if r.state == 'handing_over' then
  return { 'OK', 'heir', r.heir or '' }
end
redis.call('ZADD', leases, int(now + lease_ms), id)
r.offers, r.cause, r.previous_owner, r.orphaned_at = '1', 'handover', owner, int(now)
r.restarted_since = redis.call('HGET', meta, 'rollout_since_ms')
local offer_id = write_entry(offers, id, r, now, inline_bytes)
redis.call('HSET', session, 'state', 'handing_over', 'heir', '', 'heir_request', '', 'offer_id', offer_id,
  'lease_holder', owner, 'lease_until', int(now + lease_ms))
return { 'OK', 'heir', '' }
