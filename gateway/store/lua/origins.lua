-- Where a run belongs, read from its request (gateway/runs.py, RunRequest). A request may be large, and what a caller
-- gave may hold anything: the fields before it are read in their order, and the rest is never decoded.
local function quoted_at(text, place)
  local stop = place
  repeat
    stop = string.find(text, '"', stop + 1, true)
  until not stop or #string.match(string.sub(text, place + 1, stop - 1), '\\*$') % 2 == 0
  return stop and cjson.decode('[' .. string.sub(text, place, stop) .. ']')[1]
end

local function origin_of(request)
  local head = '^{"workflow_id":(%d+),"workflow":"[^"]*","digest":"[^"]*","session_id":"[^"]*"()'
  local workflow, place = string.match(request, head)
  if not workflow then return {} end
  place = string.match(request, '^,"app_id":%d+()', place) or place
  place = string.match(request, '^,"token_id":"[^"]*"()', place) or place
  local event, after = string.match(request, '^,"event_id":"([^"]*)"()', place)
  local found = {workflow = workflow, event = event}
  local talk = string.match(request, '^,"conversation_id":()"', after or place)
  if talk then found.conversation = quoted_at(request, talk) end
  return found
end
