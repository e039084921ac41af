-- tell.lua: a word on the channel of an instance, or of a child process that serves its calls. It is only quicker than the next heartbeat or
-- look: without the right to the channel the word is lost, and what the script has written stands.
local function tell(channel, what)
  redis.pcall('PUBLISH', channel, what)
end
