-- Writes a session and its place in the active set, or refuses when either key has another type. TYPE answers a table with `ok`.
local function fits(session, active)
  local kind, index = redis.call('TYPE', session).ok, redis.call('TYPE', active).ok
  if index ~= 'none' and index ~= 'set' then
    return { 'CLASH' }
  end
  if kind ~= 'none' and kind ~= 'string' then
    return { 'WRONG' }
  end
  return nil
end

local function write(session, active, id, value, ttl_ms, listed)
  if tonumber(ttl_ms) > 0 then
    redis.call('SET', session, value, 'PX', ttl_ms)
  else
    redis.call('SET', session, value)
  end
  if listed then
    redis.call('SADD', active, id)
  else
    redis.call('SREM', active, id)
  end
end

-- Whether one more session under way is one too many; one that is listed already does not count.
local function full(active, id, listed, limit)
  return listed and limit > 0 and redis.call('SISMEMBER', active, id) == 0 and redis.call('SCARD', active) >= limit
end
