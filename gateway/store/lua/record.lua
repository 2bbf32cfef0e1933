-- Write down what a worker did, only if it still holds the newest fence; end, park or keep the item.
--
-- KEYS[1]  prefix
-- ARGV     kind, number of items, then for each item:
--          id, fence ('' = whatever it is, for a move made by a person),
--          fields (n, name, value, ..),
--          state to move to ('' = stay), states that move may start from (n, states..),
--          fields to drop (n, names..),
--          delay (ms until it is due again; '' = none: a move then takes the job out of the queue),
--          pokes it knows of ('' = none: else, when there were more since, it is due again at once),
--          counts to raise (n, names..),
--          callbacks for the outbox (n, then each: id, fields (n, name, value, ..)),
--          runs to poke (n, ids.., or ids of events: the runs that they started),
--          what an attempt told of its endpoint (n, as health.lua says)
-- Answers  one word an item: 'ok', 'fenced' (a newer claim exists), 'gone' (no such record), or the state that refused
local kind = take()

-- A run that was retried tells of its end once more, under an id of its own.
local function put_callback(key, id, fields)
  -- The answer to this very call was lost, and the worker asks again: it may be on its way already.
  if redis.call('EXISTS', prefix .. 'callback:' .. id) == 1 then return end
  put_message(id, fields)
  local before = redis.call('HGET', key, 'callbacks')
  redis.call('HSET', key, 'callbacks', before and before .. ',' .. id or id)
end

-- What ended and goes on has no job any more.
local function park(key, id, delay, known)
  local job = job_of(kind, id)
  redis.call('DEL', 'arq:in-progress:' .. job)
  if known ~= '' and known ~= (redis.call('HGET', key, 'pokes') or '0') then delay = 0 end
  if redis.call('EXISTS', 'arq:job:' .. job) == 1 then
    redis.call('ZADD', queue_of(kind), now + delay, job)
  else
    enqueue(kind, id, now + delay)
  end
end

-- An ended run used fewer credits than were set aside, or more. What another period paid is gone with that period.
local function settle_credits(key)
  local payer, reserved, used, since = unpack(redis.call('HMGET', key, 'payer', 'reserved', 'credits', 'paid_since'))
  local balance = payer and prefix .. 'balance:' .. payer
  if payer and redis.call('HGET', balance, 'since') == since then
    redis.call('HINCRBYFLOAT', balance, 'left', tonumber(reserved or 0) - tonumber(used or 0))
    -- A run that is retried ends once more.
    redis.call('HSET', key, 'reserved', used or 0)
  end
end

-- An end that another workflow listens to is remembered here, so that no crash comes between it and what it starts.
local function remember_listeners(id, key)
  if redis.call('EXISTS', prefix .. 'listened') == 0 then return false end
  local request = redis.call('HGET', key, 'request')
  local workflow, name = string.match(request, '^{"workflow_id":(%d+),"workflow":"([^"]*)"')
  for _, each in ipairs({workflow, name}) do
    if redis.call('SISMEMBER', prefix .. 'listened', each) == 1 then
      redis.call('ZADD', prefix .. 'runs:chaining', now, id)
      return true
    end
  end
  return false
end

-- A call takes some thousand values at most.
local function set_fields(key, fields)
  for first = 1, #fields, 1000 do
    redis.call('HSET', key, unpack(fields, first, math.min(first + 999, #fields)))
  end
end

local function poke_all(name)
  if not string.find(name, '^evt_') then return poke(name) end
  local runs = redis.call('HGET', prefix .. 'event:' .. name, 'runs') or ''
  for id in string.gmatch(runs, '[^,]+') do poke(id) end
end

local function read_item()
  local item = {id = take(), fence = take(), fields = take_list(), target = take(), sources = take_list()}
  item.drops, item.delay, item.known, item.counts, item.callbacks = take_list(), take(), take(), take_list(), {}
  for i = 1, tonumber(take()) do item.callbacks[i] = {take(), take_list()} end
  item.pokes, item.lesson = take_list(), take_list()
  return item
end

-- A callback that moved has another place in its endpoint's lane, or none.
local function arrange(item)
  if item.delay ~= '' then return join(item.id, now + item.delay) end
  local endpoint, order = address_of(item.id)
  leave_lane(item.id, endpoint, order)
end

local function write(item)
  local key = prefix .. kind .. ':' .. item.id
  local state, fence, flow = unpack(redis.call('HMGET', key, 'state', 'fence', 'flow'))
  if not state then return 'gone' end
  if item.fence ~= '' and fence ~= item.fence then return 'fenced' end
  -- The answer to this very call was lost, and the worker asks again.
  if item.target ~= '' and state == item.target and not contains(item.sources, state) then return 'ok' end
  if not contains(item.sources, state) then return state end
  if item.target ~= '' then
    item.fields[#item.fields + 1] = 'state'
    item.fields[#item.fields + 1] = item.target
    move(kind, item.id, state, item.target)
    if item.delay ~= '' then park(key, item.id, item.delay, item.known) else dequeue(kind, item.id) end
  end
  set_fields(key, item.fields)
  if #item.drops > 0 then redis.call('HDEL', key, unpack(item.drops)) end
  if #item.lesson > 0 then learn(address_of(item.id), item.lesson) end
  if kind == 'callback' and item.target ~= '' then arrange(item) end
  if kind == 'run' and item.target ~= '' and item.delay == '' then
    settle_credits(key)
    item.heard = remember_listeners(item.id, key)
  end
  if flow and item.target ~= '' and item.delay == '' then leave(item.id, flow) end
  for _, count in ipairs(item.counts) do redis.call('HINCRBY', prefix .. 'counts', count, 1) end
  for _, callback in ipairs(item.callbacks) do put_callback(key, callback[1], callback[2]) end
  for _, name in ipairs(item.pokes) do poke_all(name) end
  redis.call('PUBLISH', prefix .. 'moved:' .. kind .. ':' .. item.id, item.target ~= '' and item.target or state)
  -- Who claims it from now on is not meant.
  if item.fence == '' then redis.call('PUBLISH', prefix .. 'stop', kind .. ' ' .. item.id .. ' ' .. (fence or 0)) end
  return 'ok'
end

local answers, sent, parked, heard = {}, false, false, false
for i = 1, tonumber(take()) do
  local item = read_item()
  answers[i] = write(item)
  if answers[i] == 'ok' then
    sent = sent or #item.callbacks > 0
    parked = parked or item.delay ~= ''
    heard = heard or item.heard
  end
end
save_turns()
if sent then wake('callback') end
if heard then wake('chain') end
-- An idle worker does not know yet that something is due sooner than it meant to look.
if parked then wake(kind) end
return answers
