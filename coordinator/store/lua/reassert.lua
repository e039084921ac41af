-- reassert.lua: after lost writes an owner states again what it held; the highest epoch wins while the hold lasts.
-- After the hold it counts only where nothing is stored, or an older epoch of the same owner. A re-asserted session is renewed before its next write.
--
-- KEYS meta           HASH                           the partition
-- KEYS detector       HASH                           holds
-- KEYS leases         ZSET                           offers and handovers
-- KEYS orphans        ZSET                           sessions without an owner
-- KEYS dead_letters   ZSET                           sessions given up on
-- KEYS events         STREAM                         what happened
-- KEYS instance       HASH <instance(instance)>      the owner
-- KEYS owned          SET <owned(instance)>          what it owns
-- KEYS session        HASH <session(session)>        the record
-- KEYS offers         STREAM <offers(pool)>          offers of the session's pool
-- KEYS rival_instance HASH <instance(rival or instance)> the owner in the store; the caller's own record when it knows of none
-- KEYS rival_owned    SET <owned(rival or instance)> what that one owns
-- ARGV server         text                           run id of the server of this connection
-- ARGV id             text <session>                 session id
-- ARGV owner          text <instance>                instance id
-- ARGV epoch          int                            the epoch that it held
-- ARGV sequence       int                            number of its last data
-- ARGV data           bytes                          its last data
-- ARGV encoding       text='bytes'                   json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- ARGV pool           text
-- ARGV tenant         text
-- ARGV requires       text
-- ARGV opened_at_ms   int
-- ARGV rival          text=''                        owner in the store as last told by AGAIN, '' at first
-- REPLY OK epoch:int
-- REPLY AGAIN rival
-- REPLY GONE state owner epoch:int
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: states the same again.
-- USES now read epoch stream event hold entry roll
local meta, detector, leases, orphans, dead_letters = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local events, instance, owned, session, offers = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local rival_instance, rival_owned = KEYS[11], KEYS[12]
local server, id, owner, epoch, sequence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local data, encoding, pool, tenant, requires = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local opened_at_ms, rival = ARGV[11], ARGV[12]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'roll')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
elseif not me.state or not m.lineage then
  return { 'UNKNOWN' }
end
local r = read_session(session, 'state', 'owner', 'epoch', 'checkpoint', 'offer_id')
local stored, mine = tonumber(r.epoch) or 0, tonumber(epoch)
local ours = r.owner == owner and stored <= mine and (r.state == 'active' or r.state == 'handing_over')
local same = ours and r.epoch == epoch
if r.state and not ours and (stored >= mine or not held) then
  return { 'GONE', 'state', r.state, 'owner', r.owner or '', 'epoch', r.epoch }
end
local other = r.owner
if other and other ~= '' and other ~= owner and other ~= rival then
  return { 'AGAIN', 'rival', other }
end
redis.call('SADD', owned, id)
note_epoch(meta, m, mine, now)
if same then
  redis.call('HSET', session, 'anew', '1')
  if tonumber(sequence) > (tonumber(r.checkpoint) or 0) then
    redis.call('HSET', session, 'data', data, 'encoding', encoding, 'checkpoint', sequence, 'updated_at', int(now))
  end
  return { 'OK', 'epoch', epoch }
end
if other and other ~= '' and other ~= owner then
  redis.call('SREM', rival_owned, id)
  local served = r.state == 'active' or r.state == 'handing_over'
  if served and redis.call('HEXISTS', rival_instance, 'state') == 1 then
    enroll(rival_instance, id, nil, r.epoch)
  end
end
enroll(instance, id, epoch, ours and r.epoch or nil)
drop_entry(offers, r.offer_id) -- its data would stay in the stream
redis.call('HSET', session, 'state', 'active', 'owner', owner, 'epoch', epoch, 'pool', pool, 'tenant', tenant,
  'requires', requires, 'data', data, 'encoding', encoding, 'checkpoint', sequence, 'opened_at', opened_at_ms, 'updated_at', int(now),
  'anew', '1', 'offers', '0', 'offer_id', '', 'heir', '', 'lease_holder', '', 'lease_until', '0')
redis.call('PERSIST', session)
redis.call('ZREM', leases, id)
redis.call('ZREM', orphans, id)
redis.call('ZREM', dead_letters, id)
event(events, 'reasserted', now, 'session', id, 'instance', owner, 'epoch', epoch)
return { 'OK', 'epoch', epoch }
