-- again.lua: an owner that does not hold its session any more (an answer was lost, or its request was cancelled) takes it again, under
-- a new epoch: what it sent under the one before may still come, and must not end or give away what it holds now. Not while it is
-- handed over: the offer that stands has the epoch before.

-- Whether a request was made before the one by which its owner has the session: nobody waits for its answer. An instance's
-- requests sort in the order in which they are made.
local function is_late(request, last)
  return request < (last or '')
end

local function take_again(meta, m, instance, session, id, epoch, seen, request, now)
  local new_epoch = next_epoch(meta, m, epoch, seen, now)
  enroll(instance, id, new_epoch, epoch)
  redis.call('HSET', session, 'epoch', new_epoch, 'request', request, 'checkpoint', '0', 'anew', '0')
  return new_epoch
end
