"""Commands to one Redis: those of one turn of the loop in one write, each at most once, under one deadline."""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sstream.backend.connection import BROKEN, Argument, Backoff, Connection, Refusal, finish, pack
from sstream.backend.connector import Connector
from sstream.errors import SStreamError

__all__ = ["Guard", "Pipe", "Script"]

# After these the server at the other end is not, or no longer, the one to talk to.
_WRONG_SERVER: Final = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")

Guard = tuple[tuple[Argument, ...], Callable[[Any], None]]


class Script:
    """A Lua script and the name that Redis gives it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class _Command:
    __slots__ = ("end", "payload", "reply", "script", "words")

    def __init__(
        self, words: tuple[Argument, ...], script: Script | None, reply: "asyncio.Future[Any]", end: float
    ) -> None:
        self.words = words
        self.script = script
        self.payload = pack(*words)
        self.reply = reply
        self.end = end  # of its time, by the clock of the loop

    def make_whole(self, script: Script) -> None:
        """Carry the script itself, for a Redis that does not know its name."""
        self.words = ("EVAL", script.text, *self.words[2:])
        self.script = None
        self.payload = pack(*self.words)


class Pipe:
    """Sends commands in the order of the calls over one connection, which it opens, and opens again when it was lost.

    Nothing is sent twice: a command whose answer did not come is an error, and whether Redis carried it out is unknown.
    What was not sent yet waits for the next connection. A script that Redis has forgotten is sent whole, by itself.

    50 commands at once cost 10 µs of CPU each, and with redis-py alone 160 (benchmarks/store_operations.py).

    Args:
        connector: Opens connections.
        error: The class of the errors. Their ``__cause__`` is a `Refusal` where Redis answered.
        deadline: Seconds from the call to the answer, connecting included; ``None`` for no bound.
        most: Commands that may be under way at once; further ones are refused at once.
        keeps: Whether it connects again by itself when the connection was lost, though nothing waits.
        in_order: Whether a second write waits until the first is answered; what comes meanwhile goes together. So a
            script that must be sent again runs before everything that was asked for after it.
        prepare: Given each new connection before it is used, within the connector's ``timeout``; it raises where this
            server will not do. The `Guard` that it may return, for a pipe that is ``in_order``, is a command to put in
            front of each write, and what gets its answer: if that raises, nothing of this write counts as answered.
        on_connected: Told when there is a new connection, before anything is sent.
        on_lost: Told of each attempt to connect that failed, and when a connection was lost.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        error: type[SStreamError],
        deadline: float | None,
        most: int,
        keeps: bool = False,
        in_order: bool = False,
        prepare: Callable[[Connection], Awaitable[Guard | None]] | None = None,
        on_connected: Callable[[], None] | None = None,
        on_lost: Callable[[Exception], None] | None = None,
    ) -> None:
        self._connector = connector
        self._error = error
        self._deadline = deadline
        self._most = most
        self._keeps = keeps
        self._in_order = in_order
        self._prepare = prepare
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._fresh: list[_Command] = []  # asked for in this turn of the loop
        self._end = math.inf  # of their time
        self._queue: deque[_Command] = deque()  # not sent yet
        self._sent: deque[_Command] = deque()  # and not answered yet
        self._unknown: list[_Command] = []  # answered: the script is not known; they go before the queue
        self._timer: asyncio.TimerHandle | None = None  # for the oldest command
        self._connection: Connection | None = None
        self._guard: Guard | None = None
        self._judging = False  # the next answer is the guard's
        self._failure: Exception | None = None  # of the last attempt to connect
        self._backoff = Backoff(0.02, 0.5)  # soon, as pages wait for it
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def send(self, *command: Argument) -> "asyncio.Future[Any]":
        """The answer to a command, in time.

        Raises:
            SStreamError: The ``error`` that was given: too many wait, an argument cannot be sent, or the pipe was
                closed. The future raises it for all that may go wrong later.
        """
        return self._ask(command, None)

    def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> "asyncio.Future[Any]":
        """The answer of a script; raises like `send`."""
        return self._ask(("EVALSHA", script.sha, len(keys), *keys, *arguments), script)

    def connect(self) -> None:
        """Connect now; else the first command does so."""
        if not self._closed:
            self._begin()

    def lose(self, error: Exception) -> None:
        """Give the connection up, if there is one; what was sent and not answered fails."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.cut(error)
        while self._sent:
            self._fail(self._sent.popleft(), f"Redis: {_text(error)}; whether it was carried out is unknown", error)
        self._requeue()
        if self._on_lost is not None:
            self._on_lost(error)

    async def drain(self) -> None:
        """Take no more, and return when everything is answered or has failed."""
        self._closed = True
        waiting = [command.reply for command in (*self._sent, *self._unknown, *self._queue, *self._fresh)]
        if waiting:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """Let go; what waits fails, and so does what comes. Safe to call twice."""
        self._closed = True
        await finish(self._task)
        error = ConnectionError("the connection was closed")
        self._queue.extend(self._fresh)
        self._fresh.clear()
        while self._queue:
            self._fail(self._queue.popleft(), "Redis: it was closed", error)
        if self._timer is not None:
            self._timer.cancel()

    # --- commands -----------------------------------------------------------------------------------------------------

    def _ask(self, words: tuple[Argument, ...], script: Script | None) -> "asyncio.Future[Any]":
        if self._closed:
            raise self._error("Redis: it was closed")
        fresh = self._fresh
        if len(self._sent) + len(self._queue) + len(fresh) >= self._most:
            raise self._error(f"{self._most} commands wait for Redis already")
        loop = asyncio.get_running_loop()
        if not fresh and self._deadline is not None:
            self._end = loop.time() + self._deadline
        reply = loop.create_future()
        try:
            command = _Command(words, script, reply, self._end)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._error(f"{words[0]!r} cannot be sent to Redis: {error}") from error
        if not fresh:
            loop.call_soon(self._flush)
        fresh.append(command)
        return reply

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, []
        if self._timer is None and fresh and self._deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(self._end, self._expire)
        self._queue.extend(fresh)
        self._write()

    def _write(self) -> None:
        """Send what waits, if it may be sent now."""
        if self._in_order and self._sent:
            return
        self._requeue()
        if self._connection is not None and not self._sent and not self._connection.is_idle:
            # The other side has closed it while nobody asked: nothing was sent, so nothing is lost.
            self.lose(ConnectionError("Redis closed the connection"))
        commands = [command for command in self._queue if not command.reply.done()]  # whoever gave up is not sent
        if self._connection is None:
            if commands:
                self._begin()
            return
        self._queue.clear()
        if not commands:
            return
        self._sent.extend(commands)
        payloads = [command.payload for command in commands]
        if self._guard is not None:
            self._judging = True
            payloads.insert(0, pack(*self._guard[0]))
        self._connection.write(b"".join(payloads))

    def _requeue(self) -> None:
        self._queue.extendleft(reversed(self._unknown))
        self._unknown.clear()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = None
        if self._sent and self._sent[0].end <= now:
            self.lose(TimeoutError("no answer in time"))
        while self._queue and self._queue[0].end <= now:
            # What is wrong with the server says more than that time is up.
            cause = self._failure or TimeoutError("no answer in time")
            self._fail(self._queue.popleft(), f"Redis: {_text(cause)}", cause)
        oldest = self._sent or self._queue
        if oldest:
            self._timer = loop.call_at(oldest[0].end, self._expire)

    def _fail(self, command: _Command, text: str, cause: Exception) -> None:
        if not command.reply.done():
            error = self._error(text)
            error.__cause__ = cause
            command.reply.set_exception(error)

    # --- the connection -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                try:
                    connection = await self._open()
                except Exception as error:
                    self._failure = error
                    if not isinstance(error, BROKEN):
                        # Settings that redis-py cannot work with, most likely: whoever waits hears it at once.
                        while self._queue:
                            self._fail(self._queue.popleft(), f"Redis cannot be connected to: {error}", error)
                    if self._on_lost is not None:
                        self._on_lost(error)
                else:
                    await self._serve(connection)
                if not (self._keeps or self._queue):
                    return
                await asyncio.sleep(self._backoff.pause())
        finally:
            self._task = None

    async def _open(self) -> Connection:
        async with asyncio.timeout(self._connector.timeout):
            connection = await self._connector.open()
            try:
                self._guard = None if self._prepare is None else await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
            return connection

    async def _serve(self, connection: Connection) -> None:
        error: Exception = ConnectionError("it was closed")
        self._connection = connection
        self._failure = None
        self._judging = False
        try:
            if self._on_connected is not None:
                self._on_connected()
            self._write()
            await self._read(connection)
        except BROKEN as broken:
            error = broken
        finally:
            self.lose(error)
            await connection.close()

    async def _read(self, connection: Connection) -> None:
        sent = self._sent
        while True:
            answers = await connection.read()
            self._backoff.reset()
            if self._judging and self._guard is not None:
                self._judging = False
                self._guard[1](answers.pop(0))
            if len(answers) > len(sent):
                raise ConnectionError("Redis gave an answer that nobody asked for")
            wrong: Refusal | None = None
            for answer in answers:
                command = sent.popleft()
                if not isinstance(answer, Refusal):
                    if not command.reply.done():
                        command.reply.set_result(answer)
                elif command.script is not None and str(answer).startswith("NOSCRIPT"):
                    command.make_whole(command.script)
                    self._unknown.append(command)
                else:
                    self._fail(command, f"Redis refused {command.words[0]!s}: {answer}", answer)
                    if str(answer).startswith(_WRONG_SERVER):
                        wrong = answer
            if wrong is not None:
                raise ConnectionError(str(wrong))
            if self._queue or self._unknown:
                self._write()


def _text(error: Exception) -> str:
    return str(error) or "no answer in time"
