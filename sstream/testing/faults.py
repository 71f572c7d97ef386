"""A proxy in front of Redis that can fail in every way the real thing can."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self

__all__ = ["Fault", "FaultProxy", "Rule"]

CHUNK = 64 * 1024
SUBSCRIBE = {"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}


class Fault(Enum):
    """What may befall a command."""

    CUT_BEFORE = "the command never reaches Redis, and the connection is cut"
    CUT_REPLY = "Redis does it, and the connection is cut instead of the reply"
    CUT_AFTER = "Redis does it, the reply arrives, then the connection is cut"
    DELAY = "the reply comes later, and all behind it on that connection"
    ERROR = "Redis never sees it; the reply is an error"


@dataclass(slots=True, kw_only=True, eq=False)
class Rule:
    """A fault, and whom it befalls; ``hits`` counts how often it did.

    Attributes:
        fault: What happens.
        command: The command's first word in capitals, ``"EVALSHA"``; ``None`` means any.
        times: How often at most; ``None`` means for ever.
        chance: How likely, from 0 to 1, by the proxy's seeded dice.
        seconds: How long a ``DELAY`` is.
        message: What an ``ERROR`` says, without the dash: ``"READONLY You can't write against a read only replica."``
    """

    fault: Fault
    command: str | None = None
    times: int | None = 1
    chance: float = 1.0
    seconds: float = 0.0
    message: str = "ERR injected fault"
    hits: int = 0

    def matches(self, command: str, dice: random.Random) -> bool:
        if self.command is not None and self.command != command:
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        return self.chance >= 1.0 or dice.random() < self.chance


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command whose reply has not left yet; ``reply`` if Redis will not be the one to give it."""

    rule: Rule | None
    reply: bytes | None = None


class FaultProxy:
    """A TCP proxy in front of a Redis server. It knows where commands and replies end, in RESP2 and RESP3.

    Faults strike single commands (``on``), or all connections (``delay``, ``cut``, ``freeze``, ``refuse``). On a
    RESP2 connection that has subscribed, replies and messages can no longer be told apart: only faults for all
    connections, ``CUT_BEFORE`` and the count of commands work there.

    Args:
        port: Redis' port.
        host: Its address.
        seed: Of the dice for rules with a ``chance``; the same seed and order of commands give the same faults.
        tls: Clients speak TLS with the proxy; Redis itself need not know it.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1", seed: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = (host, port)
        self.port = 0
        self.delay = 0.0
        """Seconds that every reply and message takes longer."""
        self.commands: Counter[str] = Counter()
        """How often each command, by its first word, went on to Redis."""
        self.accepted = 0
        """Connections since the start, refused ones not counted."""
        self._tls = tls
        self._dice = random.Random(seed)
        self._rules: list[Rule] = []
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"redis{'s' if self._tls else ''}://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    async def start(self) -> Self:
        """Listen on a free port of 127.0.0.1."""
        if self._server is None and self._reserved is None:
            self._reserve()
            await self.accept()
        return self

    async def close(self) -> None:
        """Cut all connections and stop listening; safe to call twice."""
        self._flowing.set()
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def on(
        self,
        command: str | None,
        fault: Fault,
        *,
        times: int | None = 1,
        chance: float = 1.0,
        seconds: float = 0.0,
        message: str = "ERR injected fault",
    ) -> Rule:
        """Let a fault befall the next commands of that name (``None``: of any); earlier rules come first."""
        name = command.upper() if command is not None else None
        rule = Rule(fault=fault, command=name, times=times, chance=chance, seconds=seconds, message=message)
        self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules and the delay; connections stay as they are."""
        self._rules.clear()
        self.delay = 0.0

    def cut(self) -> int:
        """Cut all open connections, and tell how many they were."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def freeze(self) -> None:
        """Let nothing through, either way; connections are accepted and stay open."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything held back through."""
        self._flowing.set()

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, as a server that is down does."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._reserve()
        self.cut()

    async def accept(self) -> None:
        """Accept connections again after ``refuse``, on the same port."""
        if self._reserved is not None:
            reserved, self._reserved = self._reserved, None
            self._server = await asyncio.start_server(self._connected, sock=reserved, ssl=self._tls)

    def _reserve(self) -> None:
        # A socket that is bound and does not listen: connecting is refused, and nobody else gets the port.
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", self.port))
        self.port = reserved.getsockname()[1]
        self._reserved = reserved

    def _fault_for(self, command: str) -> Rule | None:
        for rule in self._rules:
            if rule.matches(command, self._dice):
                rule.hits += 1
                return rule
        return None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: Python 3.11 logs an error when the one it makes itself is cancelled.
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._flowing.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection(*self.upstream)
            link = _Link(self, writer, upstream_writer)
            self._links.add(link)
            try:
                await link.run(reader, upstream_reader)
            finally:
                self._links.discard(link)
                link.abort()
        except OSError:
            pass  # either end is gone, which the other hears by the abort
        finally:
            writer.transport.abort()


