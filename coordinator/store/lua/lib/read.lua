-- read.lua: some fields of a hash as a table; a missing field is nil. Nothing is checked here: whoever needs a number falls back on another.
-- Records are read by functions that are made from the list of shapes (see shapes.py) and stand after this: `read_session`, `read_instance`,
-- `read_meta`, `read_detector`. What a script cannot use ends it there, before it writes; whoever runs it sets that aside, and runs it again.
local find = string.find

local function read(key, ...)
  local names, values, record = { ... }, redis.call('HMGET', key, ...), {}
  for i = 1, #names do
    record[names[i]] = values[i] or nil
  end
  return record
end

-- Epochs follow the clock. One of the year 4822 or later is none that was ever given, and must not lift others after it.
local function epoch_of(value)
  local epoch = tonumber(value or nil) or 0
  return epoch < 90000000000000 and epoch or 0 -- nor what is no number at all
end

local function broken(key, field)
  error('BROKEN ' .. key .. ' ' .. field, 0)
end
