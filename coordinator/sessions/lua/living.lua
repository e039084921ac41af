-- living.lua: which members of the active set are under way; the others are removed from it.
--
-- KEYS active   SET                        ids of the sessions that are under way
-- KEYS *session STRING <session(sessions)> the JSON of each
-- ARGV *id      text <sessions>            id of each
-- REPLY OK living
-- REPLY CLASH
-- RETRY safe: it removes only ids whose key is gone or that have ended. `living` has a digit a session: 1 under way, 0 not.
-- USES header
local active = KEYS[1]

local HEAD = 2047
local kind = redis.call('TYPE', active).ok
if kind ~= 'set' and kind ~= 'none' then
  return { 'CLASH' }
end
local living = {}
for i, id in ipairs(ARGV) do
  local session, digit = KEYS[i + 1], '1'
  local kind_of_session = redis.call('TYPE', session).ok
  if kind_of_session == 'none' then
    digit = '0'
  elseif kind_of_session == 'string' then
    local status = header_of(redis.call('GETRANGE', session, 0, HEAD))
    if not status then -- a long header, or none
      status = header_of(redis.call('GET', session))
    end
    if status == 'ended' or status == 'failed' then
      digit = '0'
    end
  end
  if digit == '0' then
    redis.call('SREM', active, id)
  end
  living[i] = digit
end
return { 'OK', 'living', table.concat(living) }
