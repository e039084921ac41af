-- epoch.lua: the next fencing token of a session. A plain counter repeats after a failover that lost writes,
-- so the clock, the caller's memory and the partition's floor all push it up.
local function next_epoch(stored, seen, now, floor)
  return int(math.max(
    (tonumber(stored) or 0) + 1,
    (tonumber(seen) or 0) + 1,
    now,
    (tonumber(floor) or 0) + 1
  ))
end
