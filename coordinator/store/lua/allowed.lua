-- allowed.lua: which commands the user of this connection may not run. Redis 7 is asked; on 6.2 each is tried in a form that does nothing.
--
-- KEYS scratch ANY <=scratch> a key that nothing uses, and that is not there afterwards
-- ARGV server  text           run id of the server of this connection
-- ARGV *tries  text           the words of each command, one a line
-- REPLY OK refused:lines
-- RETRY safe: it changes nothing.
-- USES now
local scratch = KEYS[1]
local FIRST_ARG = 1

-- How a refusal begins: up to Redis 7.0, from 7.2 on, and of a command outside a script.
local REFUSALS = { 'The user executing the script can\'t', 'ACL failure in script', 'NOPERM' }

-- What the refusal of a command that was tried says: `command`, or `access` when its key or channel is not permitted; nil without a refusal.
local function told(words)
  local said = redis.pcall(unpack(words))
  local text = type(said) == 'table' and said.err or ''
  for _, begins in ipairs(REFUSALS) do
    if string.find(text, begins, 1, true) then
      return (string.find(text, 'can\'t run', 1, true) or string.find(text, 'to run', 1, true)) and 'command' or 'access'
    end
  end
  return nil
end

-- The same for a command of which the server says that it is refused. Before Redis 8 the server may be asked for it without its key. A command
-- that cannot be asked for alone, and that no script may run, may lack either.
local function which(words)
  local name = (words[1] == 'XINFO' or words[1] == 'XGROUP' or words[1] == 'PUBSUB') and 2 or 1
  local alone, permitted = pcall(redis.acl_check_cmd, unpack(words, 1, name))
  if alone then
    return permitted and 'access' or 'command'
  end
  return told(words) or 'either'
end

-- Nil when the command is permitted. A command that the server does not know is not judged.
local function lacking(words)
  if not redis.acl_check_cmd then
    return told(words)
  end
  local known, permitted = pcall(redis.acl_check_cmd, unpack(words))
  return known and not permitted and which(words) or nil
end

local refused = {}
for i = FIRST_ARG + 1, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '[^\n]+') do
    words[#words + 1] = word
  end
  local what = lacking(words)
  if what then
    refused[#refused + 1] = int(i - FIRST_ARG - 1) .. ' ' .. what
  end
end
return { 'OK', 'refused', table.concat(refused, '\n') }
