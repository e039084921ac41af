-- hold.lua: for now nobody is declared dead; after lost writes nothing changes hands either.

-- Milliseconds spent in holds up to now: an orphan's age does not count them.
local function held_ms(d, now)
  local total = tonumber(d.held_total_ms) or 0
  local started = tonumber(d.hold_started_ms) or 0
  if started > 0 then
    total = total + math.max(0, math.min(now, tonumber(d.hold_until_ms) or 0) - started)
  end
  return total
end

local function start_hold(detector, events, now, length, reason, transfers)
  local d = read(detector, 'held_total_ms', 'hold_started_ms', 'hold_until_ms')
  local ends = tonumber(d.hold_until_ms) or 0
  local started = tonumber(d.hold_started_ms) or 0
  local total = tonumber(d.held_total_ms) or 0
  if started == 0 or ends < now or started > now then
    total = held_ms(d, now)
    started = now
  end
  redis.call('HSET', detector, 'held_total_ms', int(total), 'hold_started_ms', int(started),
    'hold_until_ms', int(now + length), 'hold_reason', reason)
  if transfers then
    redis.call('HSET', detector, 'transfers_held_until_ms', int(now + length))
  end
  event(events, 'hold', now, 'reason', reason, 'hold_ms', int(length))
end

-- Writes were lost, or may have been: hold, and lift the epochs above all that the old clock can have given out
-- (its clock is assumed to be less than an hour ahead of this one).
local function lost_writes(meta, detector, events, now, server)
  local m = read(meta, 'epoch_floor', 'hold_ms')
  local floor = math.max((tonumber(m.epoch_floor) or 0) + 1000000, now + 3600000)
  redis.call('HSET', meta, 'server', server, 'epoch_floor', int(floor))
  start_hold(detector, events, now, tonumber(m.hold_ms) or 2000, 'lost_writes', true)
end

-- What every script asks first: the partition's meta, and whether transfers are held.
-- `server` is the run id that the caller's connection learnt; '' when it may not ask.
local function guard(meta, detector, events, now, server)
  local m = read(meta, 'server', 'lineage', 'epoch_floor', 'hold_ms')
  if m.lineage and server ~= '' and m.server ~= server then
    if m.server and m.server ~= '' then
      lost_writes(meta, detector, events, now, server)
      m = read(meta, 'server', 'lineage', 'epoch_floor', 'hold_ms')
      return m, true
    end
    redis.call('HSET', meta, 'server', server)
    m.server = server
  end
  local ends = tonumber(redis.call('HGET', detector, 'transfers_held_until_ms') or 0)
  -- A clock that stepped back must not make a hold endless.
  return m, ends > now and ends <= now + (tonumber(m.hold_ms) or 2000)
end
