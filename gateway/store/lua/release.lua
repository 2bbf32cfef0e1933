-- Hand jobs back at once, when a worker stops: they are due now, for whoever claims them.
--
-- KEYS[1]  prefix
-- ARGV     kind, worker's token, ids (n, ids..)
-- Answers  how many were handed back
local kind, token, ids = take(), take(), take_list()
local released = 0
for _, id in ipairs(ids) do
  local job = job_of(kind, id)
  if redis.call('GET', 'arq:in-progress:' .. job) == token then
    redis.call('DEL', 'arq:in-progress:' .. job)
    redis.call('ZADD', queue_of(kind), 'XX', now, job)
    if kind == 'callback' then join(id, now) end
    -- A stop is no crash: the next claim finds the item `running` and would count a lost worker.
    redis.call('HINCRBY', prefix .. kind .. ':' .. id, 'lost', -1)
    released = released + 1
  end
end
redis.call('ZREM', prefix .. 'workers', kind .. ' ' .. token)
if released > 0 then wake(kind) end
return released
