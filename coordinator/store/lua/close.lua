-- close.lua: the owner closes the session when its call has ended; the recovery data is deleted at once.
--
-- KEYS meta          HASH                      the partition
-- KEYS detector      HASH                      holds
-- KEYS leases        ZSET                      offers and handovers
-- KEYS orphans       ZSET                      sessions without an owner
-- KEYS events        STREAM                    what happened
-- KEYS instance      HASH <instance(instance)> the writer
-- KEYS owned         SET <owned(instance)>     what it owns
-- KEYS session       HASH <session(session)>   the record
-- KEYS offers        STREAM <offers(pool)>     offers of the session's pool
-- KEYS blamed        ZSET <blamed(instance)>   what it owns of sessions that have died with an owner before
-- ARGV server        text             run id of the server of this connection
-- ARGV id            text <session>   session id
-- ARGV owner         text <instance>  instance id
-- ARGV epoch         int              the epoch that the writer holds
-- ARGV closed_ttl_ms duration         how long the closed record stays
-- REPLY OK
-- REPLY CHILDREN left_ms:duration
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: a closed record of the same owner and epoch answers OK.
-- USES now read stream event hold owner refuse entry roll tell children
local meta, detector, leases, orphans, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local instance, owned, session, offers, blamed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local server, id, owner, epoch, closed_ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state', 'roll').state
local refused = refuse(state, nil, held, events, now, 'close', id, owner, epoch)
if refused then
  return refused
end
local r = read_session(session, 'state', 'owner', 'epoch', 'renewed_from', 'anew', 'offer_id', 'opened_at', 'children', 'child_until')
refused = refuse(state, r, held, events, now, 'close', id, owner, epoch, 'closed')
if refused then
  return refused
end
if r.state == 'closed' then
  return { 'OK' }
end
local left_ms = children_left_ms(session, id, r, now)
if left_ms > 0 then
  return { 'CHILDREN', 'left_ms', int(left_ms) }
end
redis.call('HSET', session, 'state', 'closed', 'closed_at', int(now), 'offer_id', '', 'heir', '',
  'lease_holder', '', 'lease_until', '0')
redis.call('HDEL', session, 'data')
redis.call('PEXPIRE', session, closed_ttl_ms)
raise_floor(meta, m, r.epoch) -- from now on the record may be forgotten
drop_entry(offers, r.offer_id)
redis.call('SREM', owned, id)
enroll(instance, id, nil, epoch)
redis.call('ZREM', blamed, id)
redis.call('ZREM', leases, id)
redis.call('ZREM', orphans, id)
event(events, 'closed', now, 'session', id, 'instance', owner, 'epoch', epoch,
  'session_ms', int(math.max(0, now - (tonumber(r.opened_at) or now))))
return { 'OK' }
