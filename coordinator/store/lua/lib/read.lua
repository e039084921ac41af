-- read.lua: some fields of a hash as a table; a missing field is nil. Nothing is checked here: a script that needs a number has a fallback.
-- Functions made from the list of shapes (see shapes.py) read the records, and stand after this: `read_session`, `read_instance`,
-- `read_meta`, `read_detector`. A field that a script cannot use ends it there, before it writes. The caller sets it aside and runs the script again.
local find = string.find

local function read(key, ...)
  local names, values, record = { ... }, redis.call('HMGET', key, ...), {}
  for i = 1, #names do
    record[names[i]] = values[i] or nil
  end
  return record
end

-- Epochs follow the clock. One of the year 4822 or later was never given, and must not raise those after it.
local function epoch_of(value)
  local epoch = tonumber(value or nil) or 0
  return epoch < 90000000000000 and epoch or 0 -- 0 also for an invalid number
end

local function broken(key, field)
  error('BROKEN ' .. key .. ' ' .. field, 0)
end
