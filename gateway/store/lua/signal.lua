-- Give a run a word from outside, and have whoever works on it look.
--
-- KEYS[1]  prefix
-- ARGV     run id, the word (JSON, without its number and time), a name under which only one word is taken ('' = any),
--          most words of a run, states in which a run takes words (n, states..)
-- Answers  {'ok', number, now}; {'gone'}: no such run; {'taken'}: there was one under that name; {'full'}; or {'refused', state}
local id, word, once, most, states = take(), take(), take(), tonumber(take()), take_list()
local key = prefix .. 'run:' .. id
local state = redis.call('HGET', key, 'state')
if not state then return {'gone'} end
if not contains(states, state) then return {'refused', state} end
if once ~= '' and redis.call('HEXISTS', key, 'once:' .. once) == 1 then return {'taken'} end
local number = tonumber(redis.call('HGET', key, 'words') or 0) + 1
-- The answers to what a run asks are as many as its questions: no flood of words keeps them out.
if once == '' and number > most then return {'full'} end
redis.call('HSET', key, 'words', number, 'signal:' .. number, '{"seq":' .. number .. ',"at":' .. moment .. ',' .. string.sub(word, 2))
if once ~= '' then redis.call('HSET', key, 'once:' .. once, number) end
poke(id)
redis.call('PUBLISH', prefix .. 'moved:run:' .. id, state)
return {'ok', number, moment}
