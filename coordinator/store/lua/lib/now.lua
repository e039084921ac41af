-- now.lua: the one clock of the protocol, the server's, read once by each script.
local present_ms = nil
local present_text = nil
local function now_ms()
  local t = redis.call('TIME')
  present_ms = t[1] * 1000 + math.floor(t[2] / 1000)
  present_text = nil
  return present_ms
end

-- Lua prints large numbers as 1.79e+12; Redis must get decimal digits. The present time is written most often, and kept as text.
local function int(n)
  if n ~= present_ms then
    return string.format('%d', n)
  end
  present_text = present_text or string.format('%d', n)
  return present_text
end
