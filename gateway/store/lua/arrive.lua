-- Requests at doors whose apps have a rate: each takes a token of its app's bucket (GCRA) and gets 0, or gets the
-- milliseconds until there is one. ARGV: how many; for each its app's id, milliseconds a token, room.
local waits = {}
for place = 1, tonumber(take()) do
  local key = prefix .. 'arrivals:' .. take()
  local interval, burst = tonumber(take()), tonumber(take())
  local full_at = math.max(now, tonumber(redis.call('GET', key) or 0))
  local wait = full_at - (burst - 1) * interval - now
  if wait > 0 then
    waits[place] = math.ceil(wait)
  else
    full_at = full_at + interval
    redis.call('SET', key, string.format('%.3f', full_at), 'PX', math.ceil(full_at - now))
    waits[place] = 0
  end
end
return waits
