-- delete.lua: removes a session, even when only its id in the active set is left.
--
-- KEYS session STRING <session(session)> the session's JSON
-- KEYS active  SET                       ids of the sessions that are under way
-- KEYS *fence  various <=fence.declared> the coordinator's meta, detector, events, instance and record; none when bound to no session
-- ARGV id      text <session>            session id
-- ARGV *held   sent <fence.arguments>    run id of the server, instance id and epoch of the writer; none when bound to no session
-- REPLY OK
-- REPLY GONE
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: a repetition answers GONE.
-- USES now read stream event hold owner refuse fence
local session, active = KEYS[1], KEYS[2]
local id = ARGV[1]

local refused = fence(3, 2, 'session_delete', id)
if refused then
  return refused
end
local removed = redis.call('DEL', session)
if redis.call('TYPE', active).ok == 'set' then
  removed = removed + redis.call('SREM', active, id)
end
if removed == 0 then
  return { 'GONE' }
end
return { 'OK' }
