-- trust.lua: how long the owner of a session may still be relied on; for a process that writes on its parent's behalf.
--
-- KEYS instances ZSET    heartbeats
-- KEYS instance  HASH    the owner
-- KEYS session   HASH    the record
-- ARGV server    text    run id of the server of this connection
-- ARGV owner     text    instance id
-- ARGV epoch     int     the epoch that is held
-- REPLY OK remaining_ms dead_after_ms
-- REPLY FENCED
-- RETRY safe: reads only.
-- USES now read
local instances, instance, session = KEYS[1], KEYS[2], KEYS[3]
local owner, epoch = ARGV[2], ARGV[3]

local now = now_ms()
local me = read(instance, 'state', 'dead_after_ms')
local r = read(session, 'state', 'owner', 'epoch')
if not me.state or me.state == 'dead' or r.owner ~= owner or r.epoch ~= epoch
  or (r.state ~= 'active' and r.state ~= 'handing_over') then
  return { 'FENCED' }
end
local deadline = tonumber(redis.call('ZSCORE', instances, owner) or 0)
return { 'OK', 'remaining_ms', int(math.max(0, deadline - now)), 'dead_after_ms', me.dead_after_ms or '0' }
