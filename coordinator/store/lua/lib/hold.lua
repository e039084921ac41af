-- hold.lua: for now no instance is declared dead; after lost writes no session changes hands either.

-- Milliseconds spent in holds up to now, which an orphan's age leaves out.
local function held_ms(d, now)
  local total = tonumber(d.held_total_ms) or 0
  local started = tonumber(d.hold_started_ms) or 0
  if started > 0 then
    total = total + math.max(0, math.min(now, tonumber(d.hold_until_ms) or 0) - started)
  end
  return total
end

local function start_hold(detector, events, now, length, reason, transfers)
  local d = read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms', 'hold_reason', 'transfers_held_until_ms')
  local ends = tonumber(d.hold_until_ms) or 0
  local started = tonumber(d.hold_started_ms) or 0
  local total = tonumber(d.held_total_ms) or 0
  if started == 0 or ends < now or started > now then
    total = held_ms(d, now)
    started = now
  end
  local more = not transfers and (tonumber(d.transfers_held_until_ms) or 0) > now -- the stronger reason stays
  local shown = more and d.hold_reason or reason
  redis.call('HSET', detector, 'held_total_ms', int(total), 'hold_started_ms', int(started),
    'hold_until_ms', int(now + length), 'hold_reason', shown)
  if transfers then
    redis.call('HSET', detector, 'transfers_held_until_ms', int(now + length))
  end
  event(events, 'hold', now, 'reason', reason, 'hold_ms', int(length))
end

-- The floor is at least as high as every epoch whose record the store may have forgotten, expired or lost. It only rises.
local function raise_floor(meta, m, epoch)
  local raised = epoch_of(epoch)
  if raised > epoch_of(m.epoch_floor) then
    m.epoch_floor = int(raised)
    redis.call('HSET', meta, 'epoch_floor', m.epoch_floor)
  end
end

-- This history cannot have given an epoch above this.
local function highest_given(m, now)
  return math.max(now, epoch_of(m.epoch_floor), epoch_of(m.epoch_highest))
end

-- How long a hold is after lost writes. A value above an hour was never set, and is not used.
local function hold_length_ms(m)
  local length = tonumber(m.hold_ms)
  return length and length >= 0 and length <= 3600000 and length or 2000
end

-- Writes were lost, or may have been: hold. The floor rises above all that this history gave, and above all that the old
-- clock can have given if it was ahead by less than the hold lasts. The clock is there when the hold ends, so epochs do not
-- run ahead of it, and a later wipe that no program is left to tell of cannot set them back.
-- seen: when the program that noticed it last saw the data as they were; a program that saw them no later tells no news.
local function lost_writes(meta, detector, events, now, m, server, seen)
  local hold_ms = hold_length_ms(m)
  m.server, m.epoch_floor = server, int(math.max(highest_given(m, now), now + hold_ms))
  redis.call('HSET', meta, 'server', server, 'epoch_floor', m.epoch_floor, 'lost_at_ms', int(math.max(now, seen)),
    'resynced', m.lineage) -- older programs go by `resynced`
  start_hold(detector, events, now, hold_ms, 'lost_writes', true)
end

-- Every script asks this first: the partition's meta, and whether transfers are held.
-- `server` is the run id that the caller's connection learnt; '' when it may not ask.
-- A caller that beats, joins or looks also says what it remembers: `lineage`, '' for none, which it has known since `since_ms`, and
-- the highest epoch. Another lineage than ours starts the hold once, and not again for a caller that tells of the same change later.
local function guard(meta, detector, events, now, server, lineage, since_ms, epoch)
  local v = redis.call('HMGET', meta, 'server', 'lineage', 'epoch_floor', 'epoch_highest', 'hold_ms')
  local m = { server = v[1] or nil, lineage = v[2] or nil, epoch_floor = v[3] or nil, epoch_highest = v[4] or nil, hold_ms = v[5] or nil }
  local ends = tonumber(redis.call('HGET', detector, 'transfers_held_until_ms') or nil) or 0
  -- A clock that stepped back must not make a hold endless.
  local held = ends > now and ends <= now + hold_length_ms(m)
  if not m.lineage then
    return m, held
  end
  if server ~= '' and m.server ~= server then
    if m.server and m.server ~= '' then
      lost_writes(meta, detector, events, now, m, server, 0)
      held = true
    else
      redis.call('HSET', meta, 'server', server)
      m.server = server
    end
  end
  if lineage and lineage ~= '' and lineage ~= m.lineage then
    local lost_at = tonumber(redis.call('HGET', meta, 'lost_at_ms') or nil) or 0
    local since = tonumber(since_ms) or 0
    if (lost_at == 0 or since > lost_at) and not held then
      lost_writes(meta, detector, events, now, m, m.server or '', since)
      held = true
    elseif since > lost_at then -- the hold that is on is for this change
      redis.call('HSET', meta, 'lost_at_ms', int(since))
    end
  end
  -- The epoch may be of a session and a history of which nothing is left, although this history gave as high an epoch to another
  -- session. An epoch that the clock has passed need not be remembered.
  if epoch_of(epoch) >= now then
    raise_floor(meta, m, epoch)
  end
  return m, held
end
