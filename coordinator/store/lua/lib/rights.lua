-- rights.lua: what a script calls is known to be permitted before its first write, so that a right that is taken away meanwhile does not
-- stop it half way. Its keys Redis has looked at itself, as at all that are declared. Redis 6.2 cannot be asked from a script.
local may, a_key = redis.acl_check_cmd, KEYS[1]

-- The refusal to be answered when the user may not run one of these.
local function refusal(commands)
  return redis.error_reply('NOPERM this user has no permissions to run one of \'' .. commands .. '\' in a script')
end
