-- purge.lua: a person closes a dead letter; its data is deleted.
--
-- KEYS dead_letters  ZSET           sessions given up on
-- KEYS events        STREAM         what happened
-- KEYS session       HASH <letter_or_record(session, letter_epoch)> the record; where a dead letter is kept when its id was opened again
-- ARGV server        text                                              run id of the server of this connection
-- ARGV id            text <session>                                    session id
-- ARGV closed_ttl_ms duration                                          how long the closed record stays
-- ARGV member        text='' <k.letter_member(session, letter_epoch)>  its name in the index: the session's id, and the epoch if its id was opened again
-- REPLY OK
-- REPLY GONE state
-- RETRY safe: the second call finds it closed and answers GONE.
-- USES now read stream event
local dead_letters, events, session = KEYS[1], KEYS[2], KEYS[3]
local id, closed_ttl_ms, member = ARGV[2], ARGV[3], ARGV[4]

local now = now_ms()
local state = read_session(session, 'state').state
if state ~= 'dead_lettered' then
  redis.call('ZREM', dead_letters, member) -- an index entry whose record ended
  return { 'GONE', 'state', state or '' }
end
redis.call('HSET', session, 'state', 'closed', 'closed_at', int(now))
redis.call('HDEL', session, 'data')
redis.call('PEXPIRE', session, closed_ttl_ms)
redis.call('ZREM', dead_letters, member)
event(events, 'purged', now, 'session', id)
return { 'OK' }
