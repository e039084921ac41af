-- prune.lua: takes members out of an index to which their records do not belong, or no longer.
--
-- KEYS index    ZSET <=index>   instances, orphans or dead letters
-- KEYS detector HASH            the mass breaker
-- KEYS *records HASH <=records> the record of each member
-- ARGV server   text            run id of the server of this connection
-- ARGV states   text            states of records that belong to the index, with blanks between them
-- ARGV counted  flag=0          1: the mass breaker has just opened and counted them; it is judged anew without what is pruned
-- ARGV *members text            instance or session ids
-- REPLY OK pruned:int
-- RETRY safe: a second call finds nothing to take out.
-- USES now
local index, detector = KEYS[1], KEYS[2]
local states, counted = ARGV[2], ARGV[3]
local FIRST_KEY, FIRST_ARG = 2, 3

local pruned = 0
for i = FIRST_KEY + 1, #KEYS do
  local record = KEYS[i]
  local state = redis.pcall('HGET', record, 'state') -- a key that is not a record is not judged here
  if type(state) ~= 'table' and not (state and string.find(' ' .. states .. ' ', ' ' .. state .. ' ', 1, true)) then
    pruned = pruned + redis.call('ZREM', index, ARGV[FIRST_ARG + i - FIRST_KEY])
  end
end
if pruned > 0 and counted == '1' then
  redis.call('HSET', detector, 'breaker_since_ms', '0')
end
return { 'OK', 'pruned', int(pruned) }
