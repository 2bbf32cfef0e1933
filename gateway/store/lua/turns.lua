-- Whose turn it is. What is parked, throttled or leased is in the queue of runs at its time (ms). A run that is to begin
-- is there at its turn, a small number: the lanes (apps, tokens, hooks) take turns, so that no backlog of one holds up
-- another's run.
local TIMES = 1e12
local LANES = prefix .. 'runs:lanes'
local head_turn, top_turn, not_begun, turns = nil, nil, nil, {}

local function run_key(id) return prefix .. 'run:' .. id end

local function count_pending()
  not_begun = not_begun or redis.call('ZCARD', set_of('run', 'pending'))
  return not_begun
end

-- The turn that is served now; with nothing queued, one that nobody ever had. Never 0, which a stock arq worker takes
-- for no score at all.
local function read_turns(lane)
  local last, top = unpack(redis.call('HMGET', LANES, lane, 'top'))
  if not head_turn then
    local first = redis.call('ZRANGE', queue_of('run'), 0, 0, 'WITHSCORES')
    local queued = first[2] and tonumber(first[2]) < TIMES
    top_turn = tonumber(top or 1)
    head_turn = queued and tonumber(first[2]) or top_turn
  end
  return tonumber(last or 0)
end

-- The place for the next run of a lane: behind the lane's last one, and not before the turn that is served now.
local function turn_of(lane, priority)
  local last = turns[lane] or read_turns(lane)
  -- A lane whose backlog was cancelled must not wait behind places that nobody has any more.
  local turn, furthest = last, head_turn + count_pending()
  if turn > furthest then turn = furthest end
  if turn < head_turn then turn = head_turn end
  not_begun = not_begun + 1
  turns[lane] = turn + 1
  local place = turn - (priority or 0)
  if place < head_turn then place = head_turn end
  local next_one = (place > turn and place or turn) + 1
  if next_one > top_turn then top_turn = next_one end
  return place
end

local function save_turns()
  if not top_turn then return end
  local saved = {'HSET', LANES, 'top', string.format('%.0f', top_turn)}
  for lane, turn in pairs(turns) do
    saved[#saved + 1] = lane
    saved[#saved + 1] = string.format('%.0f', turn)
  end
  redis.call(unpack(saved))
end
