-- entry.lua: the entry of the present offer is taken out of the stream, read or not.
local function drop_entry(offers, offer_id)
  if offer_id and offer_id ~= '' then
    redis.pcall('XACK', offers, 'workers', offer_id) -- the group may be missing
    redis.pcall('XDEL', offers, offer_id) -- what is no id that Redis takes is in no stream
  end
end
