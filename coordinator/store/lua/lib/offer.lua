-- offer.lua: an orphan is put up for adoption: a new epoch, a lease, a stream entry.

local function write_entry(offers, id, r, now, inline_bytes)
  local data = r.data or ''
  local name = 'data'
  if #data > inline_bytes then
    name, data = 'data_bytes', int(#data)
  end
  return append(offers, now, '*', 'session', id, 'epoch', r.epoch, 'attempt', r.offers or '1', 'cause', r.cause or '',
    'previous_owner', r.previous_owner or '', 'pool', r.pool, 'orphaned_at', r.orphaned_at or '',
    'encoding', r.encoding or '', 'requires', r.requires or '', 'tenant', r.tenant or '', 'restarted_since', r.restarted_since or '',
    'apart', r.apart or '0', 'probation_ms', r.probation_ms or '0', 'room', r.room or '0', 'died_with', r.died_with or '0',
    name, data)
end

-- r: epoch (new), offers (attempt), cause, previous_owner, pool, orphaned_at, data; the record gets the rest from the caller.
-- later: its turn has not come. It is adoptable by id, and gets its entry when the lease ends.
local function write_offer(key, offers, id, r, now, lease_ms, inline_bytes, holder, later)
  r.offer_id = later and '' or write_entry(offers, id, r, now, inline_bytes)
  redis.call('HSET', key, 'state', 'offered', 'owner', '', 'epoch', r.epoch, 'offers', r.offers, 'cause', r.cause or '',
    'previous_owner', r.previous_owner or '', 'orphaned_at', r.orphaned_at or int(now), 'offer_id', r.offer_id, 'heir', '',
    'lease_holder', holder, 'lease_until', int(now + lease_ms))
end

-- How often, and when, the session lost its owner within the window, this time included when it counts: (count, times).
local function orphanings(times, now, window_ms, counts)
  local kept, n = {}, 0
  for t in string.gmatch(times or '', '%d+') do
    if tonumber(t) > now - window_ms and n < 99 then
      n = n + 1
      kept[n] = t
    end
  end
  if counts then
    n = n + 1
    kept[n] = int(now)
  end
  return n, table.concat(kept, ' ')
end
