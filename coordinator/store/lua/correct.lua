-- correct.lua: a person gives the fields of a record that was set aside values that parse, or forgets what was set aside.
--
-- KEYS events     STREAM                      what happened
-- KEYS quarantine ZSET                        what was set aside
-- KEYS kept       HASH <set_aside(member)>    the reason, and the fields as they were
-- KEYS kept_key   any <set_aside_key(member)> a key of another type, as it was
-- KEYS record     any <record(kind, name)>    what it was about
-- ARGV server     text                        run id of the server of this connection
-- ARGV member     text                        under which name it is kept
-- ARGV kind       text                        kind of the record's key
-- ARGV *field     bytes <fields>              names and values in turn, for the record
-- REPLY OK written:int
-- REPLY GONE
-- REPLY NO_RECORD
-- REPLY LIVES state
-- RETRY safe: a second call answers GONE.
-- USES now stream event
local events, quarantine, kept, kept_key, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local member, kind = ARGV[2], ARGV[3]
local FIRST_ARG = 3

local now = now_ms()
if not redis.call('ZSCORE', quarantine, member) then
  return { 'GONE' }
end
local fields = #ARGV - FIRST_ARG
if fields > 0 then
  if redis.call('TYPE', record).ok ~= 'hash' then
    return { 'NO_RECORD' }
  end
  local state = kind == 'session' and redis.call('HGET', record, 'state')
  if state == 'active' or state == 'handing_over' or state == 'offered' then -- it goes on, with what its owner has stated since
    return { 'LIVES', 'state', state }
  end
  redis.call('HSET', record, unpack(ARGV, FIRST_ARG + 1))
end
redis.call('ZREM', quarantine, member)
redis.call('DEL', kept)
redis.call('DEL', kept_key)
event(events, 'corrected', now, 'name', member, 'fields', int(fields / 2))
return { 'OK', 'written', int(fields / 2) }
