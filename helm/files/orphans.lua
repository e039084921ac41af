-- orphans.lua: what Redis itself knows of calls without an owner, for prometheus-redis-exporter (--script), so that an alert
-- works with no coordinator alive. It writes nothing. For a standalone Redis, or the primary under a Sentinel: on a Cluster
-- one script may not read the slots of several partitions.
--
-- A flat list of names and values, each as redis_script_values{key="<name>:<partition>"}:
--   recovery_orphans            orphans, sessions of graves included
--   recovery_oldest_orphan_age  seconds since the oldest of them lost its owner; 0 without one
--   recovery_expired_heartbeats instances whose deadline passed and whom nobody has declared dead
--   recovery_expired_sessions   sessions that these own: orphans that nobody has noticed
local PREFIX = 'recovery'
local MOST = 1000 -- instances of a kind that are looked at; the rest is counted, and its sessions are not

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}

local function tell(name, partition, value)
  answer[#answer + 1] = name .. ':' .. partition
  answer[#answer + 1] = string.format('%.3f', value)
end

local function owned(key, instances)
  local sum = 0
  for i = 1, math.min(#instances, MOST) do
    sum = sum + redis.call('SCARD', key .. 'owned:' .. instances[i])
  end
  return sum
end

local partitions = tonumber(redis.call('HGET', '{' .. PREFIX .. ':0}:meta', 'partitions') or nil) or 0
for partition = 0, partitions - 1 do
  local key = '{' .. PREFIX .. ':' .. partition .. '}:'
  local graves = redis.call('ZRANGE', key .. 'graves', 0, -1)
  local expired = redis.call('ZRANGEBYSCORE', key .. 'instances', '-inf', '(' .. string.format('%.0f', now))
  local since = now
  local oldest = redis.call('ZRANGE', key .. 'orphans', 0, 0, 'WITHSCORES')
  if oldest[2] then
    since = math.min(since, tonumber(oldest[2]))
  end
  for i = 1, math.min(#graves, MOST) do
    if redis.call('SCARD', key .. 'owned:' .. graves[i]) > 0 then
      since = math.min(since, tonumber(redis.call('HGET', key .. 'instance:' .. graves[i], 'ended_at') or nil) or now)
    end
  end
  tell('recovery_orphans', partition, redis.call('ZCARD', key .. 'orphans') + owned(key, graves))
  tell('recovery_oldest_orphan_age', partition, (now - since) / 1000)
  tell('recovery_expired_heartbeats', partition, #expired)
  tell('recovery_expired_sessions', partition, owned(key, expired))
end
return answer
