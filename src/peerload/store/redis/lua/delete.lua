-- KEYS: the five, and the blob's. ARGV: seen, key, any|<revision>, the stamp that no beat may be later than, or empty.
-- Answers {'ok', revision} or {'conflict', revision or empty}.
local BLOB = KEYS[6]
local seen, key, expect, since = unpack(ARGV)

local held = state[2] and state[3] and redis.call('HGET', ENTRIES, key)
if not held then
    return {'conflict', ''}
end
local held_revision = string.match(held, '^(%d+) ')
local stamp = string.match(redis.call('HGET', BEATS, key) or '', '^%d+ %d+ (%d+)')
local late = since ~= '' and stamp and (string.sub(since, 1, 1) == '-' or later(stamp, since))
if late or (expect ~= 'any' and expect ~= held_revision) then
    return {'conflict', held_revision}
end

local revision = next_revision(seen)
-- First what Redis allows even when it is out of memory: after that it allows the rest.
redis.call('HDEL', ENTRIES, key)
redis.call('HDEL', BEATS, key)
redis.call('ZREM', INDEX, key)
redis.call('UNLINK', BLOB)
append(revision, 'd', key)
return {'ok', revision}
