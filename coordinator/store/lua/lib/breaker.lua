-- breaker.lua: when many instances fall silent at once, a shared cause is more likely than many deaths. Then silence and lost
-- connections are confirmed for a while before they count; certificates do not wait.

-- Counts a death by silence, in two buckets of one window each.
local function count_silent_death(detector, now, window_ms)
  local d = read(detector, 'silent_since_ms', 'silent_now', 'silent_before')
  local since, current = tonumber(d.silent_since_ms) or 0, tonumber(d.silent_now) or 0
  if now - since >= window_ms or since > now then
    local before = now - since < 2 * window_ms and current or 0
    redis.call('HSET', detector, 'silent_since_ms', int(now), 'silent_now', '1', 'silent_before', int(before))
  else
    redis.call('HSET', detector, 'silent_now', int(current + 1))
  end
end

-- A count above any possible number of instances is damage, and counts as 0.
local function counted(value)
  local count = tonumber(value or nil) or 0
  return count >= 0 and count < 1000000 and count or 0
end

local function silent_deaths(d, now, window_ms)
  local since = tonumber(d.silent_since_ms) or 0
  if since > now or now - since >= 2 * window_ms then
    return 0
  end
  local current, before = counted(d.silent_now), counted(d.silent_before)
  return now - since < window_ms and current + before or current
end

-- Since when the breaker is open, 0 while it is closed. It opens when an instance could be declared dead and too many are
-- suspects or fell silent just now. It closes when no suspect is left.
local function watch_mass(detector, instances, events, now, horizon_ms, due_ms, min, permille, window_ms, held)
  local d = read(detector, 'breaker_since_ms', 'silent_since_ms', 'silent_now', 'silent_before')
  local since = tonumber(d.breaker_since_ms) or 0
  local suspects = redis.call('ZCOUNT', instances, '-inf', int(now + horizon_ms))
  if since > 0 then
    if suspects > 0 and since <= now then
      return since
    end
    redis.call('HSET', detector, 'breaker_since_ms', '0')
    return 0
  end
  if held or redis.call('ZCOUNT', instances, '-inf', int(now + due_ms)) == 0 then
    return 0
  end
  local recent = silent_deaths(d, now, window_ms)
  local all = redis.call('ZCARD', instances) + recent
  if (suspects + recent) * 1000 < math.max(min * 1000, permille * all) then
    return 0
  end
  redis.call('HSET', detector, 'breaker_since_ms', int(now))
  event(events, 'hold', now, 'reason', 'breaker', 'suspects', int(suspects), 'instances', int(all))
  return now
end
