-- Which callback goes next, so that no endpoint holds up another: each endpoint has a lane of its own messages, scored
-- by when they are due (ms), and the lanes are looked at in the order in which they can go on. A message that is on its
-- way stays in its lane, at the end of its lease: should its worker die it is due again without anybody's help.
--
-- How an endpoint fares is a hash of its own: failures (in a row), failing_since, pause (ms, the breaker's last),
-- gap (ms between two attempts, while it is slowed down), not_before (ms), tat (GCRA of its rate), disabled (why),
-- disabled_at.
local LANES = prefix .. 'callbacks:lanes'
local NEWS = prefix .. 'endpoints:news'
-- How long the fortunes of an endpoint are remembered to which nothing is sent any more.
local MEMORY = 30 * 86400 * 1000

local function whole(number) return string.format('%.0f', number) end
local function message_key(id) return prefix .. 'callback:' .. id end
local function health_key(endpoint) return prefix .. 'endpoint:' .. endpoint end
local function lane_of(endpoint) return prefix .. 'callbacks:lane:' .. endpoint end
local function busy_of(endpoint) return prefix .. 'callbacks:busy:' .. endpoint end
local function line_of(endpoint, order) return prefix .. 'callbacks:line:' .. endpoint .. ':' .. redis.sha1hex(order) end

-- The endpoint of a message and the key of its line. What was written before there were endpoints is for the app's own.
local function address_of(id)
  local endpoint, app, order = fields_of(message_key(id), 'endpoint', 'app_id', 'order')
  if not endpoint or endpoint == '' then endpoint = 'app-' .. (app or '') end
  return endpoint, order or nil
end

-- What its operator wrote of an endpoint (gateway/endpoints.py, EndpointSettings). One that can't be read must not hold
-- up the others.
local function published_of(endpoint)
  local text = fields_of(prefix .. 'endpoints', endpoint)
  local read, found = pcall(cjson.decode, text or '{}')
  return read and type(found) == 'table' and found or {}
end

-- Whether nothing is sent to an endpoint: its operator said so, or it was given up.
local function is_disabled(endpoint)
  return fields_of(health_key(endpoint), 'disabled') and true or published_of(endpoint).disabled == true
end

-- Look at a lane no later than this.
local function stir(endpoint, at) redis.call('ZADD', LANES, 'LT', whole(at), endpoint) end

-- There is room for another message, and nobody may be looking.
local function show_room(endpoint)
  local head = redis.call('ZRANGE', lane_of(endpoint), 0, 0, 'WITHSCORES')
  if not head[1] then
    redis.call('ZREM', LANES, endpoint)
    return
  end
  stir(endpoint, tonumber(head[2]))
  if tonumber(head[2]) <= now then wake('callback') end
end

local function into_lane(endpoint, id, at)
  redis.call('ZADD', lane_of(endpoint), whole(at), id)
  stir(endpoint, at)
end

-- A message that is due then. Where its key has a line it goes to its end, and into the lane only at its head.
local function join(id, at)
  local endpoint, order = address_of(id)
  if redis.call('ZREM', busy_of(endpoint), id) == 1 then
    redis.call('ZREM', lane_of(endpoint), id)
    show_room(endpoint)
  end
  if order then
    local line = line_of(endpoint, order)
    local place = fields_of(message_key(id), 'place')
    if not place then
      place = redis.call('INCR', prefix .. 'callbacks:last')
      redis.call('HSET', message_key(id), 'place', place)
    end
    redis.call('ZADD', line, place, id)
    if redis.call('ZRANGE', line, 0, 0)[1] ~= id then
      redis.call('ZREM', lane_of(endpoint), id)
      return
    end
  end
  into_lane(endpoint, id, at)
end

-- The next in a line whose head is gone goes into the lane. What is no more in the store does not hold it up; what has
-- lost its job has its turn all the same: to let those behind it go first would be another order.
local function advance(endpoint, line)
  while true do
    local id = redis.call('ZRANGE', line, 0, 0)[1]
    if not id then return end
    local due = redis.call('ZSCORE', queue_of('callback'), job_of('callback', id))
    if redis.call('EXISTS', message_key(id)) == 1 then return into_lane(endpoint, id, tonumber(due or now)) end
    redis.call('ZREM', line, id)
  end
end

-- A message that is not sent any more.
local function leave_lane(id, endpoint, order)
  redis.call('ZREM', lane_of(endpoint), id)
  redis.call('ZREM', busy_of(endpoint), id)
  if order then
    local line = line_of(endpoint, order)
    local first = redis.call('ZRANGE', line, 0, 0)[1]
    redis.call('ZREM', line, id)
    -- Should it be sent once more, it goes to the end.
    redis.call('HDEL', message_key(id), 'place')
    if first == id then advance(endpoint, line) end
  end
  show_room(endpoint)
end

local function lease_lane(id, lease)
  local endpoint = address_of(id)
  redis.call('ZADD', lane_of(endpoint), 'XX', now + lease, id)
  redis.call('ZADD', busy_of(endpoint), 'XX', now + lease, id)
end
