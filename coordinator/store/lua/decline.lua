-- decline.lua: a worker gives an offer back; others get it at once.
--
-- KEYS meta               HASH                      the partition
-- KEYS detector           HASH                      holds
-- KEYS leases             ZSET                      offers and handovers
-- KEYS orphans            ZSET                      sessions without an owner
-- KEYS dead_letters       ZSET                      sessions given up on
-- KEYS events             STREAM                    what happened
-- KEYS instance           HASH <instance(instance)> the instance that declines
-- KEYS session            HASH <session(session)>   the record
-- KEYS offers             STREAM <offers(pool)>     offers of the pool
-- ARGV server             text                    run id of the server of this connection
-- ARGV id                 text <session>          session id
-- ARGV decliner           text <instance>         instance id
-- ARGV epoch              int                     epoch of the offer
-- ARGV reason             reason                  why
-- ARGV counts             flag                    1: an attempt; 0: for want of room, counts nothing
-- ARGV max_offers         int                     attempts before it is a dead letter
-- ARGV lease_ms           duration                length of the new lease
-- ARGV inline_bytes       int=INLINE_BYTES        data up to this size travels in the offer
-- ARGV dead_letter_ttl_ms duration=DEAD_LETTER_TTL
-- ARGV give_up_after_ms   duration=GIVE_UP_AFTER  age of an orphan at which the caller has hung up; holds do not count
-- ARGV restarted_since    text=''                 as the entry of a handover said, to be passed on; '' otherwise
-- REPLY OK epoch:int
-- REPLY DEAD_LETTERED reason
-- REPLY GONE
-- REPLY HELD
-- REPLY FENCED cause
-- RETRY safe: the epoch has moved on, a second call answers GONE.
-- USES now read epoch stream event hold age entry offer dead_letter
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, instance, session, offers = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local server, id, decliner, epoch, reason, counts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local max_offers, lease_ms, inline_bytes = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local dead_letter_ttl_ms, give_up_after_ms, restarted_since = ARGV[10], tonumber(ARGV[11]), ARGV[12]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
if held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'requires', 'tenant', 'epoch', 'pool', 'data', 'encoding', 'offers', 'cause', 'previous_owner', 'orphaned_at', 'offer_id',
  'heir', 'owner', 'held_before_ms', 'apart', 'probation_ms')
if r.state == 'handing_over' and r.epoch == epoch and (r.heir or '') == '' then -- its owner serves it, and only the entry moves on
  redis.call('ZADD', leases, int(now + lease_ms), id)
  drop_entry(offers, r.offer_id)
  r.offers, r.cause, r.previous_owner, r.orphaned_at, r.restarted_since = '1', 'handover', r.owner, int(now), restarted_since
  redis.call('HSET', session, 'offer_id', write_entry(offers, id, r, now, inline_bytes), 'lease_until', int(now + lease_ms))
  return { 'OK', 'epoch', r.epoch }
end
if r.state ~= 'offered' or r.epoch ~= epoch then
  return { 'GONE' }
end
redis.call('ZADD', leases, int(now + lease_ms), id)
drop_entry(offers, r.offer_id)
event(events, 'declined', now, 'session', id, 'instance', decliner, 'epoch', epoch, 'reason', reason)
if age_ms(detector, r.orphaned_at, r.held_before_ms, now) > give_up_after_ms then -- each decline begins a new lease, so that none might ever end
  dead_letter(meta, m, session, dead_letters, leases, orphans, events, id, now, 'expired', dead_letter_ttl_ms)
  return { 'DEAD_LETTERED', 'reason', 'expired' }
end
if counts == '1' then
  if (tonumber(r.offers) or 1) >= max_offers then
    redis.call('HSET', session, 'last_decline', reason)
    dead_letter(meta, m, session, dead_letters, leases, orphans, events, id, now, 'max_offers', dead_letter_ttl_ms)
    return { 'DEAD_LETTERED', 'reason', 'max_offers' }
  end
  r.offers = int((tonumber(r.offers) or 1) + 1)
end
r.epoch = next_epoch(meta, m, r.epoch, epoch, now)
write_offer(session, offers, id, r, now, lease_ms, inline_bytes, decliner)
return { 'OK', 'epoch', r.epoch }
