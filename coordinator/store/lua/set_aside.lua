-- set_aside.lua: what does not parse is kept as it was and made usable again, or given up on; nothing else waits for it.
-- A session is left to its living owner, which can state it again; without one it becomes a dead letter with its data.
--
-- KEYS meta         HASH                        the partition
-- KEYS detector     HASH                        holds
-- KEYS events       STREAM                      what happened
-- KEYS quarantine   ZSET                        what was set aside
-- KEYS kept         HASH <set_aside(member)>    the reason, and the fields as they were
-- KEYS kept_key     any <set_aside_key(member)> a key of another type, as it was
-- KEYS instances    ZSET                        heartbeats
-- KEYS graves       ZSET                        dead instances that still own sessions
-- KEYS leases       ZSET                        offers and handovers
-- KEYS orphans      ZSET                        sessions without an owner
-- KEYS dead_letters ZSET                        sessions given up on
-- KEYS record       any <record(kind, name)>    what is broken
-- KEYS owner        HASH <instance(owner)>      the instance that owns the session, as far as the record or the caller knows
-- KEYS owned        SET <owned(owner)>          what that one owns
-- ARGV server   text                      run id of the server of this connection
-- ARGV member   text                      under which name it is kept
-- ARGV kind     text                      kind of the key
-- ARGV name     text                      id of the session or instance, or the key
-- ARGV wanted   text                      type that the key must have
-- ARGV fault    text                      what is wrong, for people
-- ARGV owner_id text='' <owner>           instance id of the owner, '' for none
-- ARGV ttl_ms   duration=DEAD_LETTER_TTL  for how long it is kept
-- ARGV *broken  fields                    names and values in turn: fields that are broken, as they were read
-- REPLY OK done
-- REPLY HELD
-- REPLY GONE
-- RETRY safe: a second call answers GONE.
-- USES now read epoch stream event hold dead_letter quarantine
local meta, detector, events, quarantine, kept, kept_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local instances, graves, leases, orphans, dead_letters = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local record, owner, owned = KEYS[12], KEYS[13], KEYS[14]
local server, member, kind, name, wanted, fault, owner_id, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local FIRST_ARG = 8
-- These say which instance owns a session, which may serve it and what is in it: without one it cannot be used as it is.
local ESSENTIAL = { state = true, owner = true, epoch = true, pool = true, requires = true, tenant = true, encoding = true, data = true }

local now = now_ms()
local there = redis.call('TYPE', record).ok
if there == 'none' then
  return { 'GONE' }
end
local function keep(type_there)
  list(quarantine, now, member)
  redis.call('DEL', kept)
  redis.call('HSET', kept, 'kind', kind, 'name', name, 'fault', fault, 'at', int(now), 'type', type_there)
end
local function note()
  redis.call('PEXPIRE', kept, ttl_ms)
  event(events, 'quarantined', now, 'kind', kind, 'name', name, 'fault', fault)
end
if there ~= wanted then
  if record ~= quarantine then
    keep(there)
  end
  redis.call('RENAME', record, kept_key)
  if record == quarantine then
    keep(there)
  end
  redis.call('PEXPIRE', kept_key, ttl_ms)
  note()
  return { 'OK', 'done', 'moved' }
end
local faulty, essential = {}, false
for i = FIRST_ARG + 1, #ARGV, 2 do
  if (redis.call('HGET', record, ARGV[i]) or '') ~= ARGV[i + 1] then
    return { 'GONE' } -- it was written anew meanwhile
  end
  faulty[ARGV[i]] = true
  essential = essential or ESSENTIAL[ARGV[i]] == true
end
local function get(key, field)
  return redis.call('HGET', key, field) or ''
end
local m, held
if kind == 'session' or kind == 'letter' then -- the guard reads meta and detector, which may be what is broken
  m, held = guard(meta, detector, events, now, server)
end
local state = faulty.state and '' or get(record, 'state')
local ended = state == 'closed' or state == 'dead_lettered'
local lives = false
if kind == 'session' and owner_id ~= '' and not ended and state ~= 'offered' then
  local owner_state = redis.pcall('HGET', owner, 'state')
  local indexed = redis.pcall('SISMEMBER', owned, name)
  lives = (owner_state == 'alive' or owner_state == 'draining') and (get(record, 'owner') == owner_id or indexed == 1)
end
local gives_up = kind == 'session' and essential and not ended and not lives
if gives_up and held then
  return { 'HELD' } -- its owner may be about to state it again
end
keep(there)
local all = redis.call('HGETALL', record)
for i = 1, #all, 2 do
  redis.call('HSET', kept, 'raw:' .. all[i], all[i + 1])
end
for field in pairs(faulty) do
  if field ~= 'data' then
    redis.call('HDEL', record, field)
  end
end
local done = 'mended'
if kind == 'session' and lives and essential then -- below every epoch, so that its owner states it again
  local pool = get(owner, 'pool')
  redis.call('HSET', record, 'state', state == '' and 'active' or state, 'owner', owner_id, 'epoch', '0', 'checkpoint', '0')
  if faulty.pool then
    redis.call('HSET', record, 'pool', pool == '' and 'default' or pool)
  end
  redis.call('HDEL', owner, 'roll')
  done = 'left_to_owner'
elseif kind == 'session' or kind == 'letter' then
  if faulty.epoch then
    redis.call('HSET', record, 'epoch', next_epoch(meta, m, '0', '0', now))
  end
  if faulty.pool then
    redis.call('HSET', record, 'pool', 'default')
  end
  if faulty.encoding or (faulty.data and string.sub(get(record, 'encoding'), 1, 7) ~= 'sealed:') then
    redis.call('HSET', record, 'encoding', 'bytes')
  end
  if gives_up then
    dead_letter(meta, m, record, dead_letters, leases, orphans, events, name, now, 'broken', ttl_ms)
    if owner_id ~= '' then
      redis.pcall('SREM', owned, name)
    end
    done = 'dead_lettered'
  end
elseif kind == 'instance' then
  if faulty.pool then
    redis.call('HSET', record, 'pool', 'default')
  end
  if faulty.state then
    local buried = redis.pcall('ZSCORE', graves, name)
    local beats = redis.pcall('ZSCORE', instances, name)
    state = type(buried) == 'string' and 'dead' or type(beats) == 'string' and 'alive' or ''
    if state == '' then
      redis.call('DEL', record) -- no index knows it: if it lives, it registers again
    else
      redis.call('HSET', record, 'state', state)
    end
  end
  if state == 'alive' or state == 'draining' then
    redis.call('HSET', record, 'incomplete', '1') -- at its next beat it registers again, with all that it says of itself
  end
elseif kind == 'meta' and (faulty.partitions or faulty.protocol) then
  redis.call('HDEL', record, 'lineage', 'partitions', 'protocol') -- it is made anew, as after a wipe
end
note()
return { 'OK', 'done', done }
