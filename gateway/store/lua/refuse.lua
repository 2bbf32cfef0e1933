-- Keep deliveries that left no event: the newest, so many of all, of each owner, and of those with a body.
--
-- KEYS[1]  prefix
-- ARGV     how many are kept in all, of one owner, bodies in all, bodies of one owner, for how long (ms),
--          number of refusals, then for each: id, owner (an app's id, or '-'), when (ms), record (JSON),
--          the sender's own id or '', '1' when a body follows and '0' when not, body or ''
local most, most_of, bodies, bodies_of, life = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
local all, with_body = prefix .. 'refused', prefix .. 'refused:bodies'
local function of(owner) return prefix .. 'refused:of:' .. owner end
local function bodies_by(owner) return prefix .. 'refused:bodies:' .. owner end

local function forget_body(id, owner)
  redis.call('ZREM', with_body, id)
  redis.call('ZREM', bodies_by(owner), id)
  redis.call('HDEL', prefix .. 'refusal:' .. id, 'body')
end

local function forget(id, owner)
  redis.call('ZREM', all, id)
  redis.call('ZREM', of(owner), id)
  redis.call('ZREM', with_body, id)
  redis.call('ZREM', bodies_by(owner), id)
  redis.call('UNLINK', prefix .. 'refusal:' .. id)
end

local function owner_of(id)
  return redis.call('HGET', prefix .. 'refusal:' .. id, 'owner') or '-'
end

local function trim(key, limit, drop)
  local surplus = redis.call('ZCARD', key) - limit
  if surplus <= 0 then return end
  for _, id in ipairs(redis.call('ZRANGE', key, 0, surplus - 1)) do drop(id, owner_of(id)) end
  -- Whatever the records say, no set grows beyond its limit.
  redis.call('ZREMRANGEBYRANK', key, 0, -limit - 1)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', all, '-inf', now - life, 'LIMIT', 0, 200)) do forget(id, owner_of(id)) end
for _ = 1, tonumber(take()) do
  local id, owner, at, record, delivery, whole, body = take(), take(), take(), take(), take(), take(), take()
  local key = prefix .. 'refusal:' .. id
  redis.call('HSET', key, 'owner', owner, 'record', record, 'delivery', delivery)
  redis.call('PEXPIRE', key, life)
  redis.call('ZADD', all, at, id)
  redis.call('ZADD', of(owner), at, id)
  redis.call('PEXPIRE', of(owner), life)
  if whole == '1' then
    redis.call('HSET', key, 'body', body)
    redis.call('ZADD', with_body, at, id)
    redis.call('ZADD', bodies_by(owner), at, id)
    redis.call('PEXPIRE', bodies_by(owner), life)
    trim(bodies_by(owner), bodies_of, forget_body)
  end
  trim(of(owner), most_of, forget)
end
trim(all, most, forget)
trim(with_body, bodies, forget_body)
return 'ok'
