-- Hold on to leases: each job that this worker still owns gets a whole lease from now.
--
-- KEYS[1]  prefix
-- ARGV     kind, worker's token, lease (ms), ids (n, ids..)
-- Answers  the ids whose lease is lost
local kind, token, lease, ids = take(), take(), take(), take_list()
local lost = {}
for _, id in ipairs(ids) do
  local job = job_of(kind, id)
  if redis.call('GET', 'arq:in-progress:' .. job) == token then
    redis.call('PEXPIRE', 'arq:in-progress:' .. job, lease)
    redis.call('ZADD', queue_of(kind), 'XX', now + lease, job)
    if kind == 'callback' then lease_lane(id, lease) end
  else
    lost[#lost + 1] = id
  end
end
return lost
