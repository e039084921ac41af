-- stream.lua: entries of streams. Their ids follow the clock. An entry that a client wrote far ahead leaves no room for others, or keeps them
-- behind itself for good. Such a stream begins anew: offers are written again when their leases end, and events are for people.
local FAR_AHEAD_MS = 86400000

local function is_spoilt(entry, now)
  if type(entry) == 'table' then
    return entry.err and (string.find(entry.err, 'exhausted the last possible ID', 1, true)
      or string.find(entry.err, 'equal or smaller than the target stream top item', 1, true))
  end
  return tonumber(string.match(entry, '^%d+')) > now + FAR_AHEAD_MS
end

-- After stream and time come the words of XADD, from its options on.
local function append(stream, now, ...)
  local entry = redis.pcall('XADD', stream, ...)
  if is_spoilt(entry, now) then
    redis.call('DEL', stream)
  elseif type(entry) == 'string' then
    return entry
  end
  return redis.call('XADD', stream, ...)
end
