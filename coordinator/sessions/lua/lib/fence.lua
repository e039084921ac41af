-- fence.lua: whether the writer still owns the session by the coordinator's record, checked in the same moment as the write.
-- Nil when it may write, or when the store is bound to no session; else the answer, by the rule for the protocol's own writers.
local function fence(first_key, first_arg, operation, id)
  if #KEYS < first_key then
    return nil
  end
  local meta, detector, events = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local instance, record = KEYS[first_key + 3], KEYS[first_key + 4]
  local server, owner, epoch = ARGV[first_arg], ARGV[first_arg + 1], ARGV[first_arg + 2]
  local now = now_ms()
  local _, held = guard(meta, detector, events, now, server)
  local state = redis.call('HGET', instance, 'state')
  local refused = refuse(state, nil, held, events, now, operation, id, owner, epoch)
  if refused then
    return refused
  end
  local r = read(record, 'state', 'owner', 'epoch', 'anew', 'renewed_from')
  return refuse(state, r, held, events, now, operation, id, owner, epoch)
end
