-- read.lua: some fields of a hash as a table; a missing field is nil.
local function read(key, ...)
  local values = redis.call('HMGET', key, ...)
  local record = {}
  for i, name in ipairs({ ... }) do
    record[name] = values[i] or nil
  end
  return record
end
