-- KEYS: the five. ARGV: key. Answers {entry, beat}, or nothing.
if not state[2] or not state[3] then
    return {}
end
local entry = redis.call('HGET', ENTRIES, ARGV[1])
if not entry then
    return {}
end
return {entry, redis.call('HGET', BEATS, ARGV[1])}
