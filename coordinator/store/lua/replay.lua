-- replay.lua: a person offers a dead letter again; attempts and age start anew.
--
-- KEYS meta         HASH    the partition
-- KEYS detector     HASH    holds
-- KEYS leases       ZSET    offers and handovers
-- KEYS orphans      ZSET    sessions without an owner
-- KEYS dead_letters ZSET    sessions given up on
-- KEYS events       STREAM  what happened
-- KEYS session      HASH    the record
-- KEYS offers       STREAM  offers of the session's pool
-- ARGV server       text    run id of the server of this connection
-- ARGV id           text    session id
-- ARGV holder       text    who holds the lease
-- ARGV lease_ms     int     length of it
-- ARGV inline_bytes int     data up to this size travels in the offer
-- REPLY OK epoch
-- REPLY GONE state
-- REPLY HELD
-- RETRY safe: the second call finds it offered and answers GONE.
-- USES now read epoch event hold offer
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, session, offers = KEYS[6], KEYS[7], KEYS[8]
local server, id, holder, lease_ms, inline_bytes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' }
end
local r = read(session, 'state', 'requires', 'epoch', 'pool', 'data', 'encoding', 'cause', 'previous_owner')
if r.state ~= 'dead_lettered' then
  return { 'GONE', 'state', r.state or '' }
end
redis.call('ZADD', orphans, int(now), id)
r.epoch, r.offers, r.orphaned_at = next_epoch(r.epoch, '0', now, m.epoch_floor), '1', int(now)
r.cause, r.previous_owner = r.cause or '', r.previous_owner or ''
redis.call('HSET', session, 'recoveries', '0', 'orphanings', '', 'reason', '', 'evidence_at', int(now),
  'served_until', int(now), 'held_before_ms',
  int(held_ms(read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms'), now)))
write_offer(session, offers, id, r, now, lease_ms, inline_bytes, holder)
redis.call('PERSIST', session)
redis.call('ZADD', leases, int(now + lease_ms), id)
redis.call('ZREM', dead_letters, id)
event(events, 'replayed', now, 'session', id, 'epoch', r.epoch)
return { 'OK', 'epoch', r.epoch }
