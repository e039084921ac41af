-- set_aside_member.lua: takes a member that is not an id, or an entry that cannot be read, out of its index and keeps it with the reason.
--
-- KEYS events     STREAM                   what happened
-- KEYS quarantine ZSET                     what was set aside
-- KEYS kept       HASH <set_aside(member)> the member as it was, and the reason
-- KEYS index      any <index(index)>       a set, a sorted set or a stream
-- ARGV server text                      run id of the server of this connection
-- ARGV member text                      under which name it is kept
-- ARGV raw    bytes                     the member
-- ARGV name   text <index>              the index, for people
-- ARGV ttl_ms duration=DEAD_LETTER_TTL  for how long it is kept
-- ARGV *field bytes <fields>            names and values in turn: of an entry, as it was read
-- REPLY OK
-- REPLY GONE
-- RETRY safe: a second call answers GONE.
-- USES now stream event quarantine
local events, quarantine, kept, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, raw, name, ttl_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST_ARG = 5

local now = now_ms()
local there, score, kind, fault = redis.call('TYPE', index).ok, '', 'member', 'is no id'
if there == 'set' and redis.call('SISMEMBER', index, raw) == 1 then
  redis.call('SREM', index, raw)
elseif there == 'zset' and redis.call('ZSCORE', index, raw) then
  score = redis.call('ZSCORE', index, raw)
  redis.call('ZREM', index, raw)
elseif there == 'stream' then
  redis.pcall('XACK', index, 'workers', raw) -- the group may be missing
  if redis.call('XDEL', index, raw) == 0 then
    return { 'GONE' }
  end
  kind, fault = 'entry', 'does not parse'
else
  return { 'GONE' }
end
list(quarantine, now, member)
redis.call('HSET', kept, 'kind', kind, 'name', name, 'fault', fault, 'at', int(now), 'type', there, 'raw:member', raw,
  'raw:score', score)
for i = FIRST_ARG + 1, #ARGV, 2 do
  redis.call('HSET', kept, 'raw:' .. ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', kept, ttl_ms)
event(events, 'quarantined', now, 'kind', kind, 'name', name, 'fault', fault)
return { 'OK' }
