"""One Redis server: its operations, and a link to it that comes back by itself."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import RedisError

from sstream.errors import StoreError
from sstream.session.link import Connect, Link, Operation, ReplyError

__all__ = ["Server"]

_log = logging.getLogger("sstream.session")

# After these the server at the other end is not, or no longer, the one to write to.
_WRONG_SERVER: Final = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")
_FIRST_PAUSE: Final = 0.05  # seconds between two attempts to connect, at most; doubled up to the last
_LAST_PAUSE: Final = 0.5


class Server:
    """Operations of one turn of the event loop leave as one pipeline.

    Each has ``deadline`` seconds, connecting included.

    Args:
        connect: Makes an unconnected connection to it.
        name: What to call it in the log.
        deadline: Seconds one operation may take; ``None`` for no bound.
        max_waiting: Operations that may be under way at once; further ones fail at once.
        on_report: Called with a key that somebody else changed, or ``None`` when any key may have changed.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        name: str = "Redis",
        deadline: float | None,
        max_waiting: int,
        on_report: Callable[[str | None], None],
    ) -> None:
        self._connect = connect
        self._name = name
        self._deadline = deadline
        self._max_waiting = max_waiting
        self._on_report = on_report
        self._link: Link | None = None
        self._connector: asyncio.Task[None] | None = None
        self._outgoing: list[Operation] = []  # asked for in this turn of the loop
        self._held: list[Operation] = []  # waiting for a connection
        self._unanswered = 0
        self._closing: set[asyncio.Task[None]] = set()  # lost links whose sockets are still to be let go
        self._closed = False
        self._logged = ""  # the last error that was

    @property
    def coherent(self) -> bool:
        """Is every change by others reported?"""
        return self._link is not None and self._link.tracks

    @property
    def is_connected(self) -> bool:
        """Is there a link?"""
        return self._link is not None

    async def call(self, command: str, *arguments: bytes | str | int) -> Any:
        """The reply to a command.

        Raises:
            ReplyError: Redis answered with an error.
            StoreError: It did not answer; whether it has carried the command out is unknown.
        """
        if self._closed:
            raise StoreError("the store was closed")
        if self._unanswered >= self._max_waiting:
            raise StoreError(f"{self._max_waiting} operations wait for Redis already")
        loop = asyncio.get_running_loop()
        operation = Operation((command, *arguments), loop.create_future())
        if not self._outgoing:
            loop.call_soon(self._flush)
        self._outgoing.append(operation)
        self._unanswered += 1
        try:
            return await operation.reply
        except ReplyError as error:
            if str(error).startswith(_WRONG_SERVER) and self._link is not None:
                self._link.lose(error)
            raise
        finally:
            self._unanswered -= 1

    def start(self) -> None:
        """Connect, now and whenever the link was lost."""
        if not self._closed and self._link is None and (self._connector is None or self._connector.done()):
            self._connector = asyncio.get_running_loop().create_task(self._keep_connecting())

    async def close(self) -> None:
        """Let go; what waits fails."""
        self._closed = True
        if self._connector is not None:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        await asyncio.gather(*self._closing)
        for operation in (*self._outgoing, *self._held):
            operation.fail(StoreError("the store was closed"))
        self._outgoing, self._held = [], []

    # --- operations ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        operations, self._outgoing = self._outgoing, []
        if not operations:
            return
        if self._deadline is not None:
            # One timer for the whole pipeline.
            asyncio.get_running_loop().call_later(self._deadline, self._expire, operations, self._link)
        if self._link is not None:
            self._link.send(operations)
        else:
            self._held.extend(operations)
            self.start()

    def _expire(self, operations: list[Operation], link: Link | None) -> None:
        late = [operation for operation in operations if not operation.reply.done()]
        if not late:
            return
        for operation in late:
            operation.fail(StoreError(f"{self._name} did not answer within {self._deadline} s"))
        if link is not None:
            link.lose(TimeoutError(f"no answer within {self._deadline} s"))
        else:
            self._held = [operation for operation in self._held if not operation.reply.done()]

    # --- the link -----------------------------------------------------------------------------------------------------

    async def _keep_connecting(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            link = Link(self._connect, timeout=self._deadline or 5.0, on_report=self._on_report, on_lost=self._on_lost)
            try:
                await link.open()
                break
            except (RedisError, OSError, TimeoutError) as error:
                self._log_error(error)
            except Exception as error:
                # Settings that redis-py cannot work with, most likely: whoever waits hears it.
                _log.exception("%s cannot be connected to", self._name)
                held, self._held = self._held, []
                for operation in held:
                    operation.fail(StoreError(f"{self._name} cannot be connected to: {error}"))
                pause = _LAST_PAUSE
            # Full jitter, so that many processes do not come back in step; soon, because pages wait for it.
            await asyncio.sleep(random.uniform(0.02, pause))
            pause = min(pause * 2, _LAST_PAUSE)
        self._link = link
        if self._logged:
            _log.warning("%s is back", self._name)
            self._logged = ""
        self._on_report(None)
        held, self._held = self._held, []
        link.send([operation for operation in held if not operation.reply.done()])

    def _on_lost(self, link: Link, error: Exception) -> None:
        if self._link is not link:
            return
        self._link = None
        closing = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not self._closed:
            self._log_error(error)
        self._on_report(None)
        self.start()

    def _log_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._logged:
            _log.warning("%s cannot be reached: %s", self._name, text)
            self._logged = text
