-- age.lua: how old an orphan is. Holds do not count (hold.lua), nor does time long after the last look, as the clock may have stepped.
local AGES_BEYOND_LOOK_MS = 5000
local function age_ms(detector, orphaned_at, held_before, now)
  local d = read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms', 'last_scan_ms')
  local seen = math.min(now, (tonumber(d.last_scan_ms) or now) + AGES_BEYOND_LOOK_MS)
  local held = math.max(0, held_ms(d, seen) - (tonumber(held_before) or 0))
  return seen - (tonumber(orphaned_at) or now) - held
end
