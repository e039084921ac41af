-- scan.lua: a coordinator looks at the partition: which instances are silent, which graves and leases are due. It declares no death.
--
-- KEYS meta              HASH                the partition
-- KEYS detector          HASH                the last scan, holds
-- KEYS instances         ZSET                heartbeats
-- KEYS graves            ZSET                dead instances that still own sessions
-- KEYS leases            ZSET                offers and handovers
-- KEYS events            STREAM              what happened
-- ARGV server            text                 run id of the server of this connection
-- ARGV max_scan_gap_ms   duration             a longer gap between scans means that a coordinator or the server paused: hold
-- ARGV hold_ms           duration             length of that hold
-- ARGV horizon_ms        duration             deadlines this near make a suspect
-- ARGV limit             int=BATCH            most graves and leases
-- ARGV most_suspects     int=MOST_SUSPECTS    most suspects; the caller reads the others page by page
-- ARGV seen_ms           int=0                time of one of the caller's looks, by this clock, after which the clock stepped forward
-- ARGV stepped_ms        duration=0           by so much, as the caller's own clock says; 0 when it did not
-- ARGV due_ms            duration=0           deadlines this near may be declared: 0, or more where a lost connection counts
-- ARGV breaker_min       int=3                so many suspects at least open the mass breaker
-- ARGV breaker_permille  share=0.3            or this share of all instances, if that is more
-- ARGV breaker_window_ms duration=2           deaths by silence within this time count with them
-- ARGV another_primary   flag=0               1 while the Sentinels see another server that takes itself for the primary, 0 else
-- ARGV lineage           text <past.lineage>  the one that the caller knew before; '' for none
-- ARGV since_ms          int <past.since_ms>  since when it knew that one, by the server's clock of then
-- ARGV epoch             int <past.epoch>     highest epoch that it remembers
-- REPLY OK now_ms:int reason hold_until_ms:int transfers_held:flag next_ms:int lineage suspects:lines graves:lines leases:lines breaker_since_ms:int highest_epoch:int
-- REPLY HELD now_ms:int reason hold_until_ms:int transfers_held:flag next_ms:int lineage suspects:lines graves:lines leases:lines breaker_since_ms:int highest_epoch:int
-- REPLY UNKNOWN
-- RETRY safe: it reads, and keeps the time of the last look.
-- USES now read stream event hold breaker
local meta, detector, instances, graves, leases, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local server, max_scan_gap_ms, hold_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local horizon_ms, limit, most_suspects, seen_ms = tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local stepped_ms, due_ms, breaker_min = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local breaker_permille, breaker_window_ms = tonumber(ARGV[11]), tonumber(ARGV[12])
local another_primary, lineage, since_ms, epoch = ARGV[13] == '1', ARGV[14], ARGV[15], ARGV[16]

local MOST_LATE_LOOKS, LOOKS_IN_TIME, CLOCK_TOLERANCE_MS = 5, 3, 100
local now = now_ms()
if redis.call('HEXISTS', meta, 'lineage') == 0 then
  return { 'UNKNOWN' } -- init first
end
local d = read_detector(detector, 'last_scan_ms', 'hold_started_ms', 'hold_until_ms', 'hold_reason', 'held_total_ms', 'late_looks',
  'looks_in_time', 'stepped_at_ms')
-- The first write is one that Redis refuses when its memory is full, so that detection freezes together with the beats.
redis.call('HSET', detector, 'last_scan_ms', int(now))
local m, transfers_held = guard(meta, detector, events, now, server, lineage, since_ms, epoch)
local last = tonumber(d.last_scan_ms)
local reason
if not last then
  reason = 'start'
elseif now < last - CLOCK_TOLERANCE_MS then -- a smaller step moves deadlines by as much and does no other harm
  reason = 'clock'
elseif now - last > max_scan_gap_ms then
  reason = 'gap'
end
if reason == 'clock' then
  redis.call('HDEL', detector, 'stepped_at_ms') -- a time by the old clock says nothing any more
elseif stepped_ms > 0 and seen_ms >= (tonumber(d.stepped_at_ms) or 0) then -- the first coordinator that saw it tells
  redis.call('HINCRBY', detector, 'held_total_ms', int(stepped_ms)) -- that time did not pass, so no orphan ages by it
  redis.call('HSET', detector, 'stepped_at_ms', int(now))
  if (tonumber(d.hold_until_ms) or 0) <= now then
    reason = 'clock'
  elseif d.hold_reason == 'gap' then -- the caller's look went out before it knew
    redis.call('HSET', detector, 'hold_reason', 'clock')
  end
end
-- When looks come late again and again, no hold helps. One look in time between two late ones changes nothing: only looks
-- outside a hold have work to do, and may last long.
local late_looks = tonumber(d.late_looks) or 0
if late_looks > 0 and (reason or (tonumber(d.hold_until_ms) or 0) <= now) then
  local in_time = reason and 0 or (tonumber(d.looks_in_time) or 0) + 1
  if in_time >= LOOKS_IN_TIME then
    late_looks = 0
  end
  redis.call('HSET', detector, 'looks_in_time', int(in_time), 'late_looks', int(late_looks))
end
if reason and late_looks < MOST_LATE_LOOKS then
  redis.call('HSET', detector, 'late_looks', int(late_looks + 1))
  start_hold(detector, events, now, hold_ms, reason, false)
end
if another_primary then -- instances may still beat there
  d = read(detector, 'hold_until_ms', 'hold_reason')
  local until_ms = tonumber(d.hold_until_ms) or 0
  if until_ms > now and d.hold_reason == 'another_primary' then
    redis.call('HSET', detector, 'hold_until_ms', int(now + hold_ms))
  elseif until_ms < now + hold_ms / 2 then
    start_hold(detector, events, now, hold_ms, 'another_primary', false)
  end
end
if last and now < last - CLOCK_TOLERANCE_MS then -- deadlines of the old clock lie too far ahead
  for _, zset in ipairs({ instances, graves, leases }) do
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', zset, '(' .. int(now + hold_ms), '+inf')) do
      redis.call('ZADD', zset, int(now + hold_ms), member)
    end
  end
end
d = read(detector, 'hold_started_ms', 'hold_until_ms', 'hold_reason', 'held_total_ms')
local ends = tonumber(d.hold_until_ms) or 0
if ends > now + 2 * math.max(hold_ms, hold_length_ms(m)) then
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
local silent = redis.call('ZRANGEBYSCORE', instances, '-inf', int(now + horizon_ms), 'WITHSCORES', 'LIMIT', 0,
  most_suspects)
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
  'leases', table.concat(due_leases, '\n'), 'breaker_since_ms', int(breaker_since),
  'highest_epoch', int(highest_given(m, now)) }
