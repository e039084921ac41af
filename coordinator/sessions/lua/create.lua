-- create.lua: writes a session that must not be there yet, within a limit of sessions under way.
--
-- KEYS session STRING <session(session)> the session's JSON
-- KEYS active  SET                       ids of the sessions that are under way
-- KEYS *fence  various <=fence.declared> the coordinator's meta, detector, events, instance and record; none when bound to no session
-- ARGV id      text <session>          session id
-- ARGV value   bytes                   the JSON
-- ARGV ttl_ms  duration                when it expires, 0 for never
-- ARGV listed  flag                    1 when it is under way, 0 when it has ended
-- ARGV version text                    version of the JSON
-- ARGV limit   int                     most members of the active set, 0 for any number
-- ARGV *held   sent <fence.arguments>  run id of the server, instance id and epoch of the writer; none when bound to no session
-- REPLY OK
-- REPLY EXISTS
-- REPLY FULL
-- REPLY WRONG
-- REPLY CLASH
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: the session that is there has this version, which is OK; no caller is answered EXISTS for its own creation.
-- USES now read stream event hold owner refuse fence header store
local session, active = KEYS[1], KEYS[2]
local id, value, ttl_ms, listed = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local version, limit = ARGV[5], tonumber(ARGV[6])

local refused = fence(3, 7, 'session_create', id)
if refused then
  return refused
end
local problem = fits(session, active)
if problem then
  return problem
end
local stored = redis.call('GET', session)
if stored then
  if version_of(stored) ~= version then
    return { 'EXISTS' }
  end
  return { 'OK' }
end
if full(active, id, listed, limit) then
  return { 'FULL' }
end
write(session, active, id, value, ttl_ms, listed)
return { 'OK' }
