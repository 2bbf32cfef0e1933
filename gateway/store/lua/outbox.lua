-- A message into the outbox: pending, and due at once.
local function put_message(id, fields)
  redis.call('HSET', prefix .. 'callback:' .. id, 'state', 'pending', 'created_at', now, unpack(fields))
  redis.call('ZADD', set_of('callback', 'pending'), now, id)
  enqueue('callback', id, now)
  join(id, now)
end
