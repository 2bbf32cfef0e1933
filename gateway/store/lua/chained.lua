-- What follows from a run's end is stored: look at it no more, unless it has ended again since. Or look again later.
--
-- KEYS[1]  prefix
-- ARGV     run id, when it ended as the caller saw it ('' = it has not), ms after which to look again ('' = never)
-- Answers  1 when nothing is left to do, else 0
local id, ended, delay = take(), take(), take()
local key = prefix .. 'runs:chaining'
if delay ~= '' then
  redis.call('ZADD', key, 'XX', now + delay, id)
  return 0
end
if (redis.call('HGET', prefix .. 'run:' .. id, 'ended_at') or '') ~= ended then return 0 end
redis.call('ZREM', key, id)
return 1
