-- rights.lua: a script knows before its first write that its commands are permitted, so that a right taken away meanwhile does not stop
-- it half way. Redis itself has checked the script's keys, as it does all that are declared. A script cannot ask Redis 6.2.
local may, a_key = redis.acl_check_cmd, KEYS[1]

-- The answer when the user may not run one of these.
local function refusal(commands)
  return redis.error_reply('NOPERM this user has no permissions to run one of \'' .. commands .. '\' in a script')
end
