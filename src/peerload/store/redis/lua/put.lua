-- KEYS: the five, and the blob's. ARGV: epoch, seen, key, value, any|absent|<revision>, stamp or empty, load or empty,
-- and the blob, if there is a new one.
-- Answers {'ok', revision, generation} or {'conflict', revision or empty}.
local BLOB = KEYS[6]
local epoch, seen, key, value, expect, stamp, load, blob = unpack(ARGV)

local held = state[2] and state[3] and redis.call('HGET', ENTRIES, key)
local held_revision, generation, size = '', nil, '-'
if held then
    held_revision, generation, size = string.match(held, '^(%d+) (%d+) (%S+) ')
end
if (expect == 'absent' and held) or (expect ~= 'any' and expect ~= 'absent' and expect ~= held_revision) then
    return {'conflict', held_revision}
end

local held_stamp, held_load
if held and not blob then
    held_stamp, held_load = string.match(redis.call('HGET', BEATS, key) or '', '^%d+ %d+ (%d+) (%S*)$')
end
if held_stamp and (stamp == '' or not later(stamp, held_stamp)) then
    stamp, load = held_stamp, held_load
end

prepare(epoch)
local revision = next_revision(seen)
if blob then
    size = tostring(#blob)
end
if blob or not generation then
    generation = revision
end
local entry = revision .. ' ' .. generation .. ' ' .. size .. ' ' .. value
local beat = generation .. ' ' .. revision
if stamp ~= '' then
    beat = beat .. ' ' .. stamp .. ' ' .. load
end
append(revision, 'k', key, 'v', entry, 'b', beat)
redis.call('HSET', ENTRIES, key, entry)
redis.call('HSET', BEATS, key, beat)
redis.call('ZADD', INDEX, 0, key)
if blob then
    redis.call('SET', BLOB, blob)
end
return {'ok', revision, generation}
