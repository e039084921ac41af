-- extend_leases.lua: a reader works through the offers that it has in hand: their leases begin anew.
--
-- KEYS meta     HASH                          the partition
-- KEYS detector HASH                          holds
-- KEYS leases   ZSET                          offers and handovers
-- KEYS events   STREAM                        what happened
-- KEYS instance HASH <instance(instance)>     the instance that has them in hand
-- KEYS *session HASH <session(sessions)>      the records
-- ARGV server   text                           run id of the server of this connection
-- ARGV reader   text <instance>                instance id
-- ARGV lease_ms duration                       length of the new lease
-- ARGV *offer   pair[BATCH] <sessions epochs>  session id and epoch of the offer, with a space between
-- REPLY OK kept:lines
-- REPLY FENCED cause
-- RETRY safe: the lease begins anew again.
-- USES now read stream event hold
local meta, detector, leases, events, instance = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local FIRST_KEY = 5
local server, reader, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_ARG = 3

local now = now_ms()
guard(meta, detector, events, now, server)
local me = read_instance(instance, 'state', 'cause')
if me.state == 'dead' then
  return { 'FENCED', 'cause', me.cause or '' }
end
local records, kept = {}, {}
for i = FIRST_KEY + 1, #KEYS do
  records[i] = read_session(KEYS[i], 'state', 'epoch', 'offer_id')
end
for i = FIRST_KEY + 1, #KEYS do
  local key, r = KEYS[i], records[i]
  local id, epoch = string.match(ARGV[FIRST_ARG + i - FIRST_KEY], '^(.*) (%d+)$')
  if r.state == 'offered' and r.epoch == epoch and (r.offer_id or '') ~= '' then
    redis.call('ZADD', leases, int(now + lease_ms), id)
    redis.call('HSET', key, 'lease_holder', reader, 'lease_until', int(now + lease_ms))
    kept[#kept + 1] = id
  end
end
return { 'OK', 'kept', table.concat(kept, '\n') }
