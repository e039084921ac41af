-- adopt.lua: a worker becomes the owner of an orphan.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS leases   ZSET                      offers and handovers
-- KEYS orphans  ZSET                      sessions without an owner
-- KEYS events   STREAM                    what happened
-- KEYS instance HASH <instance(instance)> the adopter
-- KEYS owned    SET <owned(instance)>     what it owns
-- KEYS session  HASH <session(session)>   the record
-- KEYS offers   STREAM <offers(pool)>     offers of the adopter's pool
-- KEYS blamed   ZSET <blamed(instance)>   what it owns of sessions that have died with an owner before
-- ARGV server   text                      run id of the server of this connection
-- ARGV id       text <session>            session id
-- ARGV owner    text <instance>           instance id of the adopter
-- ARGV request  text                      request id
-- ARGV epoch    int?                      epoch of the offer; '' to adopt by id whatever is offered
-- ARGV floor    int                       highest epoch that the caller has seen
-- ARGV holds    int?=None                 epoch under which the caller holds it already; '' when it does not
-- REPLY OK epoch:int data:bytes encoding previous_owner cause attempt:int orphaned_at_ms:int served_until_ms:int? data_at_ms:int? now_ms:int
-- REPLY OK planned:flag pool tenant requires opened_at_ms:int checkpoint:int existing:flag renewed_from:int
-- REPLY OWNED owner state
-- REPLY FOREIGN
-- REPLY GONE state
-- REPLY DRAINING
-- REPLY HELD
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: the same request of the same instance gets the same epoch again.
-- USES now read epoch stream event hold entry roll again
local meta, detector, leases, orphans, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local instance, owned, session, offers, blamed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local server, id, owner, request, epoch, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local holds = ARGV[7]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'pool', 'tenant')
if me.state == 'dead' then
  event_of_refusal(events, now, 'adopt', id, owner, epoch)
  return { 'FENCED', 'cause', me.cause or '' }
end
if not me.state then
  return { 'UNKNOWN' }
end
if held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'owner', 'epoch', 'pool', 'data', 'encoding', 'checkpoint', 'previous_owner', 'cause', 'offers',
  'attempt', 'orphaned_at', 'served_until', 'evidence_at', 'updated_at', 'planned', 'tenant', 'requires', 'opened_at',
  'request', 'offer_id', 'recoveries', 'renewed_from')
local function adopted(with_epoch, existing)
  return { 'OK', 'epoch', with_epoch, 'data', r.data or '', 'encoding', r.encoding or '',
    'previous_owner', r.previous_owner or '',
    'cause', r.cause or '', 'attempt', r.attempt or '0', 'orphaned_at_ms', r.orphaned_at or '0',
    'served_until_ms', r.served_until or '0', 'data_at_ms', r.updated_at or '0', 'now_ms', int(now),
    'planned', r.planned or '0', 'pool', r.pool or '', 'tenant', r.tenant or '', 'requires', r.requires or '',
    'opened_at_ms', r.opened_at or '0', 'checkpoint', r.checkpoint or '0', 'existing', existing, 'renewed_from', r.renewed_from or '' }
end
if not r.state then
  return { 'GONE', 'state', '' }
end
if (me.tenant or '') ~= '' and (r.tenant or '') ~= me.tenant then
  return { 'FOREIGN' } -- before anything is said of it
end
if r.state == 'active' or r.state == 'handing_over' then
  local renewed = holds ~= '' and r.renewed_from == holds -- the answer to its renewal is on its way
  local known = r.epoch == holds or renewed or r.state ~= 'active' or is_late(request, r.request)
  if r.owner == owner and (r.request == request or (epoch == '' and known)) then
    return adopted(r.epoch, r.request == request and '0' or '1')
  elseif r.owner == owner and epoch == '' then
    r.checkpoint = '0'
    return adopted(take_again(meta, m, instance, session, id, r.epoch, floor, request, now), '1')
  elseif epoch == '' then
    return { 'OWNED', 'owner', r.owner, 'state', r.state }
  end
end
if r.state ~= 'offered' or (epoch ~= '' and r.epoch ~= epoch) or r.pool ~= me.pool then
  return { 'GONE', 'state', r.state }
end
if me.state == 'draining' then
  return { 'DRAINING' }
end
local new_epoch = next_epoch(meta, m, r.epoch, floor, now)
enroll(instance, id, new_epoch) -- first: an invalid roll ends the script before anything has moved
redis.call('SADD', owned, id)
local takeover_ms = now - (tonumber(r.evidence_at) or now)
r.attempt, r.checkpoint, r.planned = r.offers, '0', '0'
redis.call('HSET', session, 'state', 'active', 'owner', owner, 'epoch', new_epoch, 'request', request,
  'adopted_at', int(now), 'checkpoint', '0', 'attempt', r.attempt or '0', 'offers', '0', 'offer_id', '', 'heir', '',
  'lease_holder', '', 'lease_until', '0', 'anew', '0', 'planned', '0')
if (tonumber(r.recoveries) or 0) > 0 then
  redis.call('ZADD', blamed, int(now), id)
end
drop_entry(offers, r.offer_id)
redis.call('ZREM', leases, id)
redis.call('ZREM', orphans, id)
event(events, 'adopted', now, 'session', id, 'instance', owner, 'epoch', new_epoch, 'cause', r.cause or '',
  'previous_owner', r.previous_owner or '', 'takeover_ms', int(math.max(0, takeover_ms)),
  'orphaned_ms', int(math.max(0, now - (tonumber(r.served_until) or tonumber(r.orphaned_at) or now))),
  'data_age_ms', int(math.max(0, now - (tonumber(r.updated_at) or now))))
return adopted(new_epoch, '0')
