-- checkpoint.lua: the owner writes newer recovery data.
--
-- KEYS meta     HASH                      the partition
-- KEYS detector HASH                      holds
-- KEYS events   STREAM                    what happened
-- KEYS instance HASH <instance(instance)> the writer
-- KEYS session  HASH <session(session)>   the record
-- ARGV server   text                      run id of the server of this connection
-- ARGV id       text <session>            session id
-- ARGV owner    text <instance>           instance id
-- ARGV epoch    int                       the epoch that the writer holds
-- ARGV sequence int                       number of this checkpoint within the epoch, from 1; one count for all that write it
-- ARGV writer   text=''                   '' for the owner itself, else the child that writes for it
-- ARGV attempt  int=0                     of the same number: a writer whose last one has no answer does not count on, it tries that number again
-- ARGV data     bytes                     recovery data
-- ARGV encoding text='bytes'              json (a mapping) or bytes: how the owner gave the data; Lua never looks into it
-- REPLY OK
-- REPLY OLD checkpoint:int
-- REPLY FENCED scope owner epoch:int state
-- REPLY RESYNC
-- REPLY UNKNOWN
-- RETRY safe: the same sequence and attempt of the same writer answers OK and changes nothing.
-- USES now read stream event hold owner refuse
local meta, detector, events, instance, session = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local server, id, owner, epoch, sequence = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local writer, attempt, data, encoding = ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local now = now_ms()
local _, held = guard(meta, detector, events, now, server)
local state = read_instance(instance, 'state').state
local refused = refuse(state, nil, held, events, now, 'checkpoint', id, owner, epoch)
if refused then
  return refused
end
local r = read_session(session, 'state', 'owner', 'epoch', 'renewed_from', 'checkpoint', 'anew', 'writer', 'attempt_of_writer')
refused = refuse(state, r, held, events, now, 'checkpoint', id, owner, epoch)
if refused then
  return refused
end
local stored = tonumber(r.checkpoint) or 0
local last_writer = r.writer or ''
if tonumber(sequence) < stored or (tonumber(sequence) == stored and writer ~= last_writer) then
  return { 'OLD', 'checkpoint', r.checkpoint }
end
local last_attempt = r.attempt_of_writer or '0'
if tonumber(sequence) > stored or tonumber(attempt) > tonumber(last_attempt) then
  redis.call('HSET', session, 'data', data, 'encoding', encoding, 'checkpoint', sequence, 'updated_at', int(now))
  if writer ~= last_writer or attempt ~= last_attempt then
    redis.call('HSET', session, 'writer', writer, 'attempt_of_writer', attempt)
  end
end
return { 'OK' }
