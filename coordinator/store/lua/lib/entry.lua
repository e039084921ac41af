-- entry.lua: the entry of the present offer is taken out of the stream, read or not.
local function drop_entry(offers, offer_id)
  if offer_id and offer_id ~= '' then
    redis.pcall('XACK', offers, 'workers', offer_id) -- the group may be missing
    redis.pcall('XDEL', offers, offer_id) -- Redis refuses an invalid id, and no stream has an entry of it
  end
end
