-- forget.lua: forgets which instance a name stands for, where that instance is gone.
--
-- KEYS names      HASH                       name -> newest instance id
-- KEYS *instances HASH <instance(instances)> the instance that each name stood for as last read
-- ARGV server     text                       run id of the server of this connection
-- ARGV *entries   pair <names instances>     each name and that instance's id, with a blank between them
-- REPLY OK forgotten:int
-- RETRY safe: a name that was forgotten, or that stands for another instance by now, is left alone.
-- USES now
local names = KEYS[1]
local FIRST_KEY, FIRST_ARG = 1, 1

local forgotten = 0
for i = FIRST_KEY + 1, #KEYS do
  local instance = KEYS[i]
  local name, id = string.match(ARGV[FIRST_ARG + i - FIRST_KEY], '^(.*) (.*)$')
  if redis.call('EXISTS', instance) == 0 and redis.call('HGET', names, name) == id then
    redis.call('HDEL', names, name)
    forgotten = forgotten + 1
  end
end
return { 'OK', 'forgotten', int(forgotten) }
