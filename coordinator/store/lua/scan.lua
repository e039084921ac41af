-- scan.lua: a coordinator's look at the partition: who is silent, which graves and leases are due. Declares nobody.
--
-- KEYS meta            HASH    the partition
-- KEYS detector        HASH    the last scan, holds
-- KEYS instances       ZSET    heartbeats
-- KEYS graves          ZSET    dead instances that still own sessions
-- KEYS leases          ZSET    offers and handovers
-- KEYS events          STREAM  what happened
-- ARGV server          text    run id of the server of this connection
-- ARGV max_scan_gap_ms int     a longer gap between scans means that somebody paused: hold
-- ARGV hold_ms         int     length of that hold
-- ARGV horizon_ms      int     deadlines this near make a suspect
-- ARGV limit           int     most of each kind
-- ARGV due_ms          int     deadlines this near may be declared: 0, or more where a lost connection counts
-- ARGV breaker_min     int     so many suspects at least open the mass breaker
-- ARGV breaker_permille int    or this share of all instances, if that is more
-- ARGV breaker_window_ms int   deaths by silence within this time count with them
-- REPLY OK now_ms reason hold_until_ms transfers_held next_ms lineage suspects graves leases breaker_since_ms
-- REPLY HELD now_ms reason hold_until_ms transfers_held next_ms lineage suspects graves leases breaker_since_ms
-- REPLY UNKNOWN
-- RETRY safe: it reads, and keeps the time of the last look.
-- USES now read event hold breaker
local meta, detector, instances, graves, leases, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local server, max_scan_gap_ms, hold_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local horizon_ms, limit, due_ms = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local breaker_min, breaker_permille, breaker_window_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local now = now_ms()
if redis.call('HEXISTS', meta, 'lineage') == 0 then
  return { 'UNKNOWN' } -- init first
end
local d = read(detector, 'last_scan_ms', 'hold_started_ms', 'hold_until_ms', 'hold_reason', 'held_total_ms')
-- The first write is one that Redis refuses when its memory is full, so that detection freezes together with the beats.
redis.call('HSET', detector, 'last_scan_ms', int(now))
local m, transfers_held = guard(meta, detector, events, now, server)
local last = tonumber(d.last_scan_ms)
local reason
if not last then
  reason = 'start'
elseif now < last then
  reason = 'clock'
elseif now - last > max_scan_gap_ms then
  reason = 'gap'
end
if reason then
  start_hold(detector, events, now, hold_ms, reason, false)
  if reason == 'clock' then -- deadlines of the old clock lie too far ahead
    for _, zset in ipairs({ instances, graves, leases }) do
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', zset, '(' .. int(now + hold_ms), '+inf')) do
        redis.call('ZADD', zset, int(now + hold_ms), member)
      end
    end
  end
end
d = read(detector, 'hold_started_ms', 'hold_until_ms', 'hold_reason', 'held_total_ms')
local ends = tonumber(d.hold_until_ms) or 0
if ends > now + 2 * math.max(hold_ms, tonumber(m.hold_ms) or 0) then
  ends = now + hold_ms
  redis.call('HSET', detector, 'hold_until_ms', int(ends))
end
local held = ends > now
if not held and d.hold_started_ms and d.hold_started_ms ~= '0' then -- it ended: an orphan's age leaves it out
  redis.call('HSET', detector, 'held_total_ms', int(held_ms(d, now)), 'hold_started_ms', '0', 'hold_reason', '')
  d.hold_reason = ''
end

local breaker_since = watch_mass(detector, instances, events, now, horizon_ms, due_ms, breaker_min, breaker_permille,
  breaker_window_ms, held)
local suspects = {}
local silent = redis.call('ZRANGEBYSCORE', instances, '-inf', int(now + horizon_ms), 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #silent, 2 do
  suspects[#suspects + 1] = silent[i] .. ' ' .. int(tonumber(silent[i + 1]))
end
local due_graves, due_leases = {}, {}
if not transfers_held then
  due_graves = redis.call('ZRANGEBYSCORE', graves, '-inf', int(now), 'LIMIT', 0, limit)
  if not held then
    due_leases = redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', 0, limit)
  end
end
local next_ms = held and ends or 0
local coming = redis.call('ZRANGEBYSCORE', instances, '(' .. int(now + horizon_ms), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if coming[2] then -- when the next one becomes a suspect
  local at = tonumber(coming[2]) - horizon_ms
  next_ms = next_ms == 0 and at or math.min(next_ms, at)
end
for _, zset in ipairs({ instances, graves, leases }) do
  local first = redis.call('ZRANGEBYSCORE', zset, '(' .. int(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local at = tonumber(first[2])
  if at and (next_ms == 0 or at < next_ms) then
    next_ms = at
  end
end
return { held and 'HELD' or 'OK', 'now_ms', int(now), 'reason', d.hold_reason or '', 'hold_until_ms', int(ends),
  'transfers_held', transfers_held and '1' or '0', 'next_ms', int(next_ms), 'lineage', m.lineage,
  'suspects', table.concat(suspects, '\n'), 'graves', table.concat(due_graves, '\n'),
  'leases', table.concat(due_leases, '\n'), 'breaker_since_ms', int(breaker_since) }
