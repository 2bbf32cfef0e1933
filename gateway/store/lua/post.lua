-- Put messages that are about no run into the outbox, all or none.
--
-- KEYS[1]  prefix
-- ARGV     a mark's key ('' = none), its field, its value: where the field has this value already nothing is put, else
--          it gets it; messages (n, then each: id, fields (n, name, value, ..))
-- Answers  1, or 0 where the mark said that it was done before
local mark, field, value, count = take(), take(), take(), tonumber(take())
if mark ~= '' then
  if redis.call('HGET', mark, field) == value then return 0 end
  redis.call('HSET', mark, field, value)
end
for _ = 1, count do
  local id = take()
  put_message(id, take_list())
end
if count > 0 then wake('callback') end
return 1
