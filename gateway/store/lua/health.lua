-- What an attempt told of its endpoint. Put in front of the script that records attempts.
local GAP, LONGEST_GAP = 1000, 60000

local function disable(endpoint, reason)
  if redis.call('HEXISTS', health_key(endpoint), 'disabled') == 1 then return end
  redis.call('HSET', health_key(endpoint), 'disabled', reason, 'disabled_at', moment)
  redis.call('PERSIST', health_key(endpoint))
  redis.call('ZREM', LANES, endpoint)
  redis.call('SADD', NEWS, endpoint)
  redis.call('HINCRBY', prefix .. 'counts', 'endpoints:disabled:' .. reason, 1)
end

-- The first success forgets what was before; an endpoint that was slowed down comes back to its pace by halves.
local function learn_good(key, gap)
  gap = math.floor((gap or 0) / 2)
  redis.call('HDEL', key, 'failures', 'failing_since', 'pause', 'not_before', 'gap')
  if gap >= GAP then redis.call('HSET', key, 'gap', gap, 'not_before', whole(now + gap)) end
end

-- Attempts that were under way when the breaker opened do not lengthen its pause: a probe does.
local function learn_bad(key, rule)
  local failures = redis.call('HINCRBY', key, 'failures', 1)
  redis.call('HSETNX', key, 'failing_since', moment)
  local since, pause, not_before = unpack(redis.call('HMGET', key, 'failing_since', 'pause', 'not_before'))
  if failures < rule.failures then return nil end
  if now - since >= rule.patience then return 'failing' end
  if now < tonumber(not_before or 0) then return nil end
  pause = math.min(pause and pause * 2 or rule.pause, rule.longest)
  redis.call('HSET', key, 'pause', whole(pause), 'not_before', whole(now + pause))
end

local function slow_down(key, gap, wait)
  gap = math.min(math.max((gap or 0) * 2, GAP), LONGEST_GAP)
  local not_before = tonumber(redis.call('HGET', key, 'not_before') or 0)
  redis.call('HSET', key, 'gap', gap, 'not_before', whole(math.max(not_before, now + math.max(gap, wait))))
end

-- `lesson` is {what: good | bad | slow | gone | asked, ms the receiver asked for, failures that open the breaker, its
-- first pause (ms), its longest (ms), how long (ms) an endpoint may do nothing but fail}
local function learn(endpoint, lesson)
  local what, wait = lesson[1], tonumber(lesson[2])
  local key = health_key(endpoint)
  local failures, gap = unpack(redis.call('HMGET', key, 'failures', 'gap'))
  if what == 'good' then
    if failures or gap then learn_good(key, gap) end
    return
  end
  local rule = {failures = tonumber(lesson[3]), pause = tonumber(lesson[4]), longest = tonumber(lesson[5])}
  rule.patience = tonumber(lesson[6])
  local end_of_it = (what == 'gone' or what == 'asked') and what
  if not end_of_it then end_of_it = learn_bad(key, rule) end
  if what == 'slow' then slow_down(key, gap, wait) end
  if redis.call('HEXISTS', key, 'disabled') == 0 then redis.call('PEXPIRE', key, MEMORY) end
  if end_of_it then disable(endpoint, end_of_it) end
end
