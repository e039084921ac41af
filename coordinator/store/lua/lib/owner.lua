-- owner.lua: which instance may write a session. This is the one rule for every script that writes for an owner, the session store's
-- included. refuse.lua has the answers to those that may not.

-- Why this instance, which is in this state, may not write under this epoch; nil when it may. Without a record only the instance is judged:
-- a script reads the session only for one that may act. A session in the state `ended` is accepted where the script itself answers for it.
local function objection(state, r, owner, epoch, ended)
  if not state then
    return 'unknown' -- it has to join first
  elseif state == 'dead' then
    return 'dead' -- for good
  elseif not r then
    return nil
  elseif not r.state or tonumber(r.epoch) < tonumber(epoch) then
    return 'behind' -- the store is behind: writes were lost, and the writer is not to blame
  end
  state = r.state
  if r.owner ~= owner or r.epoch ~= epoch or (state ~= 'active' and state ~= 'handing_over' and state ~= ended) then
    return 'other'
  end
  return nil
end
