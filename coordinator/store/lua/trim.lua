-- trim.lua: deletes the entries of a pool's offers that no record names, and the whole stream when it is empty and has no readers.
--
-- KEYS offers    STREAM <offers(pool)>    offers of the pool
-- KEYS *sessions HASH <session(sessions)> the record of the session that each entry is for
-- ARGV server    text                     run id of the server of this connection
-- ARGV *entries  text                     an entry of each session
-- REPLY OK trimmed:int dropped:int
-- RETRY safe: a second call finds nothing to take out.
-- USES now
local offers = KEYS[1]
local FIRST_KEY, FIRST_ARG = 1, 1

local trimmed, dropped = 0, 0
for i = FIRST_KEY + 1, #KEYS do
  local session, entry = KEYS[i], ARGV[FIRST_ARG + i - FIRST_KEY]
  local named = redis.pcall('HGET', session, 'offer_id') -- a key that is not a record is not judged here
  if type(named) ~= 'table' and named ~= entry then
    redis.pcall('XACK', offers, 'workers', entry) -- the group may be missing
    trimmed = trimmed + redis.call('XDEL', offers, entry)
  end
end
if redis.call('XLEN', offers) == 0 then
  local readers = 0
  local groups = redis.pcall('XINFO', 'GROUPS', offers) -- an error when there is no stream
  for _, group in ipairs(groups) do
    for at = 1, #group, 2 do
      if group[at] == 'consumers' then
        readers = readers + group[at + 1]
      end
    end
  end
  if readers == 0 then
    dropped = redis.call('DEL', offers)
  end
end
return { 'OK', 'trimmed', int(trimmed), 'dropped', int(dropped) }
