-- claim.lua: a coordinator takes a batch of a grave's sessions under leases and offers them, handovers included.
--
-- KEYS meta               HASH                     the partition
-- KEYS detector           HASH                     holds
-- KEYS graves             ZSET                     dead instances that still own sessions
-- KEYS leases             ZSET                     offers and handovers
-- KEYS orphans            ZSET                     sessions without an owner
-- KEYS dead_letters       ZSET                     sessions given up on
-- KEYS events             STREAM                   what happened
-- KEYS instance           HASH <instance(grave)>   the dead
-- KEYS owned              SET <owned(grave)>       what it owned
-- KEYS offers             STREAM <offers(pool)>    offers of the pool
-- KEYS blamed             ZSET <blamed(grave)>     what it owned of sessions that have died with an owner before
-- KEYS *session           HASH <session(sessions)> the records
-- ARGV server             text                    run id of the server of this connection
-- ARGV grave              text                    instance id of the dead
-- ARGV pool               text                    pool of that stream; sessions of others are named in the answer
-- ARGV holder             text=''                 the coordinator that holds the leases
-- ARGV lease_ms           duration                length of a lease
-- ARGV max_recoveries     int                     orphaned more often than this within the window: dead letter
-- ARGV recovery_window_ms duration
-- ARGV inline_bytes       int=INLINE_BYTES        data up to this size travels in the offer
-- ARGV dead_letter_ttl_ms duration=DEAD_LETTER_TTL
-- ARGV floor              int=0                   highest epoch that the caller has seen
-- ARGV heirs              int=1                   living instances of the pool that have room
-- ARGV room               int=0                   sessions that these could take together; 0 when it is not known
-- ARGV *id                text[BATCH] <sessions>  session ids
-- REPLY OK offered:int dead_lettered:int skipped:int other_pools:lines children_ms:duration left:int
-- REPLY HELD
-- REPLY GONE
-- RETRY safe: what was claimed is no longer owned by the grave, and is skipped.
-- USES now read epoch stream event hold entry offer dead_letter tell children
local meta, detector, graves, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local events, instance, owned, offers, blamed = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local FIRST_KEY = 11
local server, grave, pool, holder, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local max_recoveries, recovery_window_ms, inline_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local dead_letter_ttl_ms, floor, heirs, room = ARGV[9], ARGV[10], tonumber(ARGV[11]), ARGV[12]
local FIRST_ARG = 12

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' }
end
local dead = read_instance(instance, 'state', 'cause', 'ended_at', 'evidence_at', 'served_until', 'blamed_from_ms', 'convict',
  'apart', 'probation_ms', 'kept_apart', 'died_with')
if dead.state ~= 'dead' then
  return { 'GONE' }
end
local until_ms = int(now + lease_ms)
local apart, probation_ms = tonumber(dead.apart) or 0, tonumber(dead.probation_ms) or 0
local kept_apart = tonumber(dead.kept_apart) or 0
-- When several sessions may have killed it, the first few are offered now and the others in turn: see blame.py.
local function turn(blamed_here)
  if not blamed_here or apart == 0 then
    return 0
  end
  kept_apart = kept_apart + 1
  return math.floor((kept_apart - 1) / (apart * math.max(1, heirs))) * probation_ms
