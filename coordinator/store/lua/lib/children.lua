-- children.lua: child processes write a session for its owner, and none may believe longer than the owner does. A script that ends the
-- owner's right tells them first. It waits until each has said that it stopped, or until the time for which it may believe is over.
local MOST_BELIEF_MS = 2000 -- a clock that stepped back must not make the wait longer
local CHILDREN_PAUSE_MS = 2000

-- Milliseconds until no child believes any more, 0 when none does. The children are told to stop, and may not begin again for a while.
-- r: epoch, child_until and children of the record. Children of the next owner have another epoch, so this does not stop them.
local function children_left_ms(session, id, r, now)
  local left = (tonumber(r.child_until) or 0) - now
  if left <= 0 then
    return 0
  end
  for channel in string.gmatch(r.children or '', '%S+') do
    tell(channel, 'stop ' .. id)
  end
  if left > MOST_BELIEF_MS then -- the clock stepped back
    left = MOST_BELIEF_MS
    redis.call('HSET', session, 'child_until', int(now + left))
  end
  redis.call('HSET', session, 'children_stop_until', int(now + CHILDREN_PAUSE_MS), 'children_stop_epoch', r.epoch)
  return left
end
