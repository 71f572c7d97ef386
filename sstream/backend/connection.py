"""One open connection to a Redis: commands out, answers in, in RESP2."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

__all__ = ["BROKEN", "Argument", "Backoff", "Connection", "Refusal", "finish", "pack"]

BROKEN: Final = (OSError, RedisError, hiredis.HiredisError)  # what a broken connection raises; a timeout is an OSError

Argument = str | bytes | int

_pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub wants one


def pack(*command: Argument) -> bytes:
    """A command as it stands on the wire.

    Raises:
        ValueError, TypeError, OverflowError: An argument cannot be sent.
    """
    return _pack(command)


class Refusal(Exception):
    """Redis answered a command with an error."""

    def __str__(self) -> str:
        # Where Redis does not know a command it repeats its arguments: ids, and the session itself.
        return super().__str__().partition(", with args")[0]


class Connection:
    """Commands never wait, and all that are written at once leave at once; answers of one read come in one list."""

    def __init__(self, connection: AbstractConnection) -> None:
        # Read in redis-py 5.0 to 8.1: the connected streams. Its read_response() costs 4 to 25 µs an answer, in
        # timeouts and tasks; a hiredis reader fed from the stream costs under 1 (benchmarks/store_operations.py).
        stream, writer = connection._reader, connection._writer
        assert stream is not None
        assert writer is not None
        self._connection = connection
        self._stream = stream
        self._writer = writer
        self._parser = hiredis.Reader(replyError=Refusal, protocolError=ConnectionError)
        self._broken: Exception | None = None
        self._heard = time.monotonic()  # when something came last

    @property
    def is_idle(self) -> bool:
        """Whether it is open, as far as can be known, and nothing unasked for has come."""
        # An end that the other side closed has read its end of file; asyncio 3.11 to 3.13, streams.py.
        return not (self._stream.at_eof() or self._writer.is_closing() or self._stream._buffer)  # type: ignore[attr-defined]

    def write(self, payload: bytes) -> None:
        """Send packed commands; never waits. On a connection that has ended they are lost, which `read` tells."""
        if not self._writer.is_closing():  # else asyncio warns in the log
            self._writer.write(payload)

    async def read(self) -> list[Any]:
        """The next answers, at least one; an error that Redis answered with is a `Refusal` among them.

        Raises:
            OSError: The connection has ended.
        """
        gets, answers = self._parser.gets, []
        while True:
            if self._broken is not None:
                raise self._broken
            while (answer := gets(False)) is not False:  # undecoded
                answers.append(answer)
            if answers:
                self._heard = time.monotonic()
                return answers
            data = await self._stream.read(65536)
            if not data and self._broken is None:
                raise ConnectionError("Redis closed the connection")
            self._parser.feed(data)

    async def ask(self, *command: Argument) -> Any:
        """The answer to one command, on a connection where nothing else is asked."""
        self.write(pack(*command))
        return (await self.read())[0]

    @contextlib.asynccontextmanager
    async def watched(
        self, interval: float, deadline: float, is_excused: Callable[[], bool] = lambda: False
    ) -> AsyncIterator[None]:
        """Inside, a ping follows ``interval`` seconds of silence, and a cut if there is no answer within ``deadline``.

        What we do not read cannot speak: while we do not, it ``is_excused``.
        """
        watch = asyncio.get_running_loop().create_task(self._watch(interval, deadline, is_excused))
        try:
            yield
        finally:
            await finish(watch)

    async def _watch(self, interval: float, deadline: float, is_excused: Callable[[], bool]) -> None:
        while True:
            silence = time.monotonic() - self._heard
            if silence < interval or is_excused():
                await asyncio.sleep(interval - silence if silence < interval else interval)
                continue
            asked = time.monotonic()
            self.write(pack("PING"))
            await asyncio.sleep(deadline)
            if self._heard < asked and not is_excused():
                self.cut(TimeoutError("Redis shows no sign of life"))
                return

    def cut(self, error: Exception) -> None:
        """End it at once, also where a peer that does not read keeps it from being closed; `read` raises ``error``."""
        self._broken = self._broken or error
        self._writer.transport.abort()

    async def close(self) -> None:
        self.cut(ConnectionError("the connection was closed"))
        # A connection that is broken already may say so once more.
        with contextlib.suppress(*BROKEN):
            await self._connection.disconnect(nowait=True)


class Backoff:
    """Pauses between attempts: full jitter up to a bound that doubles from ``first`` to ``last`` seconds."""

    def __init__(self, first: float, last: float, rand: Callable[[], float] = random.random) -> None:
        self._first = first
        self._last = last
        self._random = rand
        self._bound = first

    def pause(self) -> float:
        """Seconds to wait now."""
        pause = self._random() * self._bound
        self._bound = min(self._bound * 2, self._last)
        return pause

    def reset(self) -> None:
        self._bound = self._first


async def finish(task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task that connects, and return when it has ended."""
    # On Python 3.11 redis-py's connect may swallow a cancellation that comes at the moment it succeeds.
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