@dataclass(slots=True, eq=False)
class _Link:
    """One client's connection and ours to Redis for it."""

    proxy: FaultProxy
    client: asyncio.StreamWriter
    upstream: asyncio.StreamWriter
    waiting: deque[_Waiting] = field(default_factory=deque)
    resp3: bool = False
    subscribed: bool = False

    def abort(self) -> None:
        self.client.transport.abort()
        self.upstream.transport.abort()

    async def run(self, client: asyncio.StreamReader, upstream: asyncio.StreamReader) -> None:
        both = [asyncio.create_task(self._commands(client)), asyncio.create_task(self._replies(upstream))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            results = await asyncio.gather(*both, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _commands(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while chunk := await reader.read(CHUNK):
            await self.proxy._flowing.wait()
            buffer += chunk
            start = 0
            for end in _ends(buffer):
                # It may have been cut while we waited, and asyncio complains of those who go on writing.
                if self.upstream.is_closing() or not self._forward(buffer[start:end]):
                    return
                start = end
            buffer = buffer[start:]
            await self.upstream.drain()

    def _forward(self, command: bytes) -> bool:
        words = _words(command)
        name = words[0].upper().decode("utf-8", "replace") if words else ""
        rule = self.proxy._fault_for(name)
        if rule is not None and rule.fault is Fault.CUT_BEFORE:
            return False
        if rule is not None and rule.fault is Fault.ERROR:
            self.waiting.append(_Waiting(rule, f"-{rule.message}\r\n".encode()))
            self._answer()
            return True
        self.proxy.commands[name] += 1
        self.upstream.write(command)
        if name == "HELLO" and len(words) > 1:
            self.resp3 = words[1] == b"3"
        if name in SUBSCRIBE:
            # RESP3 confirms by pushes, which answer no command; RESP2 by as many replies as channels.
            self.subscribed = self.subscribed or not self.resp3
        else:
            self.waiting.append(_Waiting(rule))
        return True

    async def _replies(self, reader: asyncio.StreamReader) -> None:
        buffer = b""
        while chunk := await reader.read(CHUNK):
            await self.proxy._flowing.wait()
            if self.proxy.delay:
                await asyncio.sleep(self.proxy.delay)
            buffer += chunk
            start = 0
            for end in _ends(buffer):
                if self.client.is_closing() or not await self._reply(buffer[start:end]):
                    return
                start = end
            buffer = buffer[start:]
            await self.client.drain()

    async def _reply(self, reply: bytes) -> bool:
        if self.subscribed or reply.startswith(b">") or not self.waiting:
            self.client.write(reply)
            return True
        rule = self.waiting[0].rule  # it stays first while it is late: an error of ours must not overtake it
        fault = rule.fault if rule is not None else None
        if fault is Fault.CUT_REPLY:
            return False
        if rule is not None and fault is Fault.DELAY:
            await asyncio.sleep(rule.seconds)
        self.client.write(reply)
        self.waiting.popleft()
        if fault is Fault.CUT_AFTER:
            # The transport sends what it still holds, then ends the connection.
            self.client.close()
            with contextlib.suppress(OSError):
                await self.client.wait_closed()
            return False
        self._answer()
        return True

    def _answer(self) -> None:
        # An error of ours waits until the replies before it have left.
        while self.waiting and (reply := self.waiting[0].reply) is not None:
            self.client.write(reply)
            self.waiting.popleft()


def _ends(buffer: bytes) -> Iterator[int]:
    end = _end(buffer, 0)
    while end > 0:
        yield end
        end = _end(buffer, end)


def _end(buffer: bytes, start: int) -> int:
    """Where the RESP value at ``start`` ends; -1 if it has not come whole (RESP3 specification, "types")."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return -1
    position = line_end + 2
    kind = buffer[start : start + 1]
    if kind in b"$=!":
        length = int(buffer[start + 1 : line_end])
        end = position + length + 2 if length >= 0 else position
        return end if end <= len(buffer) else -1
    if kind in b"*~>%|":
        count = int(buffer[start + 1 : line_end])
        if kind in b"%|":
            count *= 2
        if kind == b"|":
            count += 1  # attributes stand before the value they belong to
        for _ in range(count):
            position = _end(buffer, position)
            if position < 0:
                return -1
    return position


def _words(command: bytes) -> list[bytes]:
    """The words of a command, an array of bulk strings or an inline line."""
    if not command.startswith(b"*"):
        return command.split()
    words = []
    position = command.find(b"\r\n") + 2
    while position < len(command):
        line_end = command.find(b"\r\n", position)
        length = int(command[position + 1 : line_end])
        words.append(command[line_end + 2 : line_end + 2 + length])
        position = line_end + 2 + length + 2
    return words
