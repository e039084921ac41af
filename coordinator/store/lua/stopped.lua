-- stopped.lua: a child process that was told to stop no longer believes; the owner need not wait for it.
--
-- KEYS session HASH <session(session)>  the record
-- KEYS mailbox CHANNEL <mailbox(child)> the child's
-- ARGV server  text                     run id of the server of this connection
-- ARGV epoch   int                      the epoch under which it believed
-- REPLY OK left:int
-- REPLY GONE
-- RETRY safe: a second call finds it gone.
-- USES read
local session, mailbox = KEYS[1], KEYS[2]
local epoch = ARGV[2]

local r = read_session(session, 'state', 'epoch', 'children')
if r.epoch ~= epoch or not r.children then
  return { 'GONE' }
end
local left = {}
for channel in string.gmatch(r.children, '%S+') do
  if channel ~= mailbox then
    left[#left + 1] = channel
  end
end
redis.call('HSET', session, 'children', table.concat(left, ' '))
if #left == 0 then
  redis.call('HSET', session, 'child_until', '0')
end
return { 'OK', 'left', string.format('%d', #left) }
