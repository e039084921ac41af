-- resumed.lua: media is up again at the new owner, and the takeover's clock stops.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS events   STREAM                    what happened
-- KEYS instance HASH <instance(instance)> the owner
-- KEYS session  HASH <session(session)>   the record
-- ARGV server text             run id of the server of this connection
-- ARGV id     text <session>   session id
-- ARGV owner  text <instance>  instance id
-- ARGV epoch  int              the epoch that the owner holds
-- REPLY OK resume_ms:duration
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: counted once an epoch.
-- USES now read stream event hold owner refuse
local meta, detector, events, instance, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local server, id, owner, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local now = now_ms()
local _, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state').state
local refused = refuse(state, nil, held, events, now, 'resumed', id, owner, epoch)
if refused then
  return refused
end
local r = read_session(session, 'state', 'owner', 'epoch', 'renewed_from', 'anew', 'cause', 'evidence_at', 'resumed_epoch', 'resume_ms')
refused = refuse(state, r, held, events, now, 'resumed', id, owner, epoch)
if refused then
  return refused
end
if r.resumed_epoch == epoch then
  return { 'OK', 'resume_ms', r.resume_ms or '0' }
end
local resume_ms = int(math.max(0, now - (tonumber(r.evidence_at) or now)))
redis.call('HSET', session, 'resumed_epoch', epoch, 'resumed_at', int(now), 'resume_ms', resume_ms)
event(events, 'resumed', now, 'session', id, 'instance', owner, 'epoch', epoch, 'cause', r.cause or '',
  'resume_ms', resume_ms)
return { 'OK', 'resume_ms', resume_ms }
