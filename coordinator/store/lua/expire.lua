-- expire.lua: a lease ended. An offer is extended, offered again or given up on; a handover goes back to its owner.
--
-- KEYS meta               HASH                    the partition
-- KEYS detector           HASH                    holds
-- KEYS leases             ZSET                    offers and handovers
-- KEYS orphans            ZSET                    sessions without an owner
-- KEYS dead_letters       ZSET                    sessions given up on
-- KEYS events             STREAM                  what happened
-- KEYS session            HASH <session(session)> the record
-- KEYS offers             STREAM <offers(pool)>   offers of the session's pool
-- ARGV server             text              run id of the server of this connection
-- ARGV id                 text <session>    session id
-- ARGV pool               text              pool of that stream
-- ARGV holder             text=''           the coordinator that holds the next lease
-- ARGV lease_ms           duration          length of it
-- ARGV max_offers         int               attempts before it is a dead letter
-- ARGV give_up_after_ms   duration          age of an orphan at which the caller has hung up; holds do not count
-- ARGV inline_bytes       int=INLINE_BYTES  data up to this size travels in the offer
-- ARGV dead_letter_ttl_ms duration=DEAD_LETTER_TTL
-- ARGV entry_of_dead      text=''           its entry that a dead reader has: counts as an attempt, and the lease is not waited for; '' otherwise
-- ARGV alone              flag=1            1 when nothing else that the dead reader had in hand may have killed it
-- ARGV apart              int=0             how many of those that were read with it one reader may have in hand from now on; 0: any number
-- REPLY EXTENDED
-- REPLY REWRITTEN
-- REPLY OFFERED epoch:int attempt:int
-- REPLY DEAD_LETTERED reason
-- REPLY RETURNED owner
-- REPLY EARLY
-- REPLY GONE
-- REPLY HELD
-- RETRY safe: the lease has moved on, a second call answers EARLY.
-- USES now read epoch stream event hold age entry offer dead_letter
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, session, offers = KEYS[6], KEYS[7], KEYS[8]
local server, id, pool, holder, lease_ms, max_offers = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local give_up_after_ms, inline_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local dead_letter_ttl_ms, entry_of_dead, alone, apart = ARGV[9], ARGV[10], ARGV[11], ARGV[12]

-- Whether the group has passed an entry: ids are <ms>-<number>.
local function passed(entry)
  local groups = redis.pcall('XINFO', 'GROUPS', offers)
  if groups.err then
    return false
  end
  for _, group in ipairs(groups) do
    local found = {}
    for i = 1, #group, 2 do
      found[group[i]] = group[i + 1]
    end
    if found.name == 'workers' then
      local last_ms, last_n = string.match(found['last-delivered-id'], '(%d+)-(%d+)')
      local ms, n = string.match(entry, '(%d+)-(%d+)')
      return tonumber(ms) < tonumber(last_ms) or ms == last_ms and tonumber(n) <= tonumber(last_n)
    end
  end
  return false
end

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'requires', 'tenant', 'owner', 'epoch', 'pool', 'data', 'encoding', 'offers', 'cause', 'previous_owner', 'orphaned_at',
  'offer_id', 'held_before_ms', 'heir', 'apart', 'probation_ms')
local ends = tonumber(redis.call('ZSCORE', leases, id) or nil)
if r.state ~= 'offered' and r.state ~= 'handing_over' then
  if ends then
    redis.call('ZREM', leases, id)
  end
  return { 'GONE' }
end
if ends and ends > now and not (r.state == 'offered' and r.offer_id == entry_of_dead) then
  return { 'EARLY' }
end
if r.state == 'handing_over' then -- the heir never came, or the owner kept it: the owner goes on
  redis.call('HSET', session, 'state', 'active', 'heir', '', 'heir_request', '', 'offer_id', '', 'lease_holder', '',
    'lease_until', '0')
  drop_entry(offers, r.offer_id)
  redis.call('ZREM', leases, id)
  event(events, 'returned', now, 'session', id, 'instance', r.owner or '', 'outcome', 'timed_out')
  return { 'RETURNED', 'owner', r.owner or '' }
end
if r.pool ~= pool then
  return { 'GONE' } -- called with another pool's stream
end
redis.call('ZADD', leases, int(now + lease_ms), id)
if age_ms(detector, r.orphaned_at, r.held_before_ms, now) > give_up_after_ms then
  drop_entry(offers, r.offer_id)
  dead_letter(meta, m, session, dead_letters, leases, orphans, events, id, now, 'expired', dead_letter_ttl_ms)
  return { 'DEAD_LETTERED', 'reason', 'expired' }
end
local delivered, present = false, false
if r.offer_id and r.offer_id ~= '' then
  local pending = redis.pcall('XPENDING', offers, 'workers', r.offer_id, r.offer_id, 1)
  delivered = type(pending) == 'table' and not pending.err and #pending > 0
  present = #redis.call('XRANGE', offers, r.offer_id, r.offer_id) > 0
end
if not delivered then
  redis.call('HSET', session, 'lease_holder', holder, 'lease_until', int(now + lease_ms))
  if present and not passed(r.offer_id) then
    return { 'EXTENDED' } -- no worker had room
  end
  drop_entry(offers, r.offer_id) -- its reader was taken out of the group, and no other reader would get it
  local entry = write_entry(offers, id, r, now, inline_bytes)
  if passed(entry) then -- a client set the group ahead of all that is written: a stream that begins anew is read
    redis.call('DEL', offers)
    entry = write_entry(offers, id, r, now, inline_bytes)
  end
  redis.call('HSET', session, 'offer_id', entry)
  return { 'REWRITTEN' }
end
drop_entry(offers, r.offer_id)
-- Waiting for a living reader is not a failed attempt; readers give back themselves what they do not get to.
local failed = r.offer_id == entry_of_dead
if failed and alone == '1' and (tonumber(r.offers) or 1) >= max_offers then
  dead_letter(meta, m, session, dead_letters, leases, orphans, events, id, now, 'max_offers', dead_letter_ttl_ms)
  return { 'DEAD_LETTERED', 'reason', 'max_offers' }
end
r.epoch, r.offers = next_epoch(meta, m, r.epoch, '0', now), int((tonumber(r.offers) or 1) + (failed and 1 or 0))
if failed and apart ~= '0' then
  r.apart = apart
  redis.call('HSET', session, 'apart', apart)
end
write_offer(session, offers, id, r, now, lease_ms, inline_bytes, holder)
event(events, 'offered', now, 'session', id, 'epoch', r.epoch, 'cause', r.cause or '', 'attempt', r.offers)
return { 'OFFERED', 'epoch', r.epoch, 'attempt', r.offers }
