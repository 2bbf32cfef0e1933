-- The last run id given. Should its key be lost, no id may be given twice: then it is the highest that any index knows;
-- or, where those are lost as well, one well above the last that a sweep saw.
local RUN_STATES = {'pending', 'running', 'waiting', 'completed', 'failed', 'cancelled'}
local MARGIN = 100000

local function last_run()
  local last = redis.call('GET', prefix .. 'runs:last')
  if last then return tonumber(last), false end
  local highest = 0
  for _, state in ipairs(RUN_STATES) do
    local top = redis.call('ZRANGE', set_of('run', state), 0, 0, 'REV')[1]
    if top then highest = math.max(highest, tonumber(top)) end
  end
  local seen = tonumber(redis.call('HGET', prefix .. 'sweeps', 'last_run') or 0)
  if highest < seen then highest = seen + MARGIN end
  return highest, highest > 0
end
