-- offer.lua: an orphan is put up for adoption: a new epoch, a lease, a stream entry.

-- Takes the entry of the present offer out of the stream, read or not.
local function drop_entry(offers, offer_id)
  if offer_id and offer_id ~= '' then
    redis.pcall('XACK', offers, 'workers', offer_id) -- the group may be missing
    redis.call('XDEL', offers, offer_id)
  end
end

local function write_entry(offers, id, r, inline_bytes)
  local data = r.data or ''
  local name = 'data'
  if #data > inline_bytes then
    name, data = 'data_bytes', int(#data)
  end
  return redis.call('XADD', offers, '*', 'session', id, 'epoch', r.epoch, 'attempt', r.offers, 'cause', r.cause,
    'previous_owner', r.previous_owner, 'pool', r.pool, 'orphaned_at', r.orphaned_at,
    'encoding', r.encoding or '', 'requires', r.requires or '', 'restarted_since', r.restarted_since or '', name, data)
end

-- r: epoch (new), offers (attempt), cause, previous_owner, pool, orphaned_at, data; the record gets the rest from the caller.
local function write_offer(key, offers, id, r, now, lease_ms, inline_bytes, holder)
  r.offer_id = write_entry(offers, id, r, inline_bytes)
  redis.call('HSET', key, 'state', 'offered', 'owner', '', 'epoch', r.epoch, 'offers', r.offers, 'cause', r.cause,
    'previous_owner', r.previous_owner, 'orphaned_at', r.orphaned_at, 'offer_id', r.offer_id, 'heir', '',
    'lease_holder', holder, 'lease_until', int(now + lease_ms))
end

-- How often, and when, the session lost its owner within the window: (count, times).
local function orphanings(times, now, window_ms)
  local kept, n = {}, 0
  for t in string.gmatch(times or '', '%d+') do
    if tonumber(t) > now - window_ms and n < 99 then
      n = n + 1
      kept[n] = t
    end
  end
  kept[n + 1] = int(now)
  return n + 1, table.concat(kept, ' ')
end
