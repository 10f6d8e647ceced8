-- Decides questions about shared buckets, in order, in one call. The arithmetic is that of shared_bucket.py, number for number; there
-- is the reason for each line of it. Numbers are doubles, and every one of them is whole and below 2^53.
--
-- KEYS: the buckets asked about, each once.
-- ARGV[i]: of the bucket KEYS[i]: 8 bytes units of one that is not known, then the pace: 4 doubles, or 11 while its factor is not 1.
-- ARGV[#KEYS + 1]: the questions, 4 doubles each: number of the bucket, least, most, patience in microseconds.
-- Answers with doubles: the instant, then for each question taken, wait in microseconds, units left, whether health takes a part.

local UNIT, EXACT, LONGEST_TTL_MS, CHANGES = 1000000, 9007199254740992, 1e14, 4294967296
local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local unpack_bytes, pack_bytes = struct.unpack, struct.pack

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function read_pace(bytes, from)
  local pace = {bytes = string.sub(bytes, from)}
  if #pace.bytes == 32 then
    pace.epoch, pace.numerator, pace.denominator, pace.capacity = unpack_bytes('<dddd', bytes, from)
    pace.steps = 0
  else
    pace.epoch, pace.numerator, pace.denominator, pace.capacity, pace.start, pace.every, pace.steps,
      pace.first, pace.rise, pace.least, pace.growth = unpack_bytes('<ddddddddddd', bytes, from)
  end
  return pace
end

local function at_step(pace, step)
  if step >= pace.steps then return pace.numerator, pace.capacity end
  return pace.first + pace.rise * step, max(UNIT, pace.least + pace.growth * step)
end

local function step_at(pace, instant)
  if pace.steps == 0 then return 0 end
  return floor(max(0, instant - pace.start) / pace.every)
end

local function issued(units, rest, elapsed, numerator, denominator, capacity)
  -- Certainly full: said first, so that what is computed below stays exact.
  if elapsed * (numerator / denominator) > capacity - units + UNIT then return capacity, 0 end
  local whole = floor(elapsed / denominator)
  local more = (elapsed - whole * denominator) * numerator + rest
  local carried = floor(more / denominator)
  units = units + whole * numerator + carried
  if units >= capacity then return capacity, 0 end
  return units, more - carried * denominator
end

local function refilled(units, rest, at, till, pace)
  while true do
    local step = step_at(pace, at)
    local numerator, capacity = at_step(pace, step)
    local finish = till
    if step < pace.steps then finish = min(till, pace.start + (step + 1) * pace.every) end
    units, rest = issued(units, rest, finish - at, numerator, pace.denominator, capacity)
    if finish >= till then
      if step < step_at(pace, till) then
        local _, next_capacity = at_step(pace, step + 1)
        units = min(units, next_capacity)
      end
      return units, rest
    end
    at = finish
  end
end

local function bring(bucket, pace)
  local units, rest, at, old = bucket.units, bucket.rest, bucket.at, bucket.pace
  if at > now then at, rest = now, 0 end
  local is_one_signal = floor(pace.epoch / CHANGES) == floor(old.epoch / CHANGES)
  if is_one_signal and pace.epoch > 0 and pace.epoch < old.epoch then pace = old end
  if is_one_signal and pace.epoch > old.epoch then
    local turn = min(max(pace.start or 0, at), now)
    local old_numerator = at_step(old, step_at(old, at))
    local numerator, capacity = at_step(pace, 0)
    if pace.epoch == old.epoch + 1 then
      units = refilled(units, rest, at, turn, old)
    elseif old_numerator / old.denominator <= numerator / pace.denominator then
      units = refilled(units, 0, at, turn, old)
    else
      units = issued(units, 0, turn - at, numerator, pace.denominator, capacity)
    end
    at, rest = turn, 0
  elseif pace.denominator ~= old.denominator then
    rest = 0
  end
  bucket.units, bucket.rest = refilled(units, rest, at, now, pace)
  bucket.at, bucket.pace = now, pace
end

local function wait_for(missing, rest, numerator, denominator)
  local whole = floor(missing / numerator)
  return min(EXACT, whole * denominator + ceil(((missing - whole * numerator) * denominator - rest) / numerator))
end

local function decide(bucket, least, most, patience)
  local pace = bucket.pace
  local numerator, capacity = at_step(pace, step_at(pace, now))
  local is_cut = numerator < pace.numerator and 1 or 0
  if least < 0 then
    if patience == 0 or now < patience then
      bucket.units = min(capacity, bucket.units - least * UNIT)
      if bucket.units >= capacity then bucket.rest = 0 end
    end
    return 0, 0, is_cut
  end
  if least * UNIT > capacity then return 0, -1, is_cut end
  if bucket.units >= least * UNIT then
    local taken = min(most, floor(bucket.units / UNIT))
    bucket.units = bucket.units - taken * UNIT
    return taken, 0, is_cut
  end
  local wait = wait_for(least * UNIT - bucket.units, bucket.rest, numerator, pace.denominator)
  if wait > patience then return 0, wait, is_cut end
  bucket.units = bucket.units - least * UNIT
  return least, wait, is_cut
end

local function load_bucket(number)
  local pace = read_pace(ARGV[number], 9)
  local kept = redis.call('GET', KEYS[number])
  local bucket = {}
  if kept then
    bucket.units, bucket.rest, bucket.at = unpack_bytes('<ddd', kept)
    bucket.pace = string.sub(kept, 25) == pace.bytes and pace or read_pace(kept, 25)
  else
    local units = unpack_bytes('<d', ARGV[number])
    local _, capacity = at_step(pace, step_at(pace, now))
    bucket.units, bucket.rest, bucket.at, bucket.pace = min(units, capacity), 0, now, pace
  end
  bring(bucket, pace)
  return bucket
end

local function save_bucket(number, bucket)
  local pace = bucket.pace
  if bucket.units >= pace.capacity then
    redis.call('DEL', KEYS[number])
    return
  end
  local numerator = at_step(pace, step_at(pace, now))
  local ttl = ceil((pace.capacity - bucket.units) * pace.denominator / numerator / 1000) + 1000
  local kept = pack_bytes('<ddd', bucket.units, bucket.rest, bucket.at) .. pace.bytes
  redis.call('SET', KEYS[number], kept, 'PX', string.format('%.0f', min(LONGEST_TTL_MS, ttl)))
end

local questions = ARGV[#KEYS + 1]
local buckets, answers = {}, {pack_bytes('<d', now)}
for from = 1, #questions, 32 do
  local number, least, most, patience = unpack_bytes('<dddd', questions, from)
  local bucket = buckets[number]
  if not bucket then
    bucket = load_bucket(number)
    buckets[number] = bucket
  end
  local taken, wait, is_cut = decide(bucket, least, most, patience)
  answers[#answers + 1] = pack_bytes('<dddd', taken, wait, bucket.units, is_cut)
end
for number, bucket in pairs(buckets) do save_bucket(number, bucket) end
return table.concat(answers)