end
local died_with = dead.died_with or int(redis.call('SCARD', owned))
local leased, orphaned, removed, offered, other_pools = {}, {}, {}, {}, {}
local dead_lettered, skipped, handovers, children_ms = 0, 0, 0, 0
local held_before = int(held_ms(read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms'), now))
local records = {} -- all are read before the first write: a broken one is set aside, and does not stop this half way
for i = FIRST_KEY + 1, #KEYS do
  records[i] = read_session(KEYS[i], 'state', 'requires', 'tenant', 'owner', 'epoch', 'pool', 'data', 'encoding', 'orphanings', 'offer_id', 'children',
    'child_until')
end
-- The first write is one that Redis refuses when its memory is full. Other coordinators look at this grave again if this one stops here.
redis.call('ZADD', graves, int(now + 200), grave)
for i = FIRST_KEY + 1, #KEYS do
  local key, id, r = KEYS[i], ARGV[FIRST_ARG + i - FIRST_KEY], records[i]
  local left_ms
  if r.owner ~= grave or (r.state ~= 'active' and r.state ~= 'handing_over') then
    removed[#removed + 1] = id -- it was closed or moved meanwhile: only the index still names it
    skipped = skipped + 1
  elseif r.pool ~= pool then
    other_pools[#other_pools + 1] = id .. ' ' .. r.pool
  else
    left_ms = children_left_ms(key, id, r, now)
  end
  if left_ms and left_ms > 0 then
    children_ms = math.max(children_ms, left_ms) -- a child of the dead believes until then
  elseif left_ms then
    removed[#removed + 1] = id
    drop_entry(offers, r.offer_id)
    handovers = handovers + (r.state == 'handing_over' and 1 or 0)
    local times = tonumber(dead.ended_at) or now
    local count
    local blamed_here = true
    if dead.apart then -- the death was judged: of the sessions that died before, those that the verdict names are blamed
      local got_at = tonumber(redis.call('ZSCORE', blamed, id) or nil)
      blamed_here = got_at ~= nil and got_at >= (tonumber(dead.blamed_from_ms) or 0)
    end
    count, times = orphanings(r.orphanings, times, recovery_window_ms, blamed_here)
    r.previous_owner, r.cause, r.orphaned_at = grave, dead.cause or '', dead.ended_at or int(now)
    redis.call('HSET', key, 'orphanings', times, 'recoveries', int(count), 'served_until', dead.served_until or '',
      'evidence_at', dead.evidence_at or '', 'held_before_ms', held_before, 'planned', '0', 'request', '')
    if count > max_recoveries and (not dead.apart or dead.convict == id or max_recoveries == 0) then
      redis.call('HSET', key, 'previous_owner', grave, 'cause', r.cause, 'orphaned_at', r.orphaned_at)
      dead_letter(meta, m, key, dead_letters, leases, orphans, events, id, now, 'max_recoveries', dead_letter_ttl_ms)
      dead_lettered = dead_lettered + 1
    else
      r.epoch, r.offers = next_epoch(meta, m, r.epoch, floor, now), '1'
      r.room, r.died_with = room, died_with
      r.apart, r.probation_ms = blamed_here and dead.apart or '0', dead.probation_ms or '0'
      local waits = turn(blamed_here)
      redis.call('HSET', key, 'apart', r.apart, 'probation_ms', r.probation_ms)
      write_offer(key, offers, id, r, now, waits > 0 and waits or lease_ms, inline_bytes, holder, waits > 0)
      leased[#leased + 1], leased[#leased + 2] = waits > 0 and int(now + waits) or until_ms, id
      orphaned[#orphaned + 1], orphaned[#orphaned + 2] = r.orphaned_at, id
      offered[#offered + 1] = id
    end
  end
end
if #offered > 0 then
  redis.call('ZADD', leases, unpack(leased))
  redis.call('ZADD', orphans, unpack(orphaned))
  event(events, 'orphaned', now, 'instance', grave, 'cause', dead.cause or '', 'count', int(#offered),
    'handovers', int(handovers),
    'sessions', table.concat(offered, '\n'))
end
if #removed > 0 then
  redis.call('SREM', owned, unpack(removed))
end
redis.call('HSET', instance, 'kept_apart', int(kept_apart), 'died_with', died_with)
return { 'OK', 'offered', int(#offered), 'dead_lettered', int(dead_lettered), 'skipped', int(skipped),
  'other_pools', table.concat(other_pools, '\n'), 'children_ms', int(children_ms), 'left', int(redis.call('SCARD', owned)) }
