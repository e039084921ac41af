-- open.lua: an instance becomes the first owner of a session. A dead letter of the same id is kept under its own epoch.
--
-- KEYS meta         HASH                      the partition
-- KEYS detector     HASH                      holds
-- KEYS events       STREAM                    what happened
-- KEYS instance     HASH <instance(instance)> the owner to be
-- KEYS owned        SET <owned(instance)>     what it owns
-- KEYS session      HASH <session(session)>   the record
-- KEYS letter       HASH <letter_or_record(session, letter_epoch)> where a dead letter of this id is kept; the session's own key when none is known
-- KEYS dead_letters ZSET                      sessions given up on
-- ARGV server       text                      run id of the server of this connection
-- ARGV id           text <session>            session id
-- ARGV owner        text <instance>           instance id
-- ARGV request      text                      request id
-- ARGV floor        int                       highest epoch that the caller has seen
-- ARGV pool         text                      whose instances may adopt it
-- ARGV tenant       text
-- ARGV requires     text                      JSON list of labels that an adopter must have
-- ARGV data         bytes                     recovery data
-- ARGV encoding     text='bytes'              json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- ARGV letter_epoch text=''                   epoch of that dead letter as last told by AGAIN; '' at first
-- REPLY OK epoch:int existing:flag data:bytes encoding checkpoint:int now_ms:int
-- REPLY OWNED owner state
-- REPLY AGAIN letter_epoch
-- REPLY DRAINING
-- REPLY HELD
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: the same request gets the same epoch again.
-- USES now read epoch stream event hold roll again
local meta, detector, events, instance, owned, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local letter, dead_letters = KEYS[7], KEYS[8]
local server, id, owner, request, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local pool, tenant, requires, data, encoding, letter_epoch = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]

local now = now_ms()
local m, held = guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause', 'roll')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
if not me.state then
  return { 'UNKNOWN' }
end
if held then
  return { 'HELD' }
end
local r = read_session(session, 'state', 'owner', 'epoch', 'request', 'data', 'encoding', 'checkpoint', 'dead_lettered_at')
if r.state and r.state ~= 'closed' and r.state ~= 'dead_lettered' then
  if r.owner ~= owner then
    return { 'OWNED', 'owner', r.owner or '', 'state', r.state }
  end
  local existing = r.request == request and '0' or '1'
  if existing == '1' and r.state == 'active' and not is_late(request, r.request) then -- the owner asks because it does not hold it (lib/again.lua)
    r.epoch, r.checkpoint = take_again(meta, m, instance, session, id, r.epoch, floor, request, now), '0'
  end
  return { 'OK', 'epoch', r.epoch, 'existing', existing, 'data', r.data or '',
      'encoding', r.encoding or '', 'checkpoint', r.checkpoint or '0',
    'now_ms', int(now) }
end
if me.state == 'draining' then
  return { 'DRAINING' }
end
local given_up = r.state == 'dead_lettered'
if given_up and r.epoch ~= letter_epoch then
  return { 'AGAIN', 'letter_epoch', r.epoch }
end
local epoch = next_epoch(meta, m, r.epoch, floor, now)
if given_up then -- the caller calls again: the dead letter is another call, and keeps its data and its expiry
  redis.call('HSET', session, 'opened_again_at', int(now)) -- refused when memory is full, before anything has moved
  redis.call('RENAME', session, letter)
  redis.call('ZREM', dead_letters, id)
  redis.call('ZADD', dead_letters, r.dead_lettered_at or int(now), id .. ' ' .. r.epoch)
end
redis.call('SADD', owned, id)
enroll(instance, id, epoch)
redis.call('DEL', session)
redis.call('HSET', session, 'state', 'active', 'owner', owner, 'epoch', epoch, 'pool', pool, 'tenant', tenant,
  'requires', requires, 'data', data, 'encoding', encoding, 'checkpoint', '0', 'opened_at', int(now), 'updated_at', int(now),
  'offers', '0', 'recoveries', '0', 'orphanings', '', 'lease_holder', '', 'lease_until', '0', 'request', request,
  'offer_id', '', 'heir', '', 'anew', '0')
event(events, 'opened', now, 'session', id, 'instance', owner, 'epoch', epoch)
return { 'OK', 'epoch', epoch, 'existing', '0', 'data', data, 'encoding', encoding, 'checkpoint', '0', 'now_ms', int(now) }
