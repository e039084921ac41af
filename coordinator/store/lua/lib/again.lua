-- again.lua: an owner that no longer holds its session (an answer was lost, or its request was cancelled) takes it again, under a new
-- epoch. What it sent under the one before may still arrive, and must not end or give away what it holds now. A session that is being
-- handed over keeps its epoch: the offer that stands has it.

-- Whether a request was made before the one by which its owner has the session; then its answer is no longer awaited. The
-- requests of an instance sort in the order in which they are made.
local function is_late(request, last)
  return request < (last or '')
end

local function take_again(meta, m, instance, session, id, epoch, seen, request, now)
  local new_epoch = next_epoch(meta, m, epoch, seen, now)
  enroll(instance, id, new_epoch, epoch)
  redis.call('HSET', session, 'epoch', new_epoch, 'request', request, 'checkpoint', '0', 'anew', '0')
  return new_epoch
end
