-- fence.lua: whether the writer still owns the session by the coordinator's record, asked in the same moment as the write.
-- Nil when it may write, or when the store is bound to no session; else the answer. The same conditions, in the same order, as
-- checkpoint.lua of the protocol: after lost writes nobody is refused for good before the owner has stated again what it held.
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
  if state == 'dead' then
    event_of_refusal(events, now, operation, id, owner, epoch)
    return { 'FENCED', 'scope', 'instance', 'owner', '', 'epoch', '', 'state', '' }
  elseif not state then
    return { 'UNKNOWN' }
  end
  local r = read(record, 'state', 'owner', 'epoch', 'anew', 'renewed_from')
  if held or not r.state or tonumber(r.epoch) < tonumber(epoch) then
    return { 'RESYNC' }
  elseif r.owner ~= owner or r.epoch ~= epoch or (r.state ~= 'active' and r.state ~= 'handing_over') then
    event_of_refusal(events, now, operation, id, owner, epoch, r)
    return { 'FENCED', 'scope', 'session', 'owner', r.owner or '', 'epoch', r.epoch, 'state', r.state }
  elseif r.anew == '1' then
    return { 'RESYNC' }
  end
  return nil
end
