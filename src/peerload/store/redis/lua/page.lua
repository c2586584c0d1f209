-- KEYS: the five. ARGV: where to begin and to end in the index (as ZRANGEBYLEX takes them), how many at most.
-- Answers {epoch, key, entry, beat, key, entry, beat, ...}.
local keys = redis.call('ZRANGEBYLEX', INDEX, ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local answer = {state[2] or ''}
for first = 1, #keys, CHUNK do
    local last = math.min(first + CHUNK - 1, #keys)
    local entries = redis.call('HMGET', ENTRIES, unpack(keys, first, last))
    local beats = redis.call('HMGET', BEATS, unpack(keys, first, last))
    for i = first, last do
        answer[#answer + 1] = keys[i]
        answer[#answer + 1] = entries[i - first + 1]
        answer[#answer + 1] = beats[i - first + 1]
    end
end
return answer
