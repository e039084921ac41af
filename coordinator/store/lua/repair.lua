-- repair.lua: makes the indexes agree with the record, which is the truth.
--
-- KEYS meta          HASH                    the partition
-- KEYS detector      HASH                    holds
-- KEYS instances     ZSET                    heartbeats
-- KEYS graves        ZSET                    dead instances that still own sessions
-- KEYS leases        ZSET                    offers and handovers
-- KEYS orphans       ZSET                    sessions without an owner
-- KEYS dead_letters  ZSET                    sessions given up on
-- KEYS events        STREAM                  what happened
-- KEYS session       HASH <session(session)> the record
-- KEYS instance      HASH <instance(owner)>  the owner named in the record as last read
-- KEYS owned         SET <owned(owner)>      what it owns
-- ARGV server        text            run id of the server of this connection
-- ARGV id            text <session>  session id
-- ARGV owner         text            instance id, '' when the record names none
-- ARGV dead_after_ms duration        deadline of an instance whose heartbeat entry is missing
-- REPLY OK repaired
-- REPLY GONE
-- REPLY HELD
-- RETRY safe: a second call finds nothing to repair.
-- USES now read stream event hold
local meta, detector, instances, graves, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local orphans, dead_letters, events = KEYS[6], KEYS[7], KEYS[8]
local session, instance, owned = KEYS[9], KEYS[10], KEYS[11]
local server, id, owner, dead_after_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local now = now_ms()
local _, held = guard(meta, detector, events, now, server)
if held then
  return { 'HELD' } -- owners are stating again what they hold
end
local r = read_session(session, 'state', 'owner', 'lease_until', 'orphaned_at', 'dead_lettered_at')
if not r.state or r.state == 'closed' or (r.owner or '') ~= owner then
  return { 'GONE' }
end
local o, repaired = read_instance(instance, 'state'), {}
local function add(zset, score, member, name)
  if not redis.call('ZSCORE', zset, member) then
    redis.call('ZADD', zset, int(score), member)
    repaired[#repaired + 1] = name
  end
end
if r.state == 'offered' or r.state == 'handing_over' then
  add(leases, tonumber(r.lease_until) or now, id, 'leases')
end
if r.state == 'offered' then
  add(orphans, tonumber(r.orphaned_at) or now, id, 'orphans')
elseif r.state == 'dead_lettered' then
  add(dead_letters, tonumber(r.dead_lettered_at) or now, id, 'dead_letters')
else
  if redis.call('SADD', owned, id) == 1 then
    repaired[#repaired + 1] = 'owned'
  end
  if not o.state then -- the owner has no record, so it is dead
    redis.call('HSET', instance, 'state', 'dead', 'ended_at', int(now), 'evidence_at', int(now), 'served_until', int(now),
      'cause', 'unknown', 'by', 'sweep', 'reason', 'named by a session and by nothing else')
    o.state = 'dead'
    repaired[#repaired + 1] = 'instance'
  end
  if o.state == 'dead' then
    add(graves, now, owner, 'graves')
    redis.call('PERSIST', instance)
  else
    add(instances, now + dead_after_ms, owner, 'instances')
  end
end
return { 'OK', 'repaired', table.concat(repaired, ',') }
