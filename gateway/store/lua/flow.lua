-- What holds a run back before it begins. Put in front of the scripts that move runs.
--
-- A run's field `flow` is what the door worked out (gateway/flow.py, Flow), as JSON. A run waits in this order:
--   debounce or batch   until it is due, and others may join it; then
--   throttle            until its start time; then
--   concurrency         outside of arq's queue, until its gate has room; then
--   queue               for its turn (turns.lua)
local function hold(id, reason, due)
  redis.call('HSET', run_key(id), 'held', reason, 'held_since', moment)
  if due then redis.call('HSET', run_key(id), 'starts_at', string.format('%.0f', due)) end
  redis.call('ZADD', prefix .. 'runs:held:' .. reason, moment, id)
end

-- Nothing can join a run any more, and nothing holds it.
local function let_go(id, flow)
  local reason = redis.call('HGET', run_key(id), 'held')
  if not reason then return end
  redis.call('HDEL', run_key(id), 'held', 'held_since', 'starts_at')
  redis.call('ZREM', prefix .. 'runs:held:' .. reason, id)
  local joining = flow[reason]
  if reason == 'debounce' or reason == 'batch' then
    local key = prefix .. reason .. ':' .. joining.name
    if redis.call('HGET', key, 'run') == id then redis.call('DEL', key) end
  end
end

-- GCRA: when the next may begin (ms), so that `limit` a period are begun, `burst` of them at once.
local function next_start(rule, key, burst, taken)
  local interval = rule.period / rule.limit
  local theoretical = taken or tonumber(redis.call('GET', key) or 0)
  return math.max(theoretical, now), math.max(now, theoretical - (burst - 1) * interval), interval
end

local function take_start(rule, key, burst)
  local theoretical, start, interval = next_start(rule, key, burst)
  local life = math.ceil(theoretical + interval - now)
  redis.call('SET', key, string.format('%.3f', theoretical + interval), 'PX', life)
  return start
end

local function pass_throttle(id, flow)
  local rule = flow.throttle
  if not rule then return true end
  local start = math.ceil(take_start(rule, prefix .. 'throttle:' .. rule.name, rule.burst))
  if start <= now then return true end
  hold(id, 'throttle', start)
  enqueue('run', id, string.format('%.0f', start))
  return false
end

local function active_of(gate) return prefix .. 'gate:' .. gate.name .. ':active' end
local function waiting_of(gate) return prefix .. 'gate:' .. gate.name .. ':waiting' end

-- Ids sort as numbers within one score.
local function padded(id) return string.format('%016d', tonumber(id)) end

local function wait_at(id, flow)
  local gate = flow.concurrency
  redis.call('ZADD', waiting_of(gate), -(flow.priority or 0), padded(id))
  dequeue('run', id)
  hold(id, 'concurrency')
end

-- A newer run takes this one's place: the worker that has it, or gets it now, ends it.
local function supersede(id, by)
  redis.call('HSET', run_key(id), 'cancel_wish', 'run ' .. by .. ' of the same key is newer (concurrency: cancel_running)')
end

-- The newest `limit` are to live. An active one that was told has a negative score, and so is not told twice.
local function make_room(id, gate)
  local lived = redis.call('ZCOUNT', active_of(gate), '(0', '+inf') + redis.call('ZCARD', waiting_of(gate))
  local surplus = lived + 1 - gate.limit
  if surplus <= 0 then return end
  for _, older in ipairs(redis.call('ZRANGE', active_of(gate), '(0', '+inf', 'BYSCORE', 'LIMIT', 0, surplus)) do
    redis.call('ZADD', active_of(gate), '-' .. older, older)
    supersede(older, id)
    poke(older)
    surplus = surplus - 1
  end
  if surplus <= 0 then return end
  for _, member in ipairs(redis.call('ZRANGE', waiting_of(gate), 0, surplus - 1)) do
    local older = string.format('%d', tonumber(member))
    redis.call('ZREM', waiting_of(gate), member)
    supersede(older, id)
    enqueue('run', older, now)
    poke(older)
  end
end

-- Whether a run has its place in its gate; if there is none it waits there, outside of arq's queue.
local function pass_gate(id, flow)
  local gate = flow.concurrency
  if not gate or redis.call('ZSCORE', active_of(gate), id) then return true end
  if gate.on_conflict == 'cancel_running' then make_room(id, gate) end
  if redis.call('ZCARD', active_of(gate)) >= gate.limit then
    wait_at(id, flow)
    return false
  end
  redis.call('ZADD', active_of(gate), id, id)
  return true
end

-- Let as many of those who wait at a gate into the queue as there is room for.
local function admit(gate)
  local admitted = 0
  while true do
    local member = redis.call('ZRANGE', waiting_of(gate), 0, 0)[1]
    if not member then break end
    local id = string.format('%d', tonumber(member))
    local state, text = unpack(redis.call('HMGET', run_key(id), 'state', 'flow'))
    local flow = text and cjson.decode(text)
    local open = flow and (state == 'pending' or state == 'waiting')
    if open and redis.call('ZCARD', active_of(gate)) >= flow.concurrency.limit then break end
    redis.call('ZREM', waiting_of(gate), member)
    if open then
      redis.call('ZADD', active_of(gate), id, id)
      let_go(id, flow)
      enqueue('run', id, turn_of(flow.lane, flow.priority))
      admitted = admitted + 1
    end
  end
  if admitted > 0 then wake('run') end
  return admitted
end

-- A run has ended, however: nothing joins it, and its place in its gate is the next one's.
local function leave(id, text)
  local flow = cjson.decode(text)
  let_go(id, flow)
  local gate = flow.concurrency
  if not gate then return end
  redis.call('ZREM', active_of(gate), id)
  redis.call('ZREM', waiting_of(gate), padded(id))
  admit(gate)
end
