-- tell.lua: a word on a channel of an instance, or of those who serve its calls. It is only quicker than the next heartbeat or look: without
-- the right to the channel the word is lost, and what the script has written stays what it is.
local function tell(channel, what)
  redis.pcall('PUBLISH', channel, what)
end
