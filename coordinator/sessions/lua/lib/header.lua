-- The text fields at the beginning of a session's JSON: its status, and where its updated_at stands (first and last position).
-- Nil when they are not there. The same as coordinator/sessions/header.py.
local function string_end(value, at)
  while true do
    local found = value:find('["\\]', at)
    if not found then
      return nil
    end
    if value:byte(found) == 34 then
      return found
    end
    at = found + 2
  end
end

local function header_of(value)
  if value:byte(1) ~= 123 then
    return nil
  end
  local at, status, first, last = 2, nil, nil, nil
  while value:byte(at) == 34 do
    local key_end = string_end(value, at + 1)
    if not key_end or value:sub(key_end + 1, key_end + 2) ~= ':"' then
      return nil
    end
    local start = key_end + 3
    local stop = string_end(value, start)
    if not stop then
      return nil
    end
    local key = value:sub(at + 1, key_end - 1)
    if key == 'status' and not status then
      status = value:sub(start, stop - 1)
    elseif key == 'updated_at' and not first then
      first, last = start, stop - 1
    end
    if status and first then
      return status, first, last
    end
    if value:byte(stop + 1) ~= 44 then
      return nil
    end
    at = stop + 2
  end
  return nil
end

local function version_of(value)
  local status, first, last = header_of(value)
  if status then
    value = value:sub(1, first - 1) .. value:sub(last + 1)
  end
  return redis.sha1hex(value)
end
