-- owner.lua: who may write a session: the one rule of every script that writes for an owner, the session store's too. What those who may
-- not are answered stands in refuse.lua.

-- Why this instance, which is in this state, may not write under this epoch; nil when it may. Without a record only the instance is asked:
-- a script reads the session of one that may act. One that has `ended`, a state, counts where a script has an answer of its own for that.
local function objection(state, r, owner, epoch, ended)
  if not state then
    return 'unknown' -- it has to join first
  elseif state == 'dead' then
    return 'dead' -- for good
  elseif not r then
    return nil
  elseif not r.state or tonumber(r.epoch) < tonumber(epoch) then
    return 'behind' -- the store is: writes were lost, and the writer is not to blame
  end
  state = r.state
  if r.owner ~= owner or r.epoch ~= epoch or (state ~= 'active' and state ~= 'handing_over' and state ~= ended) then
    return 'other'
  end
  return nil
end
