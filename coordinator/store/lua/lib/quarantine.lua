-- quarantine.lua: the index of what was set aside. A key of another type in its place would keep all else from being set aside, so it
-- is deleted, unless it is itself what is set aside.
local function list(quarantine, now, member)
  local there = redis.call('TYPE', quarantine).ok
  if there ~= 'zset' and there ~= 'none' then
    redis.call('DEL', quarantine)
  end
  redis.call('ZADD', quarantine, int(now), member)
end
