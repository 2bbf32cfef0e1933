-- Send to an endpoint again: its failures, its breaker, its pace and its disabling are forgotten.
--
-- KEYS[1]  prefix
-- ARGV     endpoint's id
-- Answers  1
local endpoint = take()
redis.call('HDEL', health_key(endpoint), 'failures', 'failing_since', 'pause', 'gap', 'not_before', 'disabled', 'disabled_at')
redis.call('PEXPIRE', health_key(endpoint), MEMORY)
redis.call('SREM', NEWS, endpoint)
if redis.call('EXISTS', lane_of(endpoint)) == 1 then
  stir(endpoint, now)
  wake('callback')
end
return 1
