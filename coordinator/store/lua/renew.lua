-- renew.lua: after the hold a re-asserted session gets a new epoch; only then may its owner write.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS events   STREAM                    what happened
-- KEYS instance HASH <instance(instance)> the owner
-- KEYS session  HASH <session(session)>   the record
-- ARGV server   text                      run id of the server of this connection
-- ARGV id       text <session>            session id
-- ARGV owner    text <instance>           instance id
-- ARGV epoch    int                       the epoch that it re-asserted
-- REPLY OK epoch:int checkpoint:int
-- REPLY HELD
-- REPLY GONE state owner epoch:int
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: the second call gets the epoch of the first.
-- USES now read epoch stream event hold roll
local meta, detector, events, instance, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local server, id, owner, epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'roll')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
elseif not me.state then
  return { 'UNKNOWN' }
elseif held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'owner', 'epoch', 'anew', 'renewed_from', 'checkpoint')
if r.owner ~= owner or (r.state ~= 'active' and r.state ~= 'handing_over') then
  return { 'GONE', 'state', r.state or '', 'owner', r.owner or '', 'epoch', r.epoch or '' }
end
if r.renewed_from == epoch and r.epoch ~= epoch then
  return { 'OK', 'epoch', r.epoch, 'checkpoint', r.checkpoint or '0' }
end
if r.epoch ~= epoch then
  return { 'GONE', 'state', r.state, 'owner', r.owner, 'epoch', r.epoch }
end
if r.anew ~= '1' then
  return { 'OK', 'epoch', epoch, 'checkpoint', r.checkpoint or '0' }
end
local new_epoch = next_epoch(meta, m, r.epoch, epoch, now)
enroll(instance, id, new_epoch, epoch)
redis.call('HSET', session, 'epoch', new_epoch, 'anew', '0', 'renewed_from', epoch, 'checkpoint', '0')
return { 'OK', 'epoch', new_epoch, 'checkpoint', '0' }
