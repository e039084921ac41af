-- heartbeat.lua: moves a session's updated_at and its expiry, and not one byte besides.
--
-- KEYS session    STRING <session(session)> the session's JSON
-- KEYS active     SET                       ids of the sessions that are under way
-- KEYS *fence     various <=fence.declared> the coordinator's meta, detector, events, instance and record; none when bound to no session
-- ARGV id         text <session>          session id
-- ARGV updated_at text                    the new time, RFC 3339
-- ARGV ttl_ms     duration                when it expires, 0 for never
-- ARGV *held      sent <fence.arguments>  run id of the server, instance id and epoch of the writer; none when bound to no session
-- REPLY OK
-- REPLY GONE
-- REPLY ENDED status
-- REPLY ODD
-- REPLY WRONG
-- REPLY CLASH
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: the same time is written again.
-- USES now read stream event hold owner refuse fence header store
local session, active = KEYS[1], KEYS[2]
local id, updated_at, ttl_ms = ARGV[1], ARGV[2], ARGV[3]

local refused = fence(3, 4, 'session_heartbeat', id)
if refused then
  return refused
end
local problem = fits(session, active)
if problem then
  return problem
end
local stored = redis.call('GET', session)
if not stored then
  redis.call('SREM', active, id)
  return { 'GONE' }
end
local status, first, last = header_of(stored)
if not status then
  return { 'ODD' }
end
if status == 'ended' or status == 'failed' then
  redis.call('SREM', active, id)
  return { 'ENDED', 'status', status }
end
write(session, active, id, stored:sub(1, first - 1) .. updated_at .. stored:sub(last + 1), ttl_ms, true)
return { 'OK' }
