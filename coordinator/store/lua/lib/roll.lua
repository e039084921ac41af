-- roll.lua: the roll of an instance: a digest of which sessions it owns, and under which epochs, kept as records change.
-- It is a sum, so that the order does not matter and a session that goes is subtracted; 40 bits each, so that millions fit.
local function mark(id, epoch)
  return tonumber(string.sub(redis.sha1hex(id .. ' ' .. epoch), 1, 10), 16)
end

-- The session is owned under the epoch `gained` from now on, and under `lost` no more; nil where it was or is not.
local function enroll(instance, id, gained, lost)
  redis.call('HINCRBY', instance, 'roll',
    string.format('%d', (gained and mark(id, gained) or 0) - (lost and mark(id, lost) or 0)))
end
