-- epoch.lua: fencing tokens. A plain counter repeats after a failover that lost writes, so the clock, the caller's memory and the
-- partition's floor all push them up.

-- An epoch above the clock is remembered. The clock itself says of all others that they may have been given.
local function note_epoch(meta, m, epoch, now)
  if epoch > now and epoch_of(epoch) > epoch_of(m.epoch_highest) then
    m.epoch_highest = int(epoch)
    redis.call('HSET', meta, 'epoch_highest', m.epoch_highest)
  end
end

-- A session's own last epoch, however absurd: its next one is above it, and those of other sessions are not raised.
local function own_epoch(value)
  local epoch = tonumber(value or nil) or 0
  return epoch < 1000000000000000 and epoch or 0 -- 0 also for an invalid number
end

-- The next epoch of a session.
local function next_epoch(meta, m, stored, seen, now)
  local epoch = math.max(
    own_epoch(stored) + 1,
    epoch_of(seen) + 1,
    now,
    epoch_of(m.epoch_floor) + 1
  )
  note_epoch(meta, m, epoch, now)
  return int(epoch)
end
