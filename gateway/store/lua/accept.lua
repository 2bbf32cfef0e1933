-- Store a batch of verified events with the runs they start: all of one event, or nothing of it.
--
-- KEYS[1]  prefix
-- ARGV     queue limit, dedupe window (ms), number of events, then for each event:
--          id, hash of the body, its dedupe keys (n, keys..), head (JSON), body,
--          its run requests (n, then each: workflow id, conversation id or '', JSON, flow (JSON) or '', its item for a
--          batch (JSON) or ''),
--          its lane (whose turn it takes in the queue),
--          its payer ('' = nobody), the payer's allowance, its period (ms, 0 = once), what to set aside
-- Answers  one list an event:
--          {'stored', event id, runs..}       new, or this very call came before and its answer was lost
--          {'known', event id, runs..}        a dedupe key was seen with the same body
--          {'conflict', event id}             a dedupe key was seen with another body
--          {'poor'}                           the payer's credits do not suffice; nothing was stored
--          {'full'}                           the queue is at its limit; nothing was stored
--          {'limited', ms}                    a rate limit refuses it for so long; nothing was stored
--          A run is its id; `~ID:STATE` is the run in whose favour this one was skipped, and its state then.
local limit, window = tonumber(take()), take()
local last = last_run()
-- What one command can write for the whole batch is gathered: a call from Lua costs as much as what most of them do.
local function gathering(...)
  return {n = select('#', ...), head = select('#', ...), ...}
end

local function flush(list)
  if list.n > list.head then redis.call(unpack(list, 1, list.n)) end
  list.n = list.head
end

local function gather(list, first, second)
  local n = list.n
  list[n + 1], list[n + 2], list.n = first, second, n + 2
  -- Lua spreads no list of any length.
  if n > 2000 then flush(list) end
end

local received = gathering('ZADD', prefix .. 'events')
local pending = gathering('ZADD', set_of('run', 'pending'))
local due = gathering('ZADD', queue_of('run'))
local jobs = gathering('MSET')
local of_workflow = {}

local function runs_of(workflow)
  local list = of_workflow[workflow]
  if not list then
    list = gathering('ZADD', prefix .. 'runs:of:' .. workflow)
    of_workflow[workflow] = list
  end
  return list
end

local function answer_of(word, event, runs)
  local answer = {word, event}
  for run in string.gmatch(runs, '[^,]+') do answer[#answer + 1] = run end
  return answer
end

-- How often a delivery came again, and when last; nothing of one whose time is over.
local function note_repeat(event)
  local key = prefix .. 'event:' .. event
  if redis.call('HEXISTS', key, 'head') == 0 then return end
  redis.call('HINCRBY', key, 'repeats', 1)
  redis.call('HSET', key, 'repeated_at', moment)
end

local function known(keys, hash)
  for _, key in ipairs(keys) do
    local seen = redis.call('GET', prefix .. 'seen:' .. key)
    if seen then
      local event, first_hash, runs = string.match(seen, '^(%S+) (%S+) (%S*)$')
      if first_hash ~= hash then return {'conflict', event} end
      note_repeat(event)
      return answer_of('known', event, runs)
    end
  end
end

local function stored_before(id)
  local runs = redis.call('HGET', prefix .. 'event:' .. id, 'runs')
  return runs and answer_of('stored', id, runs)
end

-- Take credits from a payer, who is refilled when a period is over. Answers when the period began that pays, and
-- nothing when there are not enough.
local function afford(payer, allowance, period, cost)
  if payer == '' then return '' end
  local key = prefix .. 'balance:' .. payer
  local left, since = unpack(redis.call('HMGET', key, 'left', 'since'))
  left, since = tonumber(left or allowance), tonumber(since or now)
  if period > 0 and now >= since + period then
    left, since = tonumber(allowance), now - (now - since) % period
  end
  if left < cost then return nil end
  since = string.format('%d', since)
  redis.call('HSET', key, 'left', left - cost, 'since', since)
  return since
end

local function file(workflow, conversation, request)
  last = last + 1
  local id = string.format('%d', last)
  redis.call('HSET', run_key(id), 'request', request, 'state', 'pending', 'created_at', moment)
  gather(pending, id, id)
  gather(runs_of(workflow), id, id)
  if conversation ~= '' then redis.call('RPUSH', prefix .. 'conversation:' .. conversation, id) end
  return id
end

local function start(workflow, conversation, request, lane)
  local id = file(workflow, conversation, request)
  local job = job_of('run', id)
  gather(jobs, 'arq:job:' .. job, job_text('run', id))
  gather(due, turn_of(lane), job)
  return id
end

-- Each run keeps its own share of what was set aside, so that its end can give back the rest.
local function set_aside(runs, payer, cost, since)
  if payer == '' then return end
  for _, id in ipairs(runs) do
    redis.call('HSET', prefix .. 'run:' .. id, 'payer', payer, 'reserved', cost / #runs, 'paid_since', since)
  end
end

local function store(id, hash, keys, head, body, requests, lane, payer, cost, since)
  local answer, runs = {'stored', id}, {}
  for i = 1, #requests, 5 do
    local place, new
    if requests[i + 3] == '' then
      new = start(requests[i], requests[i + 1], requests[i + 2], lane)
      place = new
    else
      place, new = arrange(file, unpack(requests, i, i + 4))
    end
    runs[#runs + 1] = new
    answer[#answer + 1] = place
  end
  set_aside(runs, payer, cost, since)
  local places = table.concat(answer, ',', 3)
  redis.call('HSET', prefix .. 'event:' .. id, 'head', head, 'body', body, 'runs', places, 'received_at', moment)
  gather(received, moment, id)
  for _, key in ipairs(keys) do
    redis.call('SET', prefix .. 'seen:' .. key, id .. ' ' .. hash .. ' ' .. places, 'PX', window)
  end
  return answer
end

-- Then this is the script `accept_flow`, which has arrange.lua in front.
local function has_flow(requests)
  for i = 4, #requests, 5 do if requests[i] ~= '' then return true end end
  return false
end

local answers, started = {}, false
-- What waits for later, or is under way, takes no room.
local room = limit - count_pending()
for i = 1, tonumber(take()) do
  local id, hash, keys, head, body, requests, lane = take(), take(), take_list(), take(), take(), take_list(), take()
  local payer, allowance, period, cost = take(), take(), tonumber(take()), tonumber(take())
  local answer = stored_before(id) or known(keys, hash)
  if not answer then
    local wanted, wait, taken = #requests / 5, 0, nil
    if has_flow(requests) then wanted, wait, taken = foresee(requests) end
    -- The queue may hold more than the limit, which is no reason to refuse what starts nothing.
    if wait > 0 then
      answer = {'limited', math.ceil(wait)}
    elseif wanted > 0 and wanted > room then
      answer = {'full'}
    else
      local since = ''
      if wanted > 0 then since = afford(payer, allowance, period, cost) end
      if not since then
        answer = {'poor'}
      else
        room = room - wanted
        started = started or #requests > 0
        if taken then count_rates(taken) end
        answer = store(id, hash, keys, head, body, requests, lane, wanted > 0 and payer or '', cost, since)
      end
    end
  end
  answers[i] = answer
end
if started then redis.call('SET', prefix .. 'runs:last', string.format('%d', last)) end
for _, list in ipairs({received, pending, due, jobs}) do flush(list) end
for _, list in pairs(of_workflow) do flush(list) end
save_turns()
if started then wake('run') end
return answers
