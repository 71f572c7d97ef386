"""What Redis does in one step: number, keep and publish an event; read history; keep the list of who is here.

The count of a channel and its events are two keys: the events end with the history, the count lives on, so that whoever
comes back late still hears whether anything was missed. docs/reference-publish-format.md describes the keys.
"""

from typing import Final

from sstream.backend.pipe import Script

__all__ = ["ENTER", "HISTORY", "LEAVE", "PRESENT", "PUBLISH", "SWEEP"]

# KEYS: position, log.  ARGV: an epoch, should there be none; seconds to keep the position.
_BEGIN: Final = r"""
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0)
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: position, log, channel.  ARGV: as above; seconds to keep the log, its size, PUBLISH or SPUBLISH, the name of the
# channel, the payload.  0x93 and 0x94 begin an array of three and of four, 0x83 a map of three.
PUBLISH: Final = Script(
    _BEGIN
    + r"""
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
local message = '\148' .. string.sub(ARGV[7], 2) .. '\131\167channel' .. cmsgpack.pack(ARGV[6])
  .. '\166offset' .. cmsgpack.pack(offset) .. '\165epoch' .. cmsgpack.pack(epoch)
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], string.format('%.0f-0', offset), 'event', message)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call(ARGV[5], KEYS[3], message)
return {offset, epoch}
"""
)

# KEYS: position, log.  ARGV: as above; the reader's epoch or nothing, its offset.
HISTORY: Final = Script(
    _BEGIN
    + r"""
local offset = tonumber(redis.call('HGET', KEYS[1], 'offset'))
if ARGV[3] == '' then return {offset, epoch, 1} end
local missed = offset - tonumber(ARGV[4])
if ARGV[3] ~= epoch or missed < 0 or missed > redis.call('XLEN', KEYS[2]) then return {offset, epoch, 0} end
if missed == 0 then return {offset, epoch, 1} end
return {offset, epoch, 1, redis.call('XRANGE', KEYS[2], string.format('%.0f-0', ARGV[4] + 1), '+')}
"""
)

# KEYS of all that follow: until, users, channel.  ``until`` has for each node and user, in one text, the time in
# milliseconds until when that user is there by way of that node; ``users`` has for each user the number of nodes
# (n<user>) and the map (m<user>).  ARGV of all: PUBLISH or SPUBLISH, the name of the channel.
_SWEEP: Final = r"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[1], member)
  local user = string.sub(member, string.find(member, ' ', 1, true) + 1)
  if redis.call('HINCRBY', KEYS[2], 'n' .. user, -1) < 1 then
    redis.call('HDEL', KEYS[2], 'n' .. user, 'm' .. user)
    redis.call(ARGV[1], KEYS[3],
      '\148\2\164left\145' .. cmsgpack.pack(user) .. '\129\167channel' .. cmsgpack.pack(ARGV[2]))
  end
end
"""

# ARGV: as above; the node, milliseconds to live, then user and map in turn.
ENTER: Final = Script(
    _SWEEP
    + r"""
for index = 5, #ARGV, 2 do
  local user, about = ARGV[index], ARGV[index + 1]
  local joined = false
  if redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[3] .. ' ' .. user) == 1 then
    joined = redis.call('HINCRBY', KEYS[2], 'n' .. user, 1) == 1
  end
  redis.call('HSET', KEYS[2], 'm' .. user, about)
  if joined then
    redis.call(ARGV[1], KEYS[3],
      '\148\2\166joined\146' .. cmsgpack.pack(user) .. about .. '\129\167channel' .. cmsgpack.pack(ARGV[2]))
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4] * 3)
redis.call('PEXPIRE', KEYS[2], ARGV[4] * 3)
"""
)

# ARGV: as above; the node, milliseconds of grace, then users.
LEAVE: Final = Script(
    _SWEEP
    + r"""
for index = 5, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', 'LT', now + ARGV[4], ARGV[3] .. ' ' .. ARGV[index])
end
"""
)

# Answers the milliseconds until the next one's time is up.
SWEEP: Final = Script(
    _SWEEP
    + r"""
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then return math.max(0, first[2] - now) end
return -1
"""
)

# Answers user and map in turn.
PRESENT: Final = Script(
    _SWEEP
    + r"""
local present = {}
local fields = redis.call('HGETALL', KEYS[2])
for index = 1, #fields, 2 do
  if string.sub(fields[index], 1, 1) == 'm' then
    present[#present + 1] = string.sub(fields[index], 2)
    present[#present + 1] = fields[index + 1]
  end
end
return present
"""
)
