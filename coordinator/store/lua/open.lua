-- open.lua: an instance becomes the first owner of a session.
--
-- KEYS meta     HASH    the partition
-- KEYS detector HASH    holds
-- KEYS events   STREAM  what happened
-- KEYS instance HASH    the owner to be
-- KEYS owned    SET     what it owns
-- KEYS session  HASH    the record
-- ARGV server   text    run id of the server of this connection
-- ARGV id       text    session id
-- ARGV owner    text    instance id
-- ARGV request  text    request id
-- ARGV floor    int     highest epoch that the caller has seen
-- ARGV pool     text    whose instances may adopt it
-- ARGV tenant   text
-- ARGV requires text    JSON list of labels that an adopter must have
-- ARGV data     bytes   recovery data
-- ARGV encoding text    json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- REPLY OK epoch existing data encoding checkpoint now_ms
-- REPLY OWNED owner state
-- REPLY DRAINING
-- REPLY HELD
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: the same request gets the same epoch again.
-- USES now read epoch event hold
local meta, detector, events, instance, owned, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local server, id, owner, request, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local pool, tenant, requires, data, encoding = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read(instance, 'state', 'cause')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
if not me.state then
  return { 'UNKNOWN' }
end
if held then
  return { 'HELD' }
end
local r = read(session, 'state', 'owner', 'epoch', 'request', 'data', 'encoding', 'checkpoint')
if r.state and r.state ~= 'closed' then
  if r.owner ~= owner then
    return { 'OWNED', 'owner', r.owner or '', 'state', r.state }
  end
  local existing = r.request == request and '0' or '1'
  return { 'OK', 'epoch', r.epoch, 'existing', existing, 'data', r.data or '',
      'encoding', r.encoding or '', 'checkpoint', r.checkpoint or '0',
    'now_ms', int(now) }
end
if me.state == 'draining' then
  return { 'DRAINING' }
end
local epoch = next_epoch(r.epoch, floor, now, m.epoch_floor)
redis.call('SADD', owned, id)
redis.call('DEL', session)
redis.call('HSET', session, 'state', 'active', 'owner', owner, 'epoch', epoch, 'pool', pool, 'tenant', tenant,
  'requires', requires, 'data', data, 'encoding', encoding, 'checkpoint', '0', 'opened_at', int(now), 'updated_at', int(now),
  'offers', '0', 'recoveries', '0', 'orphanings', '', 'lease_holder', '', 'lease_until', '0', 'request', request,
  'offer_id', '', 'heir', '', 'anew', '0')
event(events, 'opened', now, 'session', id, 'instance', owner, 'epoch', epoch)
return { 'OK', 'epoch', epoch, 'existing', '0', 'data', data, 'encoding', encoding, 'checkpoint', '0', 'now_ms', int(now) }
