-- The last tick done of each schedule: move it forward, begin new schedules now, drop those that are no more.
--
-- KEYS[1]  prefix
-- ARGV     revision of the published things that the caller goes by,
--          ticks done (n, field, tick, ..), schedules there are (n, fields..), schedules to drop (n, fields..)
-- Answers  {now (ms), 0} when the revision is no longer the newest: only the ticks done are written then;
--          else {now (ms), 1, field, last tick, ..}
local revision, done, present, gone = take(), take_list(), take_list(), take_list()
local key = prefix .. 'schedules'

for i = 1, #done, 2 do
  local last = redis.call('HGET', key, done[i])
  if last and tonumber(last) < tonumber(done[i + 1]) then redis.call('HSET', key, done[i], done[i + 1]) end
end
-- Who does not know of the last change yet must not drop what is new, nor keep what was taken away.
if (redis.call('GET', prefix .. 'revision') or '0') ~= revision then return {now, 0} end
for _, field in ipairs(gone) do redis.call('HDEL', key, field) end
for _, field in ipairs(present) do redis.call('HSETNX', key, field, moment) end
local answer = redis.call('HGETALL', key)
table.insert(answer, 1, 1)
table.insert(answer, 1, now)
return answer
