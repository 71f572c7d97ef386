"""Commands to one Redis: those of one turn of the loop in one write, answered in order, under one deadline."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from sstream.errors import BrokerError
from sstream.pubsub.connection import BROKEN, Argument, Backoff, Connection, Connector, Refusal

__all__ = ["Pipe", "Script"]

BATCH: Final = 1000  # commands in one write at most
WAITING: Final = 20_000  # commands that wait at most; more are refused at once


class Script:
    """A Lua script and the name that Redis gives it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class _Command:
    __slots__ = ("arguments", "deadline", "reply", "script")

    def __init__(
        self, arguments: tuple[Argument, ...], script: Script | None, reply: asyncio.Future[Any], deadline: float
    ) -> None:
        self.arguments = arguments
        self.script = script
        self.reply = reply
        self.deadline = deadline

    def words(self, *, whole: bool) -> tuple[Argument, ...]:
        if self.script is None:
            return self.arguments
        return ("EVAL", self.script.text, *self.arguments) if whole else ("EVALSHA", self.script.sha, *self.arguments)


class Pipe:
    """Sends commands in the order of the calls, each at most once, over one connection that it keeps.

    A second write leaves when the first is answered: what comes meanwhile goes together. Nothing is sent twice; a
    command whose answer did not come is an error, and whether Redis carried it out is unknown.

    50 publishes at once cost 21 to 39 µs of CPU each, encoding included, and with redis-py alone 118 to 194
    (benchmarks/publish.py).

    Args:
        connector: Makes the connection.
        deadline: Seconds from the call to the answer, connecting and waiting in line included.
    """

    def __init__(self, connector: Connector, *, deadline: float) -> None:
        self._connector = connector
        self._deadline = deadline
        self._queue: deque[_Command] = deque()
        self._connection: Connection | None = None
        self._asks_role = False
        self._failure: Exception | None = None  # of the last attempt to connect
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def send(self, *arguments: Argument) -> "asyncio.Future[Any]":
        """The answer to a command, in time.

        Raises:
            BrokerError: Too many wait, or the pipe was closed. The future raises it for all that may go wrong later.
        """
        return self._enqueue(arguments, None)

    def run(self, script: Script, keys: Sequence[str], *arguments: Argument) -> "asyncio.Future[Any]":
        """The answer of a script; raises like `send`."""
        return self._enqueue((len(keys), *keys, *arguments), script)

    async def close(self) -> None:
        """Send what waits, as far as its deadline allows, and close the connection."""
        self._closed = True
        if self._task is not None:
            await self._task
        await self._disconnect()

    def _enqueue(self, arguments: tuple[Argument, ...], script: Script | None) -> "asyncio.Future[Any]":
        if self._closed:
            raise BrokerError("the broker was closed")
        if len(self._queue) >= WAITING:
            raise BrokerError(f"{WAITING} commands wait for Redis already")
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._queue.append(_Command(arguments, script, reply, loop.time() + self._deadline))
        if self._task is None:
            # The task begins in the next turn of the loop; until then others join the same write.
            self._task = loop.create_task(self._run())
        return reply

    async def _run(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
                batch = [command for command in batch if not command.reply.done()]  # whoever gave up is not sent
                if batch:
                    await self._serve(batch)
        finally:
            self._task = None

    async def _serve(self, batch: list[_Command]) -> None:
        sent = False
        deadline = batch[0].deadline
        try:
            async with asyncio.timeout_at(deadline):
                connection = await self._connected()
                # On Python 3.11 connecting may swallow the cancellation that the deadline is.
                if asyncio.get_running_loop().time() >= deadline:
                    raise TimeoutError
                sent = True
                unknown = await self._exchange(connection, batch, asks_role=self._asks_role)
                if unknown:
                    # In the same place of the order: later commands wait until these have run.
                    await self._exchange(connection, unknown, whole=True)
        except BROKEN as error:
            await self._disconnect()
            # What is wrong with the server says more than that time is up.
            cause = error if sent or self._failure is None else self._failure
            reason = "no answer in time" if isinstance(cause, TimeoutError) else str(cause)
            fate = "; whether it was carried out is unknown" if sent else ""
            for command in batch:
                _fail(command, f"Redis: {reason}{fate}", cause)

    async def _exchange(
        self, connection: Connection, commands: list[_Command], *, asks_role: bool = False, whole: bool = False
    ) -> list[_Command]:
        """Send and read the answers; those commands whose script Redis does not know."""
        role = [("ROLE",)] if asks_role else []
        connection.write(*role, *[command.words(whole=whole) for command in commands])
        unknown = []
        rest = iter(commands)
        left = len(commands)
        while left or asks_role:
            for answer in await connection.read():
                if asks_role:
                    # A replica carries PUBLISH out, for its own subscribers alone, and calls it a success.
                    _require_primary(answer)
                    asks_role = False
                    continue
                command = next(rest)
                left -= 1
                if not isinstance(answer, Refusal):
                    if not command.reply.done():
                        command.reply.set_result(answer)
                elif str(answer).startswith("NOSCRIPT") and not whole:
                    unknown.append(command)
                else:
                    _fail(command, f"Redis refused: {str(answer).partition(', with args')[0]}", answer)
        return unknown

    async def _connected(self) -> Connection:
        """The open connection, or a new one, tried for as long as it takes."""
        if self._connection is not None:
            # One that the other side has closed while it was idle: nothing was sent, so nothing is lost.
            if self._connection.is_idle:
                return self._connection
            await self._disconnect()
        backoff = Backoff(0.02, 0.2)
        self._failure = None
        while True:
            try:
                connection = self._connection = await self._connector.open()
                role = await connection.ask("ROLE")
                # A proxy may not know it, and a user may not ask.
                self._asks_role = not isinstance(role, Refusal)
                if self._asks_role:
                    _require_primary(role)
                return connection
            except BROKEN as error:
                self._failure = error
                await self._disconnect()
            await asyncio.sleep(backoff.pause())

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _require_primary(role: Any) -> None:
    if isinstance(role, Refusal) or role[0] != b"master":
        raise RedisError("this server is no primary; what is published there reaches only its own subscribers")


def _fail(command: _Command, text: str, cause: BaseException) -> None:
    if not command.reply.done():
        error = BrokerError(text)
        error.__cause__ = cause
        command.reply.set_exception(error)
