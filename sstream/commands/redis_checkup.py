"""What a Redis is, and whether it lets us do all that sessions and events need."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

from sstream.backend.connection import Argument, Connection, Refusal
from sstream.commands.report import Finding, Mark
from sstream.commands.servers import ask, connections_to, hear
from sstream.errors import ConfigurationError, StoreError
from sstream.settings import without_password

__all__ = ["check_redis"]

_OLDEST: Final = (6, 2)  # the first whose CLIENT TRACKING and XADD do what we ask for
_DRIFT: Final = 2.0  # seconds
_SCRIPT: Final = "return redis.call('GET', KEYS[1])"


async def check_redis(url: str, prefix: str) -> list[Finding]:
    """Reach the Redis at ``url`` and try everything, on keys and a channel that nobody else has."""
    findings = []
    try:
        started = time.monotonic()
        async with connections_to(url) as connections:
            took = (time.monotonic() - started) * 1000
            servers = "" if len(connections) == 1 else f", {len(connections)} primaries"
            findings.append(Finding(Mark.GOOD, "Redis", f"{without_password(url)} answers in {took:.0f} ms{servers}"))
            findings += await check_server(connections[0])
            findings += await check_rights(connections, prefix)
        async with connections_to(url) as connections, connections_to(url) as others:
            findings += await check_events(connections, others[0])
    except (StoreError, ConfigurationError) as error:
        findings.append(Finding(Mark.WRONG, "Redis", str(error)))
    return findings


# --- the server -------------------------------------------------------------------------------------------------------


async def check_server(connection: Connection) -> list[Finding]:
    """Its version, its memory, its clock."""
    before = time.time()
    info, clock = await ask(connection, ("INFO",), ("TIME",))
    after = time.time()
    return [*check_info(info), check_clock(clock, before, after)]


def check_info(info: Any) -> list[Finding]:
    """What it tells of itself."""
    if isinstance(info, Refusal):
        return [Finding(Mark.NOTE, "  version", f"is not told: {info}")]
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    fields = {name: value for name, _, value in lines}
    findings = []
    version = fields.get("redis_version", "0")
    name = "Valkey" if "valkey_version" in fields else "Redis"
    text = f"{name} {fields.get('valkey_version', version)}"
    if tuple(int(number) for number in version.split(".")[:2]) < _OLDEST:
        findings.append(Finding(Mark.WRONG, "  version", f"{text} is too old: 6.2 or newer is needed"))
    else:
        findings.append(Finding(Mark.GOOD, "  version", text))
    if fields.get("role") == "slave":
        findings.append(Finding(Mark.WRONG, "  role", "it is a replica, and cannot be written to: name the primary"))
    policy = fields.get("maxmemory_policy", "noeviction")
    if fields.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
        text = f"maxmemory-policy {policy} ends sessions that are still used when memory is short: give it volatile-ttl"
        findings.append(Finding(Mark.DOUBT, "  memory", text))
    return findings


def check_clock(clock: Any, before: float, after: float) -> Finding:
    """Does its clock go as ours?"""
    if isinstance(clock, Refusal):
        return Finding(Mark.NOTE, "  clock", f"is not told: {clock}")
    theirs = int(clock[0]) + int(clock[1]) / 1e6
    drift = max(before - theirs, theirs - after, 0.0)
    if drift > _DRIFT:
        text = f"differs from this machine's by {drift:.0f} s: sessions end earlier or later than they say; use NTP"
        return Finding(Mark.DOUBT, "  clock", text)
    return Finding(Mark.GOOD, "  clock", "as this machine's")


# --- what we may do there ---------------------------------------------------------------------------------------------


async def check_rights(connections: Sequence[Connection], prefix: str) -> list[Finding]:
    """May we do what sessions need, and what channels with history and presence do?"""
    sid = f"doctor-{secrets.token_hex(8)}"
    findings = []
    for subject, key in (("  sessions", prefix + sid), ("  records", f"sstream:{sid}")):
        commands: tuple[tuple[Argument, ...], ...] = (
            ("SET", key, "x", "EX", 10),
            ("GET", key),
            ("EXISTS", key),
            ("PTTL", key),
            ("EXPIRE", key, 10),
            ("EVAL", _SCRIPT, 1, key),
            ("DEL", key),
        )
        findings.append(await _try(connections, subject, f"{key.removesuffix(sid)}* can be read and written", commands))
    key = f"sstream:{sid}:history"
    commands = (
        ("XADD", key, "*", "x", "x"),
        ("XRANGE", key, "-", "+"),
        ("XLEN", key),
        ("PEXPIRE", key, 10_000),
        ("DEL", key),
        ("HSET", key, "x", "x"),
        ("HINCRBY", key, "n", 1),
        ("HGETALL", key),
        ("HDEL", key, "x"),
        ("DEL", key),
        ("ZADD", key, 1, "x"),
        ("ZRANGE", key, 0, -1),
        ("ZREM", key, "x"),
        ("DEL", key),
    )
    findings.append(await _try(connections, "  history", "channels may keep history and presence", commands))
    findings.append(await check_tracking(connections[0]))
    return findings


async def _try(
    connections: Sequence[Connection], subject: str, text: str, commands: Sequence[Sequence[Argument]]
) -> Finding:
    refused: dict[str, str] = {}
    for connection in connections:
        refused = {
            str(command[0]): str(answer)
            for command, answer in zip(commands, await ask(connection, *commands), strict=True)
            if isinstance(answer, Refusal)
        }
        if not any(reason.startswith("MOVED") for reason in refused.values()):
            break  # else another server of the Cluster has the key
    if not refused:
        return Finding(Mark.GOOD, subject, text)
    reason = next(iter(refused.values()))
    return Finding(Mark.WRONG, subject, f"{', '.join(refused)} refused: {reason}")


async def check_tracking(connection: Connection) -> Finding:
    """May we be told of what others change?"""
    (client_id,) = await ask(connection, ("CLIENT", "ID"))
    tracking: Any = client_id
    if not isinstance(client_id, Refusal):
        on: tuple[Argument, ...] = ("CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "NOLOOP")
        tracking, _ = await ask(connection, on, ("CLIENT", "TRACKING", "OFF"))
    if isinstance(tracking, Refusal):
        text = f"CLIENT TRACKING refused, so that every call reads its session anew: {tracking}"
        return Finding(Mark.DOUBT, "  caching", text)
    return Finding(Mark.GOOD, "  caching", "CLIENT TRACKING tells of what others change")


async def check_events(connections: Sequence[Connection], ears: Connection) -> list[Finding]:
    """Does what is published arrive?"""
    channel = f"sstream:doctor-{secrets.token_hex(8)}"
    findings = []
    for heard in ("__redis__:invalidate", channel):
        (answer,) = await ask(ears, ("SUBSCRIBE", heard))
        if isinstance(answer, Refusal):
            findings.append(Finding(Mark.WRONG, "  events", f"SUBSCRIBE {heard.partition('-')[0]} refused: {answer}"))
    if findings:
        return findings
    (answer,) = await ask(connections[0], ("PUBLISH", channel, "x"))
    if isinstance(answer, Refusal):
        return [Finding(Mark.WRONG, "  events", f"PUBLISH refused: {answer}")]
    if [b"message", channel.encode(), b"x"] not in await hear(ears):
        return [Finding(Mark.WRONG, "  events", "what was published came back as something else")]
    return [Finding(Mark.GOOD, "  events", "what is published arrives")]
