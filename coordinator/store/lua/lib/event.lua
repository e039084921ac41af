-- event.lua: what happened, for counters, logs and people; bounded, and never read by the protocol itself.
local function event(events, kind, now, ...)
  append(events, now, 'MAXLEN', '~', 10000, '*', 'type', kind, 'at', int(now), ...)
end

-- A refusal must reach the caller also when memory is full. An owner whose own epoch was renewed meanwhile is told the new one. It does
-- not write for another instance's call, as `record` shows, so it makes no event.
local function event_of_refusal(events, now, operation, session, instance, epoch, record)
  if record and record.owner == instance and record.renewed_from == epoch then
    return
  end
  redis.pcall('XADD', events, 'MAXLEN', '~', 10000, '*', 'type', 'fenced', 'at', int(now),
    'operation', operation, 'session', session, 'instance', instance, 'epoch', epoch)
end
