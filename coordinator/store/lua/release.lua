-- release.lua: the owner gives up one session that it cannot serve, with its last data; it is offered at once.
--
-- KEYS meta               HASH                      the partition
-- KEYS detector           HASH                      holds
-- KEYS leases             ZSET                      offers and handovers
-- KEYS orphans            ZSET                      sessions without an owner
-- KEYS dead_letters       ZSET                      sessions given up on
-- KEYS events             STREAM                    what happened
-- KEYS instance           HASH <instance(instance)> the owner
-- KEYS owned              SET <owned(instance)>     what it owns
-- KEYS session            HASH <session(session)>   the record
-- KEYS offers             STREAM <offers(pool)>     offers of the session's pool
-- KEYS blamed             ZSET <blamed(instance)>   what it owns of sessions that have died with an owner before
-- ARGV server             text              run id of the server of this connection
-- ARGV id                 text <session>    session id
-- ARGV owner              text <instance>   instance id
-- ARGV epoch              int               the epoch that the owner holds
-- ARGV request            text              request id
-- ARGV reason             reason            why
-- ARGV cause              text              released; left when the whole instance goes; returned when it was just adopted and cannot be served there
-- ARGV counts             flag=1            1 when that is a recovery, as the call may be to blame; 0 when it went through no fault of the call
-- ARGV unserved_ms        duration=0        for how long no instance has served it already, by the owner's clock
-- ARGV sequence           int=0             number of the last data; 0 when none comes along
-- ARGV data               bytes=b''         recovery data, with a sequence above 0
-- ARGV encoding           text='bytes'      json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- ARGV lease_ms           duration          length of the lease
-- ARGV max_recoveries     int               orphaned more often than this within the window: dead letter
-- ARGV recovery_window_ms duration
-- ARGV inline_bytes       int=INLINE_BYTES  data up to this size travels in the offer
-- ARGV dead_letter_ttl_ms duration=DEAD_LETTER_TTL
-- REPLY OK epoch:int
-- REPLY DEAD_LETTERED reason
-- REPLY CHILDREN left_ms:duration
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY HELD
-- REPLY UNKNOWN
-- RETRY safe: the same request gets the same answer while the offer stands.
-- USES now read epoch stream event hold owner refuse entry offer dead_letter roll tell children
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, instance, owned, session, offers, blamed = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local server, id, owner, epoch, request, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local cause, counts, unserved_ms, sequence, data = ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local encoding, lease_ms, max_recoveries = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[14])
local recovery_window_ms, inline_bytes, dead_letter_ttl_ms = tonumber(ARGV[15]), tonumber(ARGV[16]), ARGV[17]

local RETURNED_MS = 10000
local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state', 'roll').state
local refused = refuse(state, nil, held, events, now, 'release', id, owner, epoch)
if refused then
  return refused
end
local r = read_session(session, 'state', 'requires', 'tenant', 'owner', 'epoch', 'renewed_from', 'pool', 'data', 'encoding', 'checkpoint', 'orphanings', 'offer_id', 'anew',
  'request', 'previous_owner', 'orphaned_at', 'adopted_at', 'children', 'child_until')
if r.request == request and r.previous_owner == owner then
  if r.state == 'offered' then
    return { 'OK', 'epoch', r.epoch }
  elseif r.state == 'dead_lettered' then
    return { 'DEAD_LETTERED', 'reason', 'max_recoveries' }
  end
end
if held then
  return { 'HELD' }
end
refused = refuse(state, r, held, events, now, 'release', id, owner, epoch)
if refused then
  return refused
end
local left_ms = children_left_ms(session, id, r, now)
if left_ms > 0 then
  return { 'CHILDREN', 'left_ms', int(left_ms) }
end
if sequence > (tonumber(r.checkpoint) or 0) then
  redis.call('HSET', session, 'data', data, 'encoding', encoding, 'checkpoint', int(sequence), 'updated_at', int(now))
  r.data, r.encoding = data, encoding
end
local count, times = orphanings(r.orphanings, now, recovery_window_ms, counts == '1')
local orphaned_at, returned = int(now), cause == 'returned'
if returned then
  cause = 'released'
end
if returned and now - (tonumber(r.adopted_at) or 0) < RETURNED_MS then -- no instance has served it since: its age goes on
  orphaned_at = tonumber(r.orphaned_at) and r.orphaned_at or orphaned_at
else
  redis.call('HSET', session, 'served_until', int(now - math.max(0, unserved_ms)), 'evidence_at', int(now), 'held_before_ms',
    int(held_ms(read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms'), now)))
end
r.previous_owner, r.cause, r.orphaned_at = owner, cause, orphaned_at
redis.call('HSET', session, 'orphanings', times, 'recoveries', int(count), 'planned', '0', 'request', request,
  'release_reason', reason)
drop_entry(offers, r.offer_id)
redis.call('SREM', owned, id)
enroll(instance, id, nil, epoch)
redis.call('ZREM', blamed, id)
event(events, 'released', now, 'session', id, 'instance', owner, 'epoch', epoch, 'cause', cause, 'reason', reason)
if counts == '1' and count > max_recoveries then
  redis.call('HSET', session, 'previous_owner', owner, 'cause', cause, 'orphaned_at', int(now))
  dead_letter(meta, m, session, dead_letters, leases, orphans, events, id, now, 'max_recoveries', dead_letter_ttl_ms)
  return { 'DEAD_LETTERED', 'reason', 'max_recoveries' }
end
r.epoch, r.offers = next_epoch(meta, m, r.epoch, epoch, now), '1'
write_offer(session, offers, id, r, now, lease_ms, inline_bytes, owner)
redis.call('ZADD', leases, int(now + lease_ms), id)
redis.call('ZADD', orphans, orphaned_at, id)
event(events, 'orphaned', now, 'instance', owner, 'cause', cause, 'count', '1', 'sessions', id)
return { 'OK', 'epoch', r.epoch }
