-- settle.lua: a grave ends when no session is left in it; the record that refuses the dead stays for a while.
--
-- KEYS graves        ZSET                   dead instances that still own sessions
-- KEYS instance      HASH <instance(grave)> the dead
-- KEYS owned         SET <owned(grave)>     what it owned
-- KEYS blamed        ZSET <blamed(grave)>   what it owned of sessions that have died with an owner before
-- ARGV server        text      run id of the server of this connection
-- ARGV grave         text      instance id of the dead
-- ARGV fenced_ttl_ms duration  how long its id goes on being refused
-- REPLY OK
-- REPLY LEFT left:int
-- REPLY GONE
-- RETRY safe: the second call answers GONE.
-- USES now
local graves, instance, owned, blamed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local grave, fenced_ttl_ms = ARGV[2], ARGV[3]

local left = redis.call('SCARD', owned)
if left > 0 then
  return { 'LEFT', 'left', int(left) }
end
if redis.call('ZREM', graves, grave) == 0 then
  return { 'GONE' }
end
redis.call('PEXPIRE', instance, fenced_ttl_ms)
redis.call('DEL', blamed)
return { 'OK' }
