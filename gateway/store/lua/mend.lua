-- Go through the runs by their ids, downwards, and put each one, its callbacks and its event back into every index that
-- has lost them.
--
-- KEYS[1]  prefix
-- ARGV     the highest id to look at ('' = the last one given), how many runs, how many bytes of requests
-- Answers  {where to go on (0 = this was the end), how many runs were there, what (n, then name, how many put back, ..)}
local from, size, room = take(), tonumber(take()), tonumber(take())
local put_back = {}
local talks = {}

local function note(what) put_back[what] = (put_back[what] or 0) + 1 end

local function list(what, key, score, member)
  if redis.call('ZSCORE', key, member) then return end
  redis.call('ZADD', key, score, member)
  note(what)
end

-- One of some thousand runs is left as it is: going through it for each of them would hold up everybody.
local function turns_of_talk(key)
  if not talks[key] then
    talks[key] = {}
    if redis.call('LLEN', key) > 10000 then return nil end
    for _, id in ipairs(redis.call('LRANGE', key, 0, -1)) do talks[key][id] = true end
  end
  return talks[key]
end

local function list_turn(key, id)
  local turns = turns_of_talk(key)
  if not turns or turns[id] then return end
  local after
  for other in pairs(turns) do
    if tonumber(other) > tonumber(id) and (not after or tonumber(other) < tonumber(after)) then after = other end
  end
  if after then
    redis.call('LINSERT', key, 'BEFORE', after, id)
  else
    redis.call('RPUSH', key, id)
  end
  turns[id] = true
  note('conversation')
end

local function mend_callbacks(ids)
  for id in string.gmatch(ids, '[^,]+') do
    local state, ended, created = fields_of(prefix .. 'callback:' .. id, 'state', 'ended_at', 'created_at')
    if state then list('callback', set_of('callback', state), ended or created or now, id) end
  end
end

local function mend_event(id)
  local received, head = fields_of(prefix .. 'event:' .. id, 'received_at', 'head')
  if head then list('event', prefix .. 'events', received, id) end
end

local function mend(id)
  local key = prefix .. 'run:' .. id
  local state, request, callbacks = fields_of(key, 'state', 'request', 'callbacks')
  if not state then return 0 end
  list('state', set_of('run', state), id, id)
  local origin = origin_of(request)
  if origin.workflow then list('workflow', prefix .. 'runs:of:' .. origin.workflow, id, id) end
  if origin.conversation then list_turn(prefix .. 'conversation:' .. origin.conversation, id) end
  if callbacks then mend_callbacks(callbacks) end
  if origin.event then mend_event(origin.event) end
  return #request + 1
end

local last, was_lost = last_run()
if was_lost then
  redis.call('SET', prefix .. 'runs:last', string.format('%d', last))
  note('last')
end
if from == '' and last > 0 then redis.call('HSET', prefix .. 'sweeps', 'last_run', string.format('%d', last)) end
local place = math.min(tonumber(from) or last, last)
-- Ids of runs that are gone cost little.
local found, looks = 0, size * 10
while place > 0 and found < size and looks > 0 and room > 0 do
  local bytes = mend(string.format('%d', place))
  if bytes > 0 then found = found + 1 end
  room, place, looks = room - bytes, place - 1, looks - 1
end
local answer = {place, found}
for what, count in pairs(put_back) do
  redis.call('HINCRBY', prefix .. 'counts', 'mended:' .. what, count)
  answer[#answer + 1] = what
  answer[#answer + 1] = count
end
return answer
