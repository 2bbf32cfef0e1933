-- Give every open item of one state its job again, should arq's entries be lost. Goes through the ids page by page.
--
-- KEYS[1]  prefix
-- ARGV     kind, state, offset, page size
-- Answers  {size of this page, how many were put back}
local kind, state, offset, size = take(), take(), take(), take()
local ids = redis.call('ZRANGE', set_of(kind, state), offset, offset + size - 1)
local repaired = 0
for _, id in ipairs(ids) do
  local job = job_of(kind, id)
  local queued = redis.call('ZSCORE', queue_of(kind), job)
  if not queued or redis.call('EXISTS', 'arq:job:' .. job) == 0 then
    enqueue(kind, id, queued or now)
    repaired = repaired + 1
  end
end
if repaired > 0 then wake(kind) end
return {#ids, repaired}
