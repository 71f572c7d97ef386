"""One pipelined connection to a Redis server, and the second one that tells what others changed there."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from sstream.errors import StoreError

__all__ = ["Connect", "Link", "Operation", "ReplyError"]

Connect = Callable[[], AbstractConnection]

_log = logging.getLogger("sstream.session")

_INVALIDATE: Final = b"__redis__:invalidate"  # https://redis.io/docs/latest/develop/reference/client-side-caching/
_pack: Callable[[tuple[bytes | str | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # stub: one
_PING_INTERVAL: Final = 1.0  # seconds; so long, and a ping's deadline, may a silent loss go unnoticed


class ReplyError(Exception):
    """Redis answered a command with an error."""


class Operation:
    """A command as it stands on the wire, and the future of its reply.

    Raises:
        StoreError: An argument cannot be sent; it hurts this command alone.
    """

    __slots__ = ("payload", "reply")

    def __init__(self, arguments: tuple[bytes | str | int, ...], reply: "asyncio.Future[Any]") -> None:
        try:
            self.payload = _pack(arguments)
        except (ValueError, TypeError, OverflowError) as error:
            raise StoreError(f"{arguments[0]!r} cannot be sent to Redis: {error}") from error
        self.reply = reply

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class Link:
    """Commands go out in one write per turn of the loop, replies come back in order; nobody waits for anybody else.

    Invalidations need a connection of their own in RESP2: it subscribes to ``__redis__:invalidate``, and the first one
    asks for ``CLIENT TRACKING ON REDIRECT <its id> NOLOOP``. Whichever of the two breaks, both are given up, because
    what was tracked is lost then.

    Args:
        connect: Makes an unconnected connection.
        timeout: Seconds that connecting, and a ping, may take.
        on_report: Called with the key that somebody else changed, or ``None`` for all keys.
        on_lost: Called once, when the link has broken or was closed.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        timeout: float,
        on_report: Callable[[str | None], None],
        on_lost: Callable[["Link", Exception], None],
    ) -> None:
        self._make_connection = connect
        self._timeout = timeout
        self._on_report = on_report
        self._on_lost = on_lost
        self._connections: list[AbstractConnection] = []
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: deque[Operation] = deque()  # sent, oldest first
        self._tasks: list[asyncio.Task[None]] = []
        self._pong = asyncio.Event()
        self._lost = False
        self.tracks = False

    async def open(self) -> None:
        """Connect both.

        Raises:
            RedisError, OSError: It did not work; nothing is left open.
            TimeoutError: It took longer than ``timeout``.
        """
        try:
            async with asyncio.timeout(self._timeout):
                voice = await self._connect()
                ears = await self._listen(voice)
        except BaseException:
            await self._disconnect()
            raise
        reader, writer = self._streams(voice)
        self._writer = writer
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(self._read_replies(reader))),
            loop.create_task(self._run(self._ping(self._streams(ears)[1] if ears is not None else None))),
        ]
        if ears is not None:
            self._tasks.append(loop.create_task(self._run(self._read_invalidations(self._streams(ears)[0]))))

    async def _listen(self, voice: AbstractConnection) -> AbstractConnection | None:
        """The connection that hears what others change of what ``voice`` reads; ``None`` where that is not allowed."""
        ears = await self._connect()
        try:
            client_id = await self._ask(ears, "CLIENT", "ID")
            await self._ask(ears, "SUBSCRIBE", _INVALIDATE)
            await self._ask(voice, "CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "NOLOOP")
        except ResponseError as error:
            # The user has no right to it, or the server (a proxy, an old one) does not know it.
            if not isinstance(error, NoPermissionError) and "unknown" not in str(error).lower():
                raise
            _log.warning("Redis refuses client-side caching (%s): every call reads its session anew", error)
            self._connections.remove(ears)
            await ears.disconnect(nowait=True)
            return None
        self.tracks = True
        return ears

    async def _connect(self) -> AbstractConnection:
        connection = self._make_connection()
        self._connections.append(connection)
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no annotation there
        return connection

    @staticmethod
    async def _ask(connection: AbstractConnection, *command: Any) -> Any:
        await connection.send_command(*command)
        return await connection.read_response()

    @staticmethod
    def _streams(connection: AbstractConnection) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        # Read in redis-py 5.0 to 8.1: the connected streams. Its read_response() costs 25 us a reply in timeouts and
        # tasks; a hiredis reader fed from the stream costs under 1 (benchmarks/store_operations.py).
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None:
            raise RedisError("redis-py gave a connection without streams")
        return reader, writer

    def send(self, operations: Sequence[Operation]) -> None:
        """Send commands in one write. Each one's future gets the reply, a `ReplyError`, or a `StoreError`."""
        if self._lost or self._writer is None:
            for operation in operations:
                operation.fail(StoreError("the connection to Redis was lost"))
            return
        if not operations:
            return
        self._waiting.extend(operations)
        self._writer.write(b"".join([operation.payload for operation in operations]))

    def lose(self, error: Exception) -> None:
        """Give the link up; what was sent and not answered fails."""
        if self._lost:
            return
        self._lost = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if self._writer is not None and self._writer.transport is not None:
            self._writer.transport.abort()
        while self._waiting:
            failure = StoreError(f"the connection to Redis was lost before it answered: {error}")
            self._waiting.popleft().fail(failure)
        self._on_lost(self, error)

    async def close(self) -> None:
        """Give the link up and wait until nothing of it is left."""
        self.lose(StoreError("the store was closed"))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._disconnect()

    async def _disconnect(self) -> None:
        for connection in self._connections:
            # A connection that is broken already may say so once more.
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect(nowait=True)
        self._connections.clear()

    async def _run(self, part: Any) -> None:
        try:
            await part
        except (OSError, RedisError, TimeoutError, hiredis.HiredisError) as error:
            self.lose(error)

    async def _read_replies(self, stream: asyncio.StreamReader) -> None:
        # gets(False) leaves texts undecoded.
        reader = hiredis.Reader(replyError=ReplyError, protocolError=ConnectionError)
        waiting = self._waiting
        while data := await stream.read(65536):
            reader.feed(data)
            while (reply := reader.gets(False)) is not False:
                future = waiting.popleft().reply
                if future.done():  # its caller was cancelled, or would not wait any longer
                    continue
                if isinstance(reply, ReplyError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        raise ConnectionError("Redis closed the connection")

    async def _read_invalidations(self, stream: asyncio.StreamReader) -> None:
        reader = hiredis.Reader(replyError=ReplyError, protocolError=ConnectionError)
        while data := await stream.read(65536):
            reader.feed(data)
            while (reply := reader.gets(False)) is not False:
                if not isinstance(reply, list) or len(reply) < 2:
                    raise ConnectionError(f"not a subscriber's message: {reply!r}")
                if reply[0] == b"pong":
                    self._pong.set()
                elif reply[0] == b"message" and reply[1] == _INVALIDATE:
                    # None: the server was flushed, or has dropped what it tracked.
                    for key in reply[2] if reply[2] is not None else (None,):
                        self._on_report(None if key is None else key.decode("utf-8", "surrogateescape"))
        raise ConnectionError("Redis closed the connection for invalidations")

    async def _ping(self, ears: asyncio.StreamWriter | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PING_INTERVAL)
            self._pong.clear()
            ping = Operation(("PING",), loop.create_future())
            if ears is not None:
                ears.write(ping.payload)
            self.send([ping])
            async with asyncio.timeout(self._timeout):
                try:
                    await ping.reply
                except (StoreError, ReplyError) as error:
                    raise ConnectionError(str(error)) from error
                if ears is not None:
                    await self._pong.wait()
