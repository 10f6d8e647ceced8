-- Tells the board of health what a process has to tell, of all its signals in one call, and answers what the board says. The rules are
-- those of fleet_health.py; there is the reason for each line of them.
--
-- KEYS[1]: the processes that decide, by the instant they were last heard of. Then two keys a signal: its state, its marks.
-- ARGV[1]: the process. ARGV[2]: 1 where it decides, 0 where it only listens, -1 where it leaves. ARGV[3]: the channel that is told of
-- changes. Then for each signal 16 doubles: whether it is open, its incident, quorum, share kept, floor, recovery a step, length of a
-- step, whether the settings are new, 1 where the mark is told (0: only looked at), and the state that the process has seen: 7 doubles;
-- then what tells this signal of the process from others of the same name.
-- Answers with doubles: the instant, how many processes decide, then for each signal its state and how many marks it has.

local LAPSES, DAYS_MS, PPB = 5000000, 864000000, 1000000000
local floor, min, max = math.floor, math.min, math.max

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local process, decides, channel = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local text = function(number) return string.format('%.0f', number) end

local function drop_lapsed(key)
  redis.call('ZREMRANGEBYSCORE', key, '(' .. text(now), '+inf')
  local last = redis.call('ZREVRANGEBYSCORE', key, text(now - LAPSES), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not last[2] then return 0 end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - LAPSES))
  return tonumber(last[2]) + LAPSES
end

local function times_share(factor, share)
  local high = floor(share / 100000)
  local upper = factor * high
  local whole = floor(upper / 10000)
  return whole + floor(((upper - whole * 10000) * 100000 + factor * (share - high * 100000)) / PPB)
end

local function factor_at(state)
  return min(PPB, state[5] + state[6] * floor(max(0, now - state[4]) / state[7]))
end

local function renew(state_key, marks_key, bytes)
  local told = {struct.unpack('<dddddddddddddddd', bytes)}
  local marker = process .. string.sub(bytes, 129)
  local is_open, incident, quorum, kept_share, lowest, recover, every, has_new = unpack(told, 1, 8)
  local seen = {unpack(told, 10, 16)}
  local kept = redis.call('GET', state_key)
  local state = kept and {struct.unpack('<ddddddd', kept)} or {0, 0, 0, 0, PPB, 0, 60000000}
  if seen[1] > state[1] then
    state = seen
    if state[3] == 1 then redis.call('ZADD', marks_key, text(now), 'restored') end
  end
  local before = state[1]
  if state[4] > now then state[4] = now end
  local ended = drop_lapsed(marks_key)
  if told[9] == 1 then
    if is_open == 0 then
      if redis.call('ZREM', marks_key, marker) == 1 then ended = now end
    elseif incident == 0 or (incident == state[2] and state[3] == 1) then
      redis.call('ZADD', marks_key, text(now), marker)
    end
  end
  local count = redis.call('ZCARD', marks_key)
  if state[3] == 1 and count == 0 then
    state = {state[1] + 1, state[2], 0, ended > 0 and ended or now, state[5], state[5] < PPB and recover or 0, every}
  elseif state[3] == 0 and count >= quorum then
    local factor = factor_at(state)
    factor = min(factor, max(lowest, times_share(factor, kept_share)))
    state = {state[1] + 1, state[2] + 1, 1, now, factor, 0, every}
  elseif has_new == 1 and state[6] > 0 and (state[6] ~= recover or state[7] ~= every) then
    local factor = factor_at(state)
    state = {state[1] + 1, state[2], 0, now, factor, factor < PPB and recover or 0, every}
  end
  local packed = struct.pack('<ddddddd', unpack(state, 1, 7))
  redis.call('SET', state_key, packed, 'PX', DAYS_MS)
  if count > 0 then redis.call('PEXPIRE', marks_key, DAYS_MS) end
  if state[1] ~= before then redis.call('PUBLISH', channel, text(state[1])) end
  return packed .. struct.pack('<d', count)
end

drop_lapsed(KEYS[1])
if decides == 1 then
  redis.call('ZADD', KEYS[1], text(now), process)
  redis.call('PEXPIRE', KEYS[1], DAYS_MS)
elseif decides == -1 then
  redis.call('ZREM', KEYS[1], process)
end
local answers = {struct.pack('<dd', now, redis.call('ZCARD', KEYS[1]))}
for number = 2, #KEYS, 2 do
  answers[#answers + 1] = renew(KEYS[number], KEYS[number + 1], ARGV[number / 2 + 3])
end
return table.concat(answers)
