-- Give a worker up to n due callbacks, each with a lease and a new fence: one from each endpoint's lane in turn, as many
-- from one at once as its share is. Also how a worker is seen alive.
--
-- KEYS[1]  prefix
-- ARGV     worker's token, lease (ms), n, how many slots are kept for endpoints that answer, an endpoint's share where
--          its operator gave none, failures in a row that open the breaker, states a claim may start from (n, states..),
--          state after the claim
-- Answers  as claim.lua
local token, lease, n, spare, share, strikes = take(), tonumber(take()), tonumber(take()), tonumber(take()), take(), take()
local sources, target = take_list(), take()
-- So many failures in a row, and an endpoint gets one attempt at a time: what hangs must not take the slots of others.
local SICK = math.min(3, tonumber(strikes))
-- How long a lane that only gets what is left over waits for its next look.
local LATER = 500
local MOST, VISITS, STRAYS = 500, 2000, 20
local answer, left, read = {now, 0, -1}, n, {}

local function settings_of(endpoint)
  read[endpoint] = read[endpoint] or published_of(endpoint)
  return read[endpoint]
end

-- GCRA: interval (ms) and burst of a rate. What comes within a few ms goes together, but no more than half of what a
-- period may see; no period sees more than the limit.
local TOGETHER = 20
local function rate_of(endpoint)
  local rate = settings_of(endpoint).rate
  if type(rate) ~= 'table' then return nil end
  local period = (rate.period or 1) * 1000
  local burst = math.max(1, math.floor(math.min(rate.limit / period * TOGETHER, rate.limit / 2)))
  return period / (rate.limit - burst + 1), burst
end

-- What the rate leaves until then. The time kept may be of a rate that was slower: it holds nothing up for longer than
-- the one there is now does.
local function pace_of(endpoint, tat)
  local interval, burst = rate_of(endpoint)
  if not tat or not interval then return 0 end
  return math.ceil(math.min(tat, now + burst * interval) - (burst - 1) * interval)
end

-- When the next message may go (nil: not until somebody enables it), and whether it is one at a time.
local function room_of(endpoint)
  local disabled, failures, not_before, gap, tat =
    fields_of(health_key(endpoint), 'disabled', 'failures', 'not_before', 'gap', 'tat')
  if disabled or settings_of(endpoint).disabled then return nil end
  local at, sick = tonumber(not_before or 0), tonumber(failures or 0) >= SICK
  local limit = (sick or gap) and 1 or tonumber(settings_of(endpoint).concurrency) or tonumber(share)
  redis.call('ZREMRANGEBYSCORE', busy_of(endpoint), '-inf', now)
  if redis.call('ZCARD', busy_of(endpoint)) >= limit then
    at = math.max(at, tonumber(redis.call('ZRANGE', busy_of(endpoint), 0, 0, 'WITHSCORES')[2]))
  end
  return math.max(at, pace_of(endpoint, tonumber(tat))), sick
end

local function count_rate(endpoint)
  local interval, burst = rate_of(endpoint)
  if not interval then return end
  local tat = math.max(tonumber(redis.call('HGET', health_key(endpoint), 'tat') or 0), now)
  tat = math.min(tat, now + burst * interval)
  redis.call('HSET', health_key(endpoint), 'tat', string.format('%.3f', tat + interval))
  redis.call('PEXPIRE', health_key(endpoint), MEMORY)
end

local function lease_to(endpoint, id)
  local job = job_of('callback', id)
  redis.call('SET', 'arq:in-progress:' .. job, token, 'PX', lease)
  redis.call('ZADD', queue_of('callback'), 'XX', now + lease, job)
  redis.call('ZADD', lane_of(endpoint), now + lease, id)
  redis.call('ZADD', busy_of(endpoint), now + lease, id)
end

local function claim(endpoint, id)
  local key = message_key(id)
  local state = fields_of(key, 'state')
  if not state or not contains(sources, state) then
    dequeue('callback', id)
    local _, order = address_of(id)
    leave_lane(id, endpoint, order)
    return nil
  end
  -- A worker of an older version may have it, which knows nothing of lanes.
  local held = redis.call('PTTL', 'arq:in-progress:' .. job_of('callback', id))
  if held > 0 then
    redis.call('ZADD', lane_of(endpoint), now + math.min(held, lease), id)
    return nil
  end
  local fence = redis.call('HINCRBY', key, 'fence', 1)
  if state == target then redis.call('HINCRBY', key, 'lost', 1) end
  lease_to(endpoint, id)
  count_rate(endpoint)
  redis.call('HSETNX', key, 'started_at', now)
  redis.call('HSET', key, 'state', target)
  move('callback', id, state, target)
  local item = redis.call('HGETALL', key)
  table.insert(item, 1, fence)
  table.insert(item, 1, state)
  table.insert(item, 1, id)
  return item
end

-- Take one message of a lane, if one may go now; else say when to look again. Whether there may be another.
local function visit(endpoint)
  local at, sick = room_of(endpoint)
  local head = redis.call('ZRANGE', lane_of(endpoint), 0, 0, 'WITHSCORES')
  if not at or not head[1] then
    redis.call('ZREM', LANES, endpoint)
    return false
  end
  at = math.max(at, tonumber(head[2]))
  if at <= now and sick and left <= spare then at = now + LATER end
  if at > now then
    redis.call('ZADD', LANES, whole(at), endpoint)
    return false
  end
  redis.call('ZADD', LANES, now, endpoint)
  local item = claim(endpoint, head[1])
  if item then
    left = left - 1
    answer[#answer + 1] = item
  end
  return true
end

-- What an older version put into the queue has no lane yet; what the sweep would find, but later.
local function adopt()
  for _, job in ipairs(redis.call('ZRANGE', queue_of('callback'), '-inf', now, 'BYSCORE', 'LIMIT', 0, STRAYS)) do
    local id = string.match(job, ':(.*)$')
    local endpoint, order = address_of(id)
    local known = redis.call('ZSCORE', lane_of(endpoint), id)
      or (order and redis.call('ZSCORE', line_of(endpoint, order), id))
    if not contains(sources, fields_of(message_key(id), 'state') or '') then
      dequeue('callback', id)
    elseif not known then
      join(id, now)
    end
  end
end

redis.call('ZADD', prefix .. 'workers', now, 'callback ' .. token)
if n > 0 then
  local lanes, visits = redis.call('ZRANGE', LANES, '-inf', now, 'BYSCORE', 'LIMIT', 0, MOST), 0
  while #lanes > 0 and left > 0 and visits < VISITS do
    local again = {}
    for _, endpoint in ipairs(lanes) do
      if left == 0 then break end
      visits = visits + 1
      if visit(endpoint) then again[#again + 1] = endpoint end
    end
    lanes = again
  end
  if left > 0 then adopt() end
end
answer[2] = redis.call('ZCOUNT', LANES, '-inf', now)
local later = redis.call('ZRANGE', LANES, '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
if later[2] then answer[3] = math.ceil(later[2] - now) end
return answer
