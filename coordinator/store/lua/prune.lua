-- prune.lua: takes members out of an index that their records do not belong into (any more).
--
-- KEYS index    ZSET  instances, orphans or dead letters
-- KEYS *records HASH  the record of each member
-- ARGV server   text  run id of the server of this connection
-- ARGV states   text  states of records that belong into the index, with blanks between them
-- ARGV *members text  instance or session ids
-- REPLY OK pruned
-- RETRY safe: a second call finds nothing to take out.
-- USES now
local index = KEYS[1]
local states = ARGV[2]
local FIRST_KEY, FIRST_ARG = 1, 2

local pruned = 0
for i = FIRST_KEY + 1, #KEYS do
  local record = KEYS[i]
  local state = redis.pcall('HGET', record, 'state') -- what is no record at all is not judged here
  if type(state) ~= 'table' and not (state and string.find(' ' .. states .. ' ', ' ' .. state .. ' ', 1, true)) then
    pruned = pruned + redis.call('ZREM', index, ARGV[FIRST_ARG + i - FIRST_KEY])
  end
end
return { 'OK', 'pruned', int(pruned) }
