-- delete.lua: removes a session, also one of which only the id in the active set is left.
--
-- KEYS session  STRING  the session's JSON
-- KEYS active   SET     ids of the sessions that are under way
-- ARGV id       text    session id
-- REPLY OK
-- REPLY GONE
-- RETRY safe: a repetition answers GONE.
local session, active = KEYS[1], KEYS[2]
local id = ARGV[1]

local removed = redis.call('DEL', session)
if redis.call('TYPE', active).ok == 'set' then
  removed = removed + redis.call('SREM', active, id)
end
if removed == 0 then
  return { 'GONE' }
end
return { 'OK' }
