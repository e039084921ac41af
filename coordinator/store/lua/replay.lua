-- replay.lua: a person offers a dead letter again; attempts and age start anew.
--
-- KEYS meta         HASH                    the partition
-- KEYS detector     HASH                    holds
-- KEYS leases       ZSET                    offers and handovers
-- KEYS orphans      ZSET                    sessions without an owner
-- KEYS dead_letters ZSET                    sessions given up on
-- KEYS events       STREAM                  what happened
-- KEYS session      HASH <session(session)> the record
-- KEYS offers       STREAM <offers(pool)>   offers of the session's pool
-- KEYS letter       HASH <letter_or_record(session, letter_epoch)> where the dead letter is kept when its id was opened again; else the record's own key
-- ARGV server       text              run id of the server of this connection
-- ARGV id           text <session>    session id
-- ARGV holder       text=''           the holder of the lease
-- ARGV lease_ms     duration          length of it
-- ARGV inline_bytes int=INLINE_BYTES  data up to this size travels in the offer
-- ARGV letter_epoch text=''           epoch of a dead letter whose id was opened again; '' for the record itself
-- REPLY OK epoch:int
-- REPLY OWNED owner state
-- REPLY GONE state
-- REPLY HELD
-- RETRY safe: the second call finds it offered and answers GONE.
-- USES now read epoch stream event hold offer
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, session, offers, letter = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local server, id, holder, lease_ms, inline_bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local letter_epoch = ARGV[6]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' }
end
local from, seen, member = session, '0', id
if letter_epoch ~= '' then
  local present = read_session(session, 'state', 'owner', 'epoch')
  if present.state and present.state ~= 'closed' then
    return { 'OWNED', 'owner', present.owner or '', 'state', present.state }
  end
  from, seen, member = letter, present.epoch or '0', id .. ' ' .. letter_epoch
end
local r = read_session(from, 'state', 'requires', 'tenant', 'epoch', 'pool', 'data', 'encoding', 'cause', 'previous_owner')
if r.state ~= 'dead_lettered' then
  return { 'GONE', 'state', r.state or '' }
end
if letter_epoch ~= '' then
  redis.call('HSET', letter, 'replayed_at', int(now)) -- refused when memory is full, before anything has moved
  redis.call('RENAME', letter, session)
end
redis.call('ZADD', orphans, int(now), id)
r.epoch, r.offers, r.orphaned_at = next_epoch(meta, m, r.epoch, seen, now), '1', int(now)
r.cause, r.previous_owner = r.cause or '', r.previous_owner or ''
redis.call('HSET', session, 'recoveries', '0', 'orphanings', '', 'reason', '', 'evidence_at', int(now),
  'served_until', int(now), 'held_before_ms',
  int(held_ms(read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms'), now)))
write_offer(session, offers, id, r, now, lease_ms, inline_bytes, holder)
redis.call('PERSIST', session)
redis.call('ZADD', leases, int(now + lease_ms), id)
redis.call('ZREM', dead_letters, member)
event(events, 'replayed', now, 'session', id, 'epoch', r.epoch)
return { 'OK', 'epoch', r.epoch }
