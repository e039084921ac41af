-- claim.lua: a coordinator takes a batch of a grave's sessions under leases and offers them, handovers included.
--
-- KEYS meta         HASH    the partition
-- KEYS detector     HASH    holds
-- KEYS graves       ZSET    dead instances that still own sessions
-- KEYS leases       ZSET    offers and handovers
-- KEYS orphans      ZSET    sessions without an owner
-- KEYS dead_letters ZSET    sessions given up on
-- KEYS events       STREAM  what happened
-- KEYS instance     HASH    the dead
-- KEYS owned        SET     what it owned
-- KEYS offers       STREAM  offers of the pool
-- KEYS *session     HASH    the records
-- ARGV server       text    run id of the server of this connection
-- ARGV grave        text    instance id of the dead
-- ARGV pool         text    pool of that stream; sessions of others are named in the answer
-- ARGV holder       text    who holds the leases
-- ARGV lease_ms     int     length of a lease
-- ARGV max_recoveries int   orphaned more often than this within the window: dead letter
-- ARGV recovery_window_ms int
-- ARGV inline_bytes int     data up to this size travels in the offer
-- ARGV dead_letter_ttl_ms int
-- ARGV floor        int     highest epoch that the caller has seen
-- ARGV *id          text    session ids
-- REPLY OK offered dead_lettered skipped other_pools left
-- REPLY HELD
-- REPLY GONE
-- RETRY safe: what was claimed is no longer owned by the grave, and is skipped.
-- USES now read epoch event hold offer dead_letter
local meta, detector, graves, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local events, instance, owned, offers = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local FIRST_KEY = 10
local server, grave, pool, holder, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local max_recoveries, recovery_window_ms, inline_bytes = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local dead_letter_ttl_ms, floor = ARGV[9], ARGV[10]
local FIRST_ARG = 10

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' }
end
local dead = read(instance, 'state', 'cause', 'ended_at', 'evidence_at', 'served_until')
if dead.state ~= 'dead' then
  return { 'GONE' }
end
local until_ms = int(now + lease_ms)
local leased, orphaned, removed, offered, other_pools = {}, {}, {}, {}, {}
local dead_lettered, skipped, handovers = 0, 0, 0
-- First a write that Redis refuses when its memory is full; others look at this grave again if this one stops here.
redis.call('ZADD', graves, int(now + 200), grave)
local held_before = int(held_ms(read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms'), now))
for i = FIRST_KEY + 1, #KEYS do
  local key, id = KEYS[i], ARGV[FIRST_ARG + i - FIRST_KEY]
  local r = read(key, 'state', 'requires', 'owner', 'epoch', 'pool', 'data', 'encoding', 'orphanings', 'offer_id')
  if r.owner ~= grave or (r.state ~= 'active' and r.state ~= 'handing_over') then
    removed[#removed + 1] = id -- closed or moved meanwhile: only the index still names it
    skipped = skipped + 1
  elseif r.pool ~= pool then
    other_pools[#other_pools + 1] = id .. ' ' .. r.pool
  else
    removed[#removed + 1] = id
    drop_entry(offers, r.offer_id)
    handovers = handovers + (r.state == 'handing_over' and 1 or 0)
    local times = tonumber(dead.ended_at) or now
    local count
    count, times = orphanings(r.orphanings, times, recovery_window_ms)
    r.previous_owner, r.cause, r.orphaned_at = grave, dead.cause or '', dead.ended_at
    redis.call('HSET', key, 'orphanings', times, 'recoveries', int(count), 'served_until', dead.served_until or '',
      'evidence_at', dead.evidence_at or '', 'held_before_ms', held_before, 'planned', '0', 'request', '')
    if count > max_recoveries then
      redis.call('HSET', key, 'previous_owner', grave, 'cause', r.cause, 'orphaned_at', r.orphaned_at)
      dead_letter(key, dead_letters, leases, orphans, events, id, now, 'max_recoveries', dead_letter_ttl_ms)
      dead_lettered = dead_lettered + 1
    else
      r.epoch, r.offers = next_epoch(r.epoch, floor, now, m.epoch_floor), '1'
      write_offer(key, offers, id, r, now, lease_ms, inline_bytes, holder)
      leased[#leased + 1], leased[#leased + 2] = until_ms, id
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
return { 'OK', 'offered', int(#offered), 'dead_lettered', int(dead_lettered), 'skipped', int(skipped),
  'other_pools', table.concat(other_pools, '\n'), 'left', int(redis.call('SCARD', owned)) }
