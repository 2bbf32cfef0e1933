-- Say which records are past their time, or remove them with all their keys and places: as they are found now.
--
-- KEYS[1]  prefix
-- ARGV     kind (run | event | callback), index the records are in, older than (ms, '' = whatever age), how many of the
--          newest ended runs to keep ('' = all), dedupe window (ms), states of open runs (n..), states of ended runs
--          (n..), states of open callbacks (n..), states of ended callbacks (n..),
--          'look' or 'remove', records (n, then id and, to remove, the mark that looking gave)
-- Answers  to look, one word a record: its mark when it may go, 'young' (so are all behind it), 'stays' or 'gone';
--          to remove, how many runs, events and callbacks are gone
local kind, index, cutoff, keep, window = take(), take(), tonumber(take()), tonumber(take()), tonumber(take())
local open, ended, sending, sent = take_list(), take_list(), take_list(), take_list()
local removed = {run = 0, event = 0, callback = 0}
-- What one command can take out for all of them is gathered.
local places, job_keys = {}, {}

local function run_key(id) return prefix .. 'run:' .. id end

local function is_surplus(id)
  if not keep then return false end
  local newer = 0
  for _, state in ipairs(ended) do newer = newer + redis.call('ZCOUNT', set_of('run', state), '(' .. id, '+inf') end
  return newer >= keep
end

-- A message that is to be sent; not one that waits until somebody enables its endpoint, which may be never.
local function is_under_way(id)
  local state = fields_of(prefix .. 'callback:' .. id, 'state')
  if not state or not contains(sending, state) then return false end
  return state ~= 'pending' or not is_disabled((address_of(id)))
end

-- What follows from its end is not stored yet; or a message of it is not delivered; or the run that waits for it is open.
local function is_needed(id, callbacks, request)
  if redis.call('ZSCORE', prefix .. 'runs:chaining', id) then return true end
  for each in string.gmatch(callbacks or '', '[^,]+') do
    if is_under_way(each) then return true end
  end
  -- A caller's own input may look the same: then the run stays a while longer, no more.
  for parent in string.gmatch(request, '"parent":{"run_id":(%d+)') do
    local state = fields_of(run_key(parent), 'state')
    if state and contains(open, state) then return true end
  end
  return false
end

local judged

local function judge_run(id)
  local state, created, ended_at, attempt, fence, callbacks, request =
    fields_of(run_key(id), 'state', 'created_at', 'ended_at', 'attempt', 'fence', 'callbacks', 'request')
  if not state then return 'gone' end
  if not contains(ended, state) then return 'stays' end
  if not is_surplus(id) then
    if not cutoff or tonumber(created) > cutoff then return 'young' end
    if tonumber(ended_at or created) > cutoff then return 'stays' end
  end
  if is_needed(id, callbacks, request) then return 'stays' end
  judged = {callbacks = callbacks, request = request}
  return table.concat({attempt or '1', fence or '0', ended_at or created}, ' ')
end

-- How many runs an event started, and whether any of them is still there. One in whose favour it was skipped is not its.
local function runs_left(runs)
  local count = 0
  for id in string.gmatch(runs or '', '[^,]+') do
    if string.sub(id, 1, 1) ~= '~' then
      count = count + 1
      if redis.call('EXISTS', run_key(id)) == 1 then return count, true end
    end
  end
  return count, false
end

local function judge_event(id)
  local received, head, runs = fields_of(prefix .. 'event:' .. id, 'received_at', 'head', 'runs')
  if not head then return 'gone' end
  local count, left = runs_left(runs)
  if left then return 'stays' end
  if count == 0 and not (cutoff and tonumber(received) <= cutoff) then return keep and 'stays' or 'young' end
  return received
end

-- A callback goes with its run. One whose run is gone goes by itself; one that is about no run (0), when it is old.
local function judge_callback(id)
  local state, run, created = fields_of(prefix .. 'callback:' .. id, 'state', 'run_id', 'created_at')
  if not state then return 'gone' end
  if run == '0' and not (cutoff and tonumber(created) <= cutoff) then return 'stays' end
  if contains(sending, state) or redis.call('EXISTS', run_key(run)) == 1 then return 'stays' end
  return state
end

local function unlist(key, member)
  local members = places[key] or {}
  members[#members + 1] = member
  places[key] = members
end

local function flush()
  for key, members in pairs(places) do
    for first = 1, #members, 1000 do
      redis.call('ZREM', key, unpack(members, first, math.min(first + 999, #members)))
    end
  end
  for first = 1, #job_keys, 1000 do
    redis.call('UNLINK', unpack(job_keys, first, math.min(first + 999, #job_keys)))
  end
end

local function remove_keys(kind_of, id)
  local job = job_of(kind_of, id)
  redis.call('UNLINK', prefix .. kind_of .. ':' .. id)
  for _, part in ipairs({'job', 'in-progress', 'retry'}) do job_keys[#job_keys + 1] = 'arq:' .. part .. ':' .. job end
  unlist(queue_of(kind_of), job)
  removed[kind_of] = removed[kind_of] + 1
end

local function remove_callback(id)
  local endpoint, order = address_of(id)
  leave_lane(id, endpoint, order)
  remove_keys('callback', id)
  for _, states in ipairs({sending, sent}) do
    for _, state in ipairs(states) do unlist(set_of('callback', state), id) end
  end
end

-- The same delivery, or the same call, may come again: while the dedupe window is open, what it started is remembered.
local function remove_event(id)
  local key = prefix .. 'event:' .. id
  local received = fields_of(key, 'received_at')
  unlist(prefix .. 'events', id)
  if not received then return end
  local left = received + window - now
  if left > 0 then
    redis.call('HDEL', key, 'head', 'body', 'received_at', 'repeats', 'repeated_at')
    redis.call('PEXPIRE', key, string.format('%d', left))
  else
    redis.call('UNLINK', key)
  end
  removed.event = removed.event + 1
end

local function remove_run(id)
  local callbacks, request = judged.callbacks, judged.request
  local origin = origin_of(request)
  remove_keys('run', id)
  for _, state in ipairs(ended) do unlist(set_of('run', state), id) end
  if origin.workflow then unlist(prefix .. 'runs:of:' .. origin.workflow, id) end
  if origin.conversation then redis.call('LREM', prefix .. 'conversation:' .. origin.conversation, 1, id) end
  for each in string.gmatch(callbacks or '', '[^,]+') do remove_callback(each) end
  if not origin.event then return end
  local _, left = runs_left(fields_of(prefix .. 'event:' .. origin.event, 'runs') or '')
  if not left then remove_event(origin.event) end
end

local judges = {run = judge_run, event = judge_event, callback = judge_callback}
local removers = {run = remove_run, event = remove_event, callback = remove_callback}

local function look(count)
  local answers = {}
  for i = 1, count do
    local id = take()
    answers[i] = judges[kind](id)
    -- An entry of an index whose record is lost.
    if answers[i] == 'gone' then redis.call('ZREM', index, id) end
    if answers[i] == 'young' then break end
  end
  return answers
end

local function remove(count)
  for _ = 1, count do
    local id, mark = take(), take()
    if judges[kind](id) == mark then removers[kind](id) end
  end
  flush()
  for what, number in pairs(removed) do
    if number > 0 then redis.call('HINCRBY', prefix .. 'counts', 'removed:' .. what .. 's', number) end
  end
  return {removed.run, removed.event, removed.callback}
end

if take() == 'look' then return look(tonumber(take())) end
return remove(tonumber(take()))
