-- Shared by all scripts: it is put in front of each. KEYS[1] is the prefix of the shard's keys, e.g. gw:{0}:
local prefix = KEYS[1]
local tag = string.match(prefix, '{.-}')
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local moment = string.format('%d', now)
local cursor = 0

local function take()
  cursor = cursor + 1
  return ARGV[cursor]
end

local function take_list()
  local list = {}
  for i = 1, tonumber(take()) do list[i] = take() end
  return list
end

local function job_of(kind, id) return tag .. kind .. ':' .. id end
local function queue_of(kind) return prefix .. kind .. 's:queue' end
local function set_of(kind, state) return prefix .. kind .. 's:' .. state end

-- Some fields of a hash; none where the key holds something else, which must not hold up its neighbours.
local function fields_of(key, ...)
  local found = redis.pcall('HMGET', key, ...)
  if found.err then return end
  return unpack(found)
end

-- The id is a number for runs and a text for callbacks; both sort by when they were made.
local function score_of(kind, id)
  if kind == 'run' then return id end
  return now
end

-- arq's own two entries, job and queue; the job is in arq's own words (JSON).
local function job_text(kind, id)
  local argument = kind == 'run' and id or ('"' .. id .. '"')
  return '{"t":null,"f":"' .. kind .. '","a":[' .. argument .. '],"k":{},"et":' .. moment .. '}'
end

local function enqueue(kind, id, due)
  local job = job_of(kind, id)
  redis.call('SET', 'arq:job:' .. job, job_text(kind, id))
  redis.call('ZADD', queue_of(kind), due, job)
end

local function dequeue(kind, id)
  local job = job_of(kind, id)
  redis.call('DEL', 'arq:job:' .. job, 'arq:in-progress:' .. job, 'arq:retry:' .. job)
  redis.call('ZREM', queue_of(kind), job)
end

-- One token wakes one idle worker; a short list is enough, for a woken worker takes all it can.
local function wake(kind)
  local key = prefix .. kind .. 's:wake'
  if redis.call('LPUSH', key, '1') > 64 then redis.call('LTRIM', key, 0, 63) end
end

local function move(kind, id, from, to)
  if from ~= to then
    redis.call('ZREM', set_of(kind, from), id)
    redis.call('ZADD', set_of(kind, to), score_of(kind, id), id)
  end
end

local function contains(list, value)
  for _, each in ipairs(list) do if each == value then return true end end
  return false
end

-- Something happened to a run from outside: whoever works on it must look again, and one that waits is due now.
local function poke(id)
  local key = prefix .. 'run:' .. id
  local state = redis.call('HGET', key, 'state')
  if not state then return end
  redis.call('HINCRBY', key, 'pokes', 1)
  if state == 'waiting' then redis.call('ZADD', queue_of('run'), 'XX', now, job_of('run', id)) end
  redis.call('PUBLISH', prefix .. 'poke', 'run ' .. id)
  wake('run')
end
