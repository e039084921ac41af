-- agree.lua: an instance has compared its sessions with their records, one by one, and found them equal: its roll and its index say so.
-- It mends a roll that a program of an older version did not keep, and an index that was damaged.
--
-- KEYS instance HASH <instance(instance)> the instance that compared
-- KEYS owned    SET <owned(instance)>     what it owns
-- KEYS *session HASH <session(sessions)>  records that its index names, and that are not its own
-- ARGV server   text                      run id of the server of this connection
-- ARGV owner    text <instance>           instance id
-- ARGV seen     text                      the roll in the store before it compared, '' for none
-- ARGV roll     int                       the digest of its sessions
-- ARGV *id      text <sessions>           their ids
-- REPLY OK
-- REPLY CHANGED roll:int
-- REPLY FENCED
-- REPLY UNKNOWN
-- RETRY safe: a second call finds the roll and the index as the first left them.
-- USES read
local instance, owned = KEYS[1], KEYS[2]
local owner, seen, roll = ARGV[2], ARGV[3], ARGV[4]
local FIRST_KEY, FIRST_ARG = 2, 4

local me = read_instance(instance, 'state', 'roll')
if me.state == 'dead' then
  return { 'FENCED' }
elseif not me.state then
  return { 'UNKNOWN' }
end
if me.roll ~= roll and (me.roll or '') ~= seen then
  return { 'CHANGED', 'roll', me.roll or '' } -- a session changed hands meanwhile: compare again
end
local records = {}
for i = FIRST_KEY + 1, #KEYS do
  records[i] = read_session(KEYS[i], 'state', 'owner')
end
for i = FIRST_KEY + 1, #KEYS do
  local r = records[i]
  if r.owner ~= owner or (r.state ~= 'active' and r.state ~= 'handing_over') then
    redis.call('SREM', owned, ARGV[FIRST_ARG + i - FIRST_KEY])
  end
end
if me.roll ~= roll then
  redis.call('HSET', instance, 'roll', roll)
end
return { 'OK' }
