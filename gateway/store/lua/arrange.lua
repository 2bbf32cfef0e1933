-- The part of accepting that only workflows with flow control need: joining, skipping, refusing, holding back.

-- The open run that a request for a debounced or batched one would join.
local function joinable(reason, rule)
  if not rule then return nil end
  local id = redis.call('HGET', prefix .. reason .. ':' .. rule.name, 'run')
  if not id then return nil end
  local state, held = unpack(redis.call('HMGET', run_key(id), 'state', 'held'))
  if state == 'pending' and held == reason then return id end
end

-- The run in whose favour a request is skipped.
local function rival(gate)
  if not gate or gate.on_conflict ~= 'skip' or redis.call('ZCARD', active_of(gate)) < gate.limit then return nil end
  return redis.call('ZRANGE', active_of(gate), 0, 0)[1]
end

local function begin_when_free(id, flow)
  if pass_throttle(id, flow) and pass_gate(id, flow) then
    enqueue('run', id, turn_of(flow.lane, flow.priority))
  end
end

-- The newest request takes the place of the one before, and the run is due a whole period from now.
local function debounce(id, rule, request, text)
  local key = prefix .. 'debounce:' .. rule.name
  local latest = tonumber(redis.call('HGET', key, 'latest') or 'inf')
  local at = string.format('%.0f', math.min(now + rule.period, latest))
  redis.call('HSET', run_key(id), 'request', request, 'flow', text, 'starts_at', at)
  redis.call('ZADD', queue_of('run'), 'XX', at, job_of('run', id))
end

local function begin_debounce(id, rule)
  local key, at = prefix .. 'debounce:' .. rule.name, now + rule.period
  if rule.max_wait then
    at = math.min(at, now + rule.max_wait)
    redis.call('HSET', key, 'run', id, 'latest', string.format('%.0f', now + rule.max_wait))
  else
    redis.call('HSET', key, 'run', id)
  end
  hold(id, 'debounce', at)
  enqueue('run', id, string.format('%.0f', at))
end

-- One more item; a batch that is whole, in number or in bytes, begins.
local function add_item(id, flow, item)
  local key = prefix .. 'batch:' .. flow.batch.name
  local count, bytes = redis.call('HINCRBY', key, 'count', 1), redis.call('HINCRBY', key, 'bytes', #item)
  redis.call('HSET', run_key(id), 'item:' .. count, item)
  if count < flow.batch.max_size and bytes < flow.batch.max_bytes then return end
  let_go(id, flow)
  dequeue('run', id)
  begin_when_free(id, flow)
end

local function begin_batch(id, flow, item)
  redis.call('HSET', prefix .. 'batch:' .. flow.batch.name, 'run', id)
  hold(id, 'batch', now + flow.batch.timeout)
  enqueue('run', id, string.format('%.0f', now + flow.batch.timeout))
  add_item(id, flow, item)
end

-- What becomes of a request whose workflow controls its flow: its place in the answer; the second value is the id of a
-- new run, which `file` stores.
local function arrange(file, workflow, conversation, request, text, item)
  local flow = cjson.decode(text)
  local other = rival(flow.concurrency)
  if other then return '~' .. other .. ':' .. (redis.call('HGET', run_key(other), 'state') or 'pending') end
  local joined = joinable('debounce', flow.debounce)
  if joined then
    debounce(joined, flow.debounce, request, text)
    return joined
  end
  joined = joinable('batch', flow.batch)
  if joined then
    local first = cjson.decode(redis.call('HGET', run_key(joined), 'flow'))
    add_item(joined, first, item)
    return joined
  end
  local id = file(workflow, conversation, request)
  redis.call('HSET', run_key(id), 'flow', text)
  if flow.debounce then
    begin_debounce(id, flow.debounce)
  elseif flow.batch then
    begin_batch(id, flow, item)
  else
    begin_when_free(id, flow)
  end
  return id, id
end

-- How many new runs a list of requests asks for, at most, and how long (ms) a rate limit refuses it. Changes nothing.
local function foresee(requests)
  local wanted, wait, taken = 0, 0, {}
  for i = 4, #requests, 5 do
    local new = true
    if requests[i] ~= '' then
      local flow = cjson.decode(requests[i])
      new = not (rival(flow.concurrency) or joinable('debounce', flow.debounce) or joinable('batch', flow.batch))
      local rule = flow.rate_limit
      if rule then
        local theoretical, at, interval = next_start(rule, prefix .. 'rate:' .. rule.name, rule.limit, taken[rule.name])
        taken[rule.name], wait = theoretical + interval, math.max(wait, at - now)
      end
    end
    if new then wanted = wanted + 1 end
  end
  return wanted, wait, taken
end

local function count_rates(taken)
  for name, theoretical in pairs(taken) do
    redis.call('SET', prefix .. 'rate:' .. name, string.format('%.3f', theoretical), 'PX', math.ceil(theoretical - now))
  end
end
