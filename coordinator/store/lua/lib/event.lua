-- event.lua: what happened, for counters, logs and people; bounded, and never read by the protocol itself.
local function event(events, kind, now, ...)
  append(events, now, 'MAXLEN', '~', 10000, '*', 'type', kind, 'at', int(now), ...)
end

-- A refusal must reach the caller also when memory is full.
local function event_of_refusal(events, now, operation, session, instance, epoch)
  redis.pcall('XADD', events, 'MAXLEN', '~', 10000, '*', 'type', 'fenced', 'at', int(now),
    'operation', operation, 'session', session, 'instance', instance, 'epoch', epoch)
end
