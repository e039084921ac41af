-- let_go.lua: the owner hands a session, with its last data, to the heir that accepted; the epoch moves.
--
-- KEYS meta        HASH                      the partition
-- KEYS detector    HASH                      holds
-- KEYS leases      ZSET                      offers and handovers
-- KEYS events      STREAM                    what happened
-- KEYS instance    HASH <instance(instance)> the owner
-- KEYS owned       SET <owned(instance)>     what it owns
-- KEYS heir        HASH <instance(heir)>     the heir
-- KEYS heir_owned  SET <owned(heir)>         what the heir owns
-- KEYS session     HASH <session(session)>   the record
-- KEYS offers      STREAM <offers(pool)>     offers of the session's pool
-- KEYS mailbox     CHANNEL <mailbox(heir)>   the heir's
-- KEYS blamed      ZSET <blamed(instance)>   what the owner owns of sessions that have died with an owner before
-- KEYS heir_blamed ZSET <blamed(heir)>       the same of the heir
-- ARGV server      text             run id of the server of this connection
-- ARGV id          text <session>   session id
-- ARGV owner_id    text <instance>  instance id of the owner
-- ARGV heir_id     text <heir>      instance id of the heir
-- ARGV epoch       int              the epoch that the owner holds
-- ARGV sequence    int=0            number of the last data; 0 when none comes along
-- ARGV data        bytes=b''        recovery data, with a sequence above 0
-- ARGV encoding    text='bytes'     json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- ARGV unserved_ms duration=0       for how long no instance has served it already, by the owner's clock
-- REPLY OK epoch:int
-- REPLY GONE state
-- REPLY CHILDREN left_ms:duration
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY HELD
-- REPLY UNKNOWN
-- RETRY safe: a second call of the same epoch answers OK again.
-- USES now read epoch stream event hold owner refuse entry roll tell children
local meta, detector, leases, events, instance = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owned, heir, heir_owned, session, offers, mailbox = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local blamed, heir_blamed = KEYS[12], KEYS[13]
local server, id, owner_id, heir_id, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local sequence, data, encoding, unserved_ms = tonumber(ARGV[6]), ARGV[7], ARGV[8], tonumber(ARGV[9])

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state', 'roll').state
local refused = refuse(state, nil, held, events, now, 'let_go', id, owner_id, epoch)
if refused then
  return refused
end
local r = read_session(session, 'state', 'owner', 'epoch', 'renewed_from', 'heir', 'heir_request', 'anew', 'checkpoint', 'offer_id',
  'let_go_epoch', 'let_go_by', 'accepted_at', 'lease_until', 'recoveries', 'children', 'child_until')
if r.let_go_by == owner_id and r.let_go_epoch == epoch then
  return { 'OK', 'epoch', r.epoch }
elseif held then
  return { 'HELD' }
end
refused = refuse(state, r, held, events, now, 'let_go', id, owner_id, epoch, 'closed')
if refused then
  return refused
end
if r.state ~= 'handing_over' or r.heir ~= heir_id then
  return { 'GONE', 'state', r.state }
end
if (tonumber(r.lease_until) or 0) < now then
  return { 'GONE', 'state', 'lease' } -- the heir waits no longer: it would have asked again
end
if read_instance(heir, 'state', 'roll').state ~= 'alive' then
  return { 'GONE', 'state', 'heir' } -- the lease will end it, and the owner goes on
end
local left_ms = children_left_ms(session, id, r, now)
if left_ms > 0 then
  return { 'CHILDREN', 'left_ms', int(left_ms) }
end
redis.call('SADD', heir_owned, id)
redis.call('SREM', owned, id)
if (tonumber(r.recoveries) or 0) > 0 then
  redis.call('ZREM', blamed, id)
  redis.call('ZADD', heir_blamed, int(now), id)
end
if sequence > (tonumber(r.checkpoint) or 0) then
  redis.call('HSET', session, 'data', data, 'encoding', encoding, 'updated_at', int(now))
end
local new_epoch = next_epoch(meta, m, r.epoch, epoch, now)
enroll(heir, id, new_epoch)
enroll(instance, id, nil, epoch)
redis.call('HSET', session, 'state', 'active', 'owner', heir_id, 'epoch', new_epoch, 'request', r.heir_request or '',
  'checkpoint', '0', 'previous_owner', owner_id, 'cause', 'handover', 'planned', '1', 'orphaned_at', int(now),
  'served_until', int(now - math.max(0, unserved_ms)), 'evidence_at', int(now), 'adopted_at', int(now), 'heir', '',
  'heir_request', '',
  'lease_holder', '', 'lease_until', '0', 'offer_id', '', 'let_go_by', owner_id, 'let_go_epoch', epoch, 'attempt', '1')
drop_entry(offers, r.offer_id)
redis.call('ZREM', leases, id)
tell(mailbox, 'yours ' .. id)
event(events, 'handed_over', now, 'session', id, 'instance', heir_id, 'previous_owner', owner_id, 'epoch', new_epoch,
  'cause', 'handover', 'handover_ms', int(now - (tonumber(r.accepted_at) or now)))
return { 'OK', 'epoch', new_epoch }
