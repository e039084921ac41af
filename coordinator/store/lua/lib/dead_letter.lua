-- dead_letter.lua: an orphan is given up on, and kept with its data and the reason. The record says since when it is a dead letter.
local function dead_letter(meta, m, key, dead_letters, leases, orphans, events, id, now, reason, ttl_ms)
  local served, epoch = unpack(redis.call('HMGET', key, 'served_until', 'epoch'))
  local served_until = tonumber(served or nil) or now
  raise_floor(meta, m, epoch) -- from now on the record may be forgotten
  redis.call('HSET', key, 'state', 'dead_lettered', 'reason', reason, 'owner', '', 'offer_id', '', 'heir', '',
    'lease_holder', '', 'lease_until', '0', 'dead_lettered_at', int(now))
  redis.call('ZADD', dead_letters, int(now), id)
  redis.call('PEXPIRE', key, ttl_ms)
  redis.call('ZREM', leases, id)
  redis.call('ZREM', orphans, id)
  event(events, 'dead_lettered', now, 'session', id, 'reason', reason,
    'orphaned_ms', int(math.max(0, now - served_until)))
end
