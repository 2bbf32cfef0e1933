-- Give a worker up to n due runs, each with a lease and a new fence. Also how a worker is seen alive.
--
-- KEYS[1]  prefix
-- ARGV     worker's token, lease (ms), n, states a claim may start from (n, states..), state
--          after the claim, job id ('' = whatever is due; else this very job, which a stock arq worker holds)
-- Answers  {now (ms), how many are still due, ms until the next is due (-1: none waits), item..}, an item is
--          {id, state before, fence, now, field, value, ..}. For a very job, the ms until that job is due.
local token, lease, n, sources, target, wanted = take(), tonumber(take()), take(), take_list(), take(), take()
local kind = 'run'
local queue = queue_of(kind)

-- A stock arq worker leaves the jobs it holds at the head of the queue; put them out of the way for a lease.
local function held(job)
  local left = redis.call('PTTL', 'arq:in-progress:' .. job)
  if left <= 0 then return false end
  redis.call('ZADD', queue, 'XX', now + math.min(left, lease), job)
  return true
end

local function lease_to(job)
  redis.call('SET', 'arq:in-progress:' .. job, token, 'PX', lease)
  redis.call('ZADD', queue, 'XX', now + lease, job)
end

-- What is lost with its worker again and again comes back apart from all that it was lost with: a run that ends its
-- worker must not take the same others along each time, until they are failed in its stead.
local function set_apart(job, id, key, lost)
  local spread = (tonumber(id) * 7919 + tonumber(clock[2])) % (lease * lost)
  redis.call('HSET', key, 'state', 'waiting')
  move(kind, id, target, 'waiting')
  redis.call('ZADD', queue, 'XX', now + spread, job)
end

-- Whether nothing holds a run back any more. If something does, it was put where it waits for that.
local function may_begin(id, key, state, text)
  local flow = cjson.decode(text)
  if state == 'running' then
    if flow.concurrency then redis.call('ZADD', active_of(flow.concurrency), 'NX', id, id) end
    return true
  end
  local held, at, wish = unpack(redis.call('HMGET', key, 'held', 'starts_at', 'cancel_wish'))
  if not wish and at and tonumber(at) > now then
    redis.call('ZADD', queue, 'XX', at, job_of(kind, id))
    return false
  end
  let_go(id, flow)
  if wish then return true end
  if (held == 'debounce' or held == 'batch') and not pass_throttle(id, flow) then return false end
  return pass_gate(id, flow)
end

local function claim(job)
  local id = string.match(job, ':(.*)$')
  local key = prefix .. kind .. ':' .. id
  local state, flow = unpack(redis.call('HMGET', key, 'state', 'flow'))
  if not state or not contains(sources, state) then
    dequeue(kind, id)
    return nil
  end
  if flow and not may_begin(id, key, state, flow) then return nil end
  local fence = redis.call('HINCRBY', key, 'fence', 1)
  local lost = state == target and redis.call('HINCRBY', key, 'lost', 1) or 0
  if lost > 1 and wanted == '' then return set_apart(job, id, key, lost) end
  if wanted == '' then lease_to(job) end
  redis.call('HSETNX', key, 'started_at', now)
  redis.call('HSET', key, 'state', target)
  move(kind, id, state, target)
  local item = redis.call('HGETALL', key)
  table.insert(item, 1, fence)
  table.insert(item, 1, state)
  table.insert(item, 1, id)
  return item
end

-- Runs that are to begin have a turn, those that go on a time (flow.lua): one of each, so that neither waits for all
-- of the other.
local function due_jobs()
  local resumed = redis.call('ZRANGE', queue, TIMES, now, 'BYSCORE', 'LIMIT', 0, n)
  local fresh = redis.call('ZRANGE', queue, '-inf', '(' .. TIMES, 'BYSCORE', 'LIMIT', 0, n)
  if #resumed == 0 then return fresh end
  local jobs = {}
  for i = 1, n do
    if resumed[i] then jobs[#jobs + 1] = resumed[i] end
    if fresh[i] then jobs[#jobs + 1] = fresh[i] end
  end
  return {unpack(jobs, 1, math.min(#jobs, tonumber(n)))}
end

if wanted ~= '' then
  local item = claim(wanted)
  if item then return {now, 0, -1, item} end
  local later = redis.call('ZSCORE', queue, wanted)
  return {now, 0, later and math.max(later - now, 0) or -1}
end

redis.call('ZADD', prefix .. 'workers', now, kind .. ' ' .. token)
local answer = {now, 0, -1}
if tonumber(n) > 0 then
  for _, job in ipairs(due_jobs()) do
    if not held(job) then
      local item = claim(job)
      if item then answer[#answer + 1] = item end
    end
  end
end
answer[2] = redis.call('ZCOUNT', queue, '-inf', now)
local later = redis.call('ZRANGE', queue, '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
if later[2] then answer[3] = math.ceil(later[2] - now) end
return answer
