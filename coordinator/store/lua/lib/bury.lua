-- bury.lua: death is one-way. The instance is dead from here on, and it is a grave until all its sessions are claimed.
-- evidence: since when it counted; served_until: the last acknowledged heartbeat.
local function bury(instance_key, instances, graves, events, id, now, cause, by, reason, evidence, served_until)
  redis.call('HSET', instance_key, 'state', 'dead', 'ended_at', int(now), 'cause', cause, 'by', by, 'reason', reason,
    'evidence_at', int(evidence), 'served_until', int(served_until))
  redis.call('ZADD', graves, int(now), id)
  redis.call('ZREM', instances, id)
  event(events, 'died', now, 'instance', id, 'cause', cause, 'by', by, 'reason', reason,
    'detection_ms', int(math.max(0, now - evidence)))
end
