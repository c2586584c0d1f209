-- The beginning of every script. Redis runs a script alone, and does not roll back: everything is checked before the
-- first write, and nothing after that can fail.
--
-- meta     hash: layout, epoch (names this feed in positions), last (the last revision, decimal)
-- entries  hash: key -> "<revision> <generation> <size of the blob, or -> <value as JSON>"
-- beats    hash: key -> "<generation> <revision>", followed by " <stamp> <load, or empty>" once there is a beat; exactly
--          the keys of entries, and small, so that touches need not read values
-- index    sorted set of the keys, all with score 0: ordered by their bytes
-- feed     stream; an item's id is <revision>-0, its field p the id before it, the others what happened
--
-- Stamps are up to 2^63, which a Lua number cannot hold: they are compared as text.
local META, ENTRIES, BEATS, INDEX, FEED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LAYOUT = '1'
local KEPT_US = 150 * 1000000
local FUTURE_US = 60 * 1000000
local CHUNK = 1000

local state = redis.call('HMGET', META, 'layout', 'epoch', 'last')
if state[1] and state[1] ~= LAYOUT then
    return redis.error_reply('LAYOUT ' .. state[1])
end

local function decimal(number)
    return string.format('%.0f', number)
end

local function now_us()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Begin anew where nothing is, under the epoch that the caller has drawn. The first write of the script that does it.
local function prepare(epoch)
    if not state[2] or not state[3] then
        redis.call('DEL', ENTRIES, BEATS, INDEX, FEED)
        state = {LAYOUT, epoch, decimal(now_us())}
        redis.call('HSET', META, 'layout', state[1], 'epoch', state[2], 'last', state[3])
    end
end

-- The next revision: later than every one given here, than the time, and than what the caller has seen anywhere.
local function next_revision(seen)
    return decimal(math.max(tonumber(state[3]) + 1, now_us(), tonumber(seen) + 1))
end

-- Append to the feed; the fields after the revision say what happened.
local function append(revision, ...)
    local now = now_us()
    if tonumber(revision) > now + FUTURE_US then
        -- The clock was set back: by age nothing would ever go.
        redis.call('XADD', FEED, 'MAXLEN', '~', 10000, revision .. '-0', 'p', state[3], ...)
    else
        redis.call('XADD', FEED, 'MINID', '~', decimal(now - KEPT_US), revision .. '-0', 'p', state[3], ...)
    end
    redis.call('HSET', META, 'last', revision)
end

local function later(one, other)
    return #one > #other or (#one == #other and one > other)
end
