-- refuse.lua: the answer to a writer that may not write (owner.lua); nil for one that may. A script asks twice: before it reads the record
-- (then `r` is nil) and after. An event tells of each writer that is fenced, so that all can see which one still writes for another's call.
-- During a hold, and after lost writes, no writer is refused for good before the owner has stated again what it held; that is renewed before
-- it is written. A script that answers HELD has done so before.
local function refuse(state, r, held, events, now, operation, id, owner, epoch, ended)
  local why = objection(state, r, owner, epoch, ended)
  if why == 'unknown' then
    return { 'UNKNOWN' }
  elseif why == 'dead' then
    event_of_refusal(events, now, operation, id, owner, epoch)
    return { 'FENCED', 'scope', 'instance', 'owner', '', 'epoch', '', 'state', '' }
  elseif not r then
    return nil
  elseif held or why == 'behind' then
    return { 'RESYNC' }
  elseif why then
    event_of_refusal(events, now, operation, id, owner, epoch, r)
    return { 'FENCED', 'scope', 'session', 'owner', r.owner or '', 'epoch', r.epoch, 'state', r.state }
  elseif r.anew == '1' then
    return { 'RESYNC' }
  end
  return nil
end
