-- Give every open item of one state its job again, should arq's entries be lost. Goes through the ids page by page.
-- A run that waits at a gate has no job: it has its place there, and is let in when those before it are gone.
--
-- KEYS[1]  prefix
-- ARGV     kind, state, offset, page size
-- Answers  {size of this page, how many were put back}
local kind, state, offset, size = take(), take(), take(), take()
local looked_at = {}

-- Forget the active runs of a gate that have ended, and let the next ones in.
local function look_at(gate)
  if looked_at[gate.name] then return 0 end
  looked_at[gate.name] = true
  for _, id in ipairs(redis.call('ZRANGE', active_of(gate), 0, -1)) do
    local found = redis.call('HGET', run_key(id), 'state')
    if found ~= 'pending' and found ~= 'running' and found ~= 'waiting' then redis.call('ZREM', active_of(gate), id) end
  end
  return admit(gate)
end

-- A run that has a gate and no place in the queue waits at the gate.
local function mend_gated(id, flow)
  local gate = flow.concurrency
  local before = redis.call('ZSCORE', waiting_of(gate), padded(id))
  if before then
    redis.call('ZADD', prefix .. 'runs:held:concurrency', 'NX', moment, id)
  else
    wait_at(id, flow)
  end
  local admitted = look_at(gate)
  return (not before or admitted > 0) and 1 or 0
end

-- What has begun has its place in its gate, whatever became of the gate.
local function keep_place(id, text)
  local gate = cjson.decode(text).concurrency
  if gate then redis.call('ZADD', active_of(gate), 'NX', id, id) end
end

local function mend(id, text, queued)
  local flow = text and cjson.decode(text)
  local at, wish = unpack(redis.call('HMGET', prefix .. kind .. ':' .. id, 'starts_at', 'cancel_wish'))
  local gate = flow and state ~= 'running' and flow.concurrency
  if gate and not queued and not at and not wish and not redis.call('ZSCORE', active_of(gate), id) then
    return mend_gated(id, flow)
  end
  -- Those that have not begun keep the order in which they came.
  local turn = kind == 'run' and state == 'pending' and not wish and id
  enqueue(kind, id, queued or at or turn or now)
  return 1
end

-- An entry whose record is lost, or is in another state: it would be given a job for ever.
local function put_right(id, found)
  redis.call('ZREM', set_of(kind, state), id)
  if found then redis.call('ZADD', set_of(kind, found), 'NX', score_of(kind, id), id) end
end

-- A callback that has a job and no place in its endpoint's lane, nor in the line before it; or whose lane is forgotten.
local function keep_lane(id)
  local endpoint, order = address_of(id)
  local due = redis.call('ZSCORE', queue_of(kind), job_of(kind, id))
  local place = redis.call('ZSCORE', lane_of(endpoint), id)
  if not place and order then
    local first = redis.call('ZRANGE', line_of(endpoint, order), 0, 0)[1]
    if first and first ~= id and redis.call('ZSCORE', line_of(endpoint, order), id) then
      if redis.call('EXISTS', message_key(first)) == 1 then return 0 end
      advance(endpoint, line_of(endpoint, order))
      return 1
    end
  end
  if not place then
    join(id, tonumber(due))
    return 1
  end
  stir(endpoint, tonumber(place))
  return 0
end

local function look_after(id, text)
  local job = job_of(kind, id)
  local queued = redis.call('ZSCORE', queue_of(kind), job)
  local missing = not queued or redis.call('EXISTS', 'arq:job:' .. job) == 0
  local begun = kind == 'run' and state ~= 'pending'
  if text and (state == 'running' or (begun and queued)) then keep_place(id, text) end
  local mended = missing and mend(id, text, queued) or 0
  return kind == 'callback' and math.max(mended, keep_lane(id)) or mended
end

local ids = redis.call('ZRANGE', set_of(kind, state), offset, offset + size - 1)
local repaired, wrong = 0, 0
for _, id in ipairs(ids) do
  local found, text = fields_of(prefix .. kind .. ':' .. id, 'state', 'flow')
  if found == state then
    repaired = repaired + look_after(id, text)
  else
    put_right(id, found)
    wrong = wrong + 1
  end
end
if repaired > 0 then redis.call('HINCRBY', prefix .. 'counts', 'mended:job', repaired) end
if wrong > 0 then redis.call('HINCRBY', prefix .. 'counts', 'mended:entry', wrong) end
save_turns()
if repaired > 0 then wake(kind) end
return {#ids, repaired}
