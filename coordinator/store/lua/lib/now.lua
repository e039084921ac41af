-- now.lua: the one clock of the protocol, the server's, read once by each script.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Lua prints large numbers as 1.79e+12; Redis must get decimal digits.
local function int(n)
  return string.format('%.0f', n)
end
