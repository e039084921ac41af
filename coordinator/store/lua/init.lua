-- init.lua: makes the partition, or tells how it was made.
--
-- KEYS meta       HASH    the partition
-- KEYS detector   HASH    holds
-- KEYS events     STREAM  what happened
-- ARGV server     text      run id of the server of this connection
-- ARGV partitions int       how many partitions the caller believes in
-- ARGV protocol   int       version of keys and scripts that the caller speaks
-- ARGV lineage    text      a new random id, used when there is none; '' when the caller is not to make the partition
-- ARGV hold_ms    duration  length of a hold
-- ARGV previous   text=''   lineage that the caller knew before; '' at a first start
-- REPLY OK lineage server created:flag protocol:int
-- REPLY PARTITIONS partitions:int
-- REPLY PROTOCOL protocol:int
-- REPLY UNMADE
-- RETRY safe: the second call finds what the first made.
-- USES now read stream event hold
local meta, detector, events = KEYS[1], KEYS[2], KEYS[3]
local server, partitions, protocol, lineage, hold_ms, previous = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local now = now_ms()
local m = read_meta(meta, 'partitions', 'protocol', 'lineage', 'server', 'hold_ms', 'epoch_floor')
if m.lineage then
  if m.partitions ~= partitions then
    return { 'PARTITIONS', 'partitions', m.partitions }
  end
  if tonumber(m.protocol) > tonumber(protocol) + 1 or tonumber(m.protocol) < tonumber(protocol) - 1 then
    return { 'PROTOCOL', 'protocol', m.protocol }
  end
  if m.hold_ms ~= hold_ms then
    redis.call('HSET', meta, 'hold_ms', hold_ms)
  end
  return { 'OK', 'lineage', m.lineage, 'server', m.server or '', 'created', '0', 'protocol', m.protocol }
end
if lineage == '' then
  return { 'UNMADE' }
end
redis.call('HSET', meta, 'partitions', partitions, 'protocol', protocol, 'lineage', lineage, 'server', server,
  'epoch_floor', m.epoch_floor or '0', 'hold_ms', hold_ms)
if previous ~= '' then
  lost_writes(meta, detector, events, now, { lineage = lineage, hold_ms = hold_ms }, server, 0)
end
return { 'OK', 'lineage', lineage, 'server', server, 'created', '1', 'protocol', protocol }
