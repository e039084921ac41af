-- blame.lua: writes once what a death says about the sessions of the dead; the coordinators that claim them go by it.
--
-- KEYS instance       HASH <instance(grave)> the dead
-- ARGV server         text      run id of the server of this connection
-- ARGV blamed_from_ms int       of the sessions that died before, those that the dead got before this are not blamed; 0: all are
-- ARGV convict        text      the only session that can have done it; '' while there are several
-- ARGV apart          int       how many of the blamed one heir gets within a probation; 0: need not be kept apart
-- ARGV probation_ms   duration  how long a blamed session must be served before it is clear of this
-- REPLY OK
-- REPLY GONE
-- RETRY safe: the first verdict stands, and a second call answers OK.
-- USES read
local instance = KEYS[1]
local blamed_from_ms, convict, apart, probation_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if read_instance(instance, 'state').state ~= 'dead' then
  return { 'GONE' }
end
if redis.call('HEXISTS', instance, 'apart') == 0 then
  redis.call('HSET', instance, 'blamed_from_ms', blamed_from_ms, 'convict', convict, 'apart', apart,
    'probation_ms', probation_ms)
end
return { 'OK' }
