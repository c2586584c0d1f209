-- KEYS: the five. ARGV: seen, and a JSON array of texts: key, generation, stamp, load or empty, revision or empty, and
-- so on. Answers a letter a touch: a(pplied), o(lder), m(issing), c(hanged). All of a batch is one item of the feed: t,
-- the beats that were raised as a JSON array: key, generation, stamp, load, and so on.
local FIELDS = 5
local seen = ARGV[1]
local touches = cjson.decode(ARGV[2])
if not state[2] or not state[3] then
    return string.rep('m', #touches / FIELDS)
end

local keys, known = {}, {}
for i = 1, #touches, FIELDS do
    if known[touches[i]] == nil then
        known[touches[i]] = false
        keys[#keys + 1] = touches[i]
    end
end
for first = 1, #keys, CHUNK do
    local last = math.min(first + CHUNK - 1, #keys)
    local beats = redis.call('HMGET', BEATS, unpack(keys, first, last))
    for i = first, last do
        known[keys[i]] = beats[i - first + 1]
    end
end

local generations, revisions, stamps = {}, {}, {}
for _, key in ipairs(keys) do
    if known[key] then
        generations[key], revisions[key], stamps[key] = string.match(known[key], '^(%d+) (%d+) ?(%d*)')
    end
end

local answers, raised, order = {}, {}, {}
for i = 1, #touches, FIELDS do
    local key, stamp = touches[i], touches[i + 2]
    local changed = touches[i + 4] ~= '' and touches[i + 4] ~= revisions[key]
    if generations[key] ~= touches[i + 1] then
        answers[#answers + 1] = 'm'
    elseif stamps[key] ~= '' and not later(stamp, stamps[key]) then
        answers[#answers + 1] = changed and 'c' or 'o'
    else
        answers[#answers + 1] = changed and 'c' or 'a'
        stamps[key] = stamp
        if not raised[key] then
            order[#order + 1] = key
        end
        raised[key] = i
    end
end

if #order > 0 then
    local told, written = {}, {}
    for _, key in ipairs(order) do
        local i = raised[key]
        for field = 0, 3 do
            told[#told + 1] = touches[i + field]
        end
        written[#written + 1] = key
        written[#written + 1] = touches[i + 1] .. ' ' .. revisions[key] .. ' ' .. touches[i + 2] .. ' ' .. touches[i + 3]
    end
    append(next_revision(seen), 't', cjson.encode(told))
    for first = 1, #written, 2 * CHUNK do
        redis.call('HSET', BEATS, unpack(written, first, math.min(first + 2 * CHUNK - 1, #written)))
    end
end
return table.concat(answers)
