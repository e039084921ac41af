-- save.lua: writes a session and its place in the active set.
--
-- KEYS session  STRING <session(session)> the session's JSON
-- KEYS active   SET                       ids of the sessions that are under way
-- KEYS *fence   various <=fence.declared> the coordinator's meta, detector, events, instance and record; none when bound to no session
-- ARGV id       text <session>          session id
-- ARGV value    bytes                   the new JSON
-- ARGV ttl_ms   duration                when it expires, 0 for never
-- ARGV listed   flag                    1 when it is under way, 0 when it has ended
-- ARGV expected text                    version that the caller knows, '' to write whatever is there
-- ARGV version  text                    version of the new JSON
-- ARGV seen     text                    updated_at that must stand there still, '' for any
-- ARGV limit    int                     most members of the active set if this session becomes one, 0 for any number
-- ARGV *held    sent <fence.arguments>  run id of the server, instance id and epoch of the writer; none when bound to no session
-- REPLY OK
-- REPLY SAME
-- REPLY CONFLICT
-- REPLY GONE
-- REPLY FULL
-- REPLY WRONG
-- REPLY CLASH
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: the stored session has the new version already; it is written again and answered SAME.
-- USES now read stream event hold owner refuse fence header store
local session, active = KEYS[1], KEYS[2]
local id, value, ttl_ms, listed = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local expected, version, seen, limit = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])

local refused = fence(3, 9, 'session_save', id)
if refused then
  return refused
end
local problem = fits(session, active)
if problem then
  return problem
end
local same = false
if expected ~= '' then
  local stored = redis.call('GET', session)
  if not stored then
    return { 'GONE' }
  end
  local now = version_of(stored)
  if now ~= expected and now ~= version then
    return { 'CONFLICT' }
  end
  if now ~= expected then
    same = true
  elseif seen ~= '' then
    local status, first, last = header_of(stored)
    if status and stored:sub(first, last) ~= seen then -- without a header, the version says it
      return { 'CONFLICT' }
    end
  end
end
if not same and full(active, id, listed, limit) then
  return { 'FULL' }
end
write(session, active, id, value, ttl_ms, listed)
if same then
  return { 'SAME' }
end
return { 'OK' }
