-- join.lua: an instance registers; an older one of the same name is buried once its trust window is over.
--
-- KEYS meta          HASH                      the partition
-- KEYS detector      HASH                      holds
-- KEYS instances     ZSET                      heartbeats
-- KEYS graves        ZSET                      dead instances that still own sessions
-- KEYS events        STREAM                    what happened
-- KEYS names         HASH                      name -> newest instance id
-- KEYS instance      HASH <instance(instance)> the newcomer
-- KEYS older         HASH <instance(predecessor or instance)> the predecessor; the newcomer's own key when none is known
-- ARGV server        text                 run id of the server of this connection
-- ARGV id            text <instance>      instance id of the newcomer
-- ARGV name          text                 its name
-- ARGV pool          text                 its pool
-- ARGV capacity      int                  sessions that it takes
-- ARGV labels        text                 JSON
-- ARGV address       text                 where it can be reached
-- ARGV dead_after_ms duration             silence that means death
-- ARGV trust_ms      duration             trust window
-- ARGV predecessor   text=''              instance id of the predecessor, '' when none is known
-- ARGV token_hash    text=''              SHA-256 of the token by which a worker is recognised; '' for none
-- ARGV hosting       text=''              JSON: how the next sidecar finds and watches it; '' when none stands for it
-- ARGV lineage       text <past.lineage>  the one that it knew before; '' for none
-- ARGV since_ms      int <past.since_ms>  since when it knew that one, by the server's clock of then
-- ARGV epoch         int <past.epoch>     highest epoch that it remembers
-- ARGV tenant        text=''              the only tenant whose sessions it may have; '' for any
-- ARGV again         flag=0               1: this id was registered before, and the store has forgotten it
-- REPLY OK lineage server now_ms:int
-- REPLY NAME_IN_USE instance retry_ms:duration
-- REPLY AGAIN predecessor
-- REPLY FENCED cause
-- REPLY UNKNOWN
-- RETRY safe: the id is the request; a second call answers OK again.
-- USES now read stream event hold bury
local meta, detector, instances, graves, events, names = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local instance, older = KEYS[7], KEYS[8]
local server, id, name, pool, capacity, labels = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local address, dead_after_ms, trust_ms, predecessor = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]
local token_hash, hosting, lineage, since_ms, epoch = ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15]
local tenant, again = ARGV[16], ARGV[17]

local now = now_ms()
local m = guard(meta, detector, events, now, server, lineage, since_ms, epoch)
if not m.lineage then
  return { 'UNKNOWN' } -- the partition was never made, or is gone: init first
end
local me = read_instance(instance, 'state', 'cause', 'incomplete')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
local current = redis.call('HGET', names, name)
if current and current ~= id then
  if current ~= predecessor then
    return { 'AGAIN', 'predecessor', current }
  end
  local p = read_instance(older, 'state', 'dead_after_ms', 'trust_ms')
  if p.state and p.state ~= 'dead' then
    local deadline = tonumber(redis.call('ZSCORE', instances, predecessor) or 0)
    local last_beat = math.min(now, deadline - (tonumber(p.dead_after_ms) or 0))
    local wait = last_beat + (tonumber(p.trust_ms) or 0) - now
    local d = read(detector, 'hold_until_ms')
    local hold_left = (tonumber(d.hold_until_ms) or 0) - now
    if hold_left > 0 and hold_left <= hold_length_ms(m) then
      wait = math.max(wait, hold_left) -- through no fault of its own its beats may not have come through
    end
    if wait >= 0 and not (again == '1' and id > predecessor) then -- an instance that succeeded it before does not wait: a hold is short
      return { 'NAME_IN_USE', 'instance', predecessor, 'retry_ms', int(wait + 1) }
    end
    bury(older, instances, graves, events, predecessor, now, 'succession', id, 'the same name registered again', now,
      last_beat)
  end
end
redis.call('ZADD', instances, int(now + dead_after_ms), id)
redis.call('HSET', names, name, id)
if not me.state or me.incomplete then
  redis.call('HSET', instance, 'name', name, 'pool', pool, 'capacity', capacity, 'owned', '0', 'labels', labels,
    'address', address, 'state', me.state or 'alive', 'loop_lag', '0', 'started_at', int(now), 'ended_at', '', 'cause', '',
    'asked', '0', 'tenant', tenant)
  redis.call('HDEL', instance, 'incomplete')
  if token_hash ~= '' then
    redis.call('HSET', instance, 'token_hash', token_hash)
  end
  event(events, 'joined', now, 'instance', id)
end
redis.call('HSET', instance, 'dead_after_ms', int(dead_after_ms), 'trust_ms', trust_ms)
if hosting ~= '' then -- another sidecar than before may stand for it, with other settings
  redis.call('HSET', instance, 'hosting', hosting)
end
return { 'OK', 'lineage', m.lineage, 'server', m.server or '', 'now_ms', int(now) }
