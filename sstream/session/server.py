"""One Redis server: commands to it, and a second connection that tells what others changed there."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sstream.backend.connection import BROKEN, Argument, Connection, Refusal
from sstream.backend.connector import Connector
from sstream.backend.pipe import Pipe, Script
from sstream.errors import StoreError

__all__ = ["Server"]

_log = logging.getLogger("sstream.session")

_INVALIDATE: Final = "__redis__:invalidate"  # https://redis.io/docs/latest/develop/reference/client-side-caching/
_PING_INTERVAL: Final = 1.0  # seconds; so long, and a ping's deadline, may a silent loss go unnoticed


class Server:
    """A pipe whose every read is tracked by the server, as long as the connection lasts.

    Invalidations need a connection of their own in RESP2: it subscribes to ``__redis__:invalidate``, and the pipe's
    asks for ``CLIENT TRACKING ON REDIRECT <its id> NOLOOP``. Whichever of the two breaks, both are given up, because
    what was tracked is lost then.

    Args:
        connector: Opens connections to it.
        name: What to call it in the log.
        deadline: Seconds one operation may take, connecting included; ``None`` for no bound.
        max_waiting: Operations that may be under way at once; further ones fail at once.
        on_report: Called with a key that somebody else changed, or ``None`` when any key may have changed.
        on_away: Called when it was lost, and at each attempt to connect that failed.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        name: str = "Redis",
        deadline: float | None,
        max_waiting: int,
        on_report: Callable[[str | None], None],
        on_away: Callable[[], None] | None = None,
    ) -> None:
        self._connector = connector
        self._name = name
        self._on_report = on_report
        self._on_away = on_away
        self._pipe = Pipe(
            connector,
            error=StoreError,
            deadline=deadline,
            most=max_waiting,
            keeps=True,
            prepare=self._listen,
            on_connected=self._connected,
            on_lost=self._lost,
        )
        self._ears: Connection | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._logged = ""  # the last error that was
        self._closed = False
        self.coherent = False

    def start(self) -> None:
        """Connect, now and whenever the connection was lost."""
        self._pipe.connect()

    async def close(self) -> None:
        """Let go; what waits fails."""
        self._closed = True
        await self._pipe.close()
        await asyncio.gather(*filter(None, (self._hearing, self._pinging)), return_exceptions=True)

    def send(self, key: str, *command: Argument) -> "asyncio.Future[Any]":
        """The answer to a command about ``key``; raises like `Pipe.send`."""
        return self._pipe.send(*command)

    def run(self, key: str, script: Script, *arguments: Argument) -> "asyncio.Future[Any]":
        """The answer of a script about ``key``."""
        return self._pipe.run(script, [key], *arguments)

    # --- the connections ----------------------------------------------------------------------------------------------

    async def _listen(self, voice: Connection) -> None:  # no guard
        """Let us hear what others change of what ``voice`` reads, where that is allowed."""
        self._ears = None
        ears = await self._connector.open()
        try:
            refusal = await self._track(voice, ears)
            if refusal is None:
                self._ears = ears
                return
        except BaseException:
            await ears.close()
            raise
        await ears.close()
        # The user has no right to it, or the server (a proxy, an old one) does not know it.
        if not str(refusal).startswith("NOPERM") and "unknown" not in str(refusal).lower():
            raise ConnectionError(str(refusal))
        _log.warning("Redis refuses client-side caching (%s): every call reads its session anew", refusal)
        return

    @staticmethod
    async def _track(voice: Connection, ears: Connection) -> Refusal | None:
        client_id = await ears.ask("CLIENT", "ID")
        if isinstance(client_id, Refusal):
            return client_id
        for connection, command in (
            (ears, ("SUBSCRIBE", _INVALIDATE)),
            (voice, ("CLIENT", "TRACKING", "ON", "REDIRECT", client_id, "NOLOOP")),
        ):
            answer = await connection.ask(*command)
            if isinstance(answer, Refusal):
                return answer
        return None

    def _connected(self) -> None:
        self._pinging = asyncio.get_running_loop().create_task(self._ping())
        if self._ears is not None:
            self.coherent = True
            self._hearing = asyncio.get_running_loop().create_task(self._hear(self._ears))
        if self._logged:
            _log.warning("%s is back", self._name)
            self._logged = ""
        self._on_report(None)

    def _lost(self, error: Exception) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        if self._ears is not None:
            self._ears.cut(error)
        self.coherent = False
        if self._closed:
            return
        text = str(error) or type(error).__name__
        if text != self._logged:
            # Settings that redis-py cannot work with are told whole.
            trace = None if isinstance(error, BROKEN) else error
            _log.warning("%s cannot be reached: %s", self._name, text, exc_info=trace)
            self._logged = text
        self._on_report(None)
        if self._on_away is not None:
            self._on_away()

    async def _hear(self, ears: Connection) -> None:
        error: Exception = ConnectionError("nobody hears of changes")
        try:
            async with ears.watched(_PING_INTERVAL, self._connector.timeout):
                while True:
                    for message in await ears.read():
                        self._learn(message)
        except BROKEN as broken:
            error = broken
        finally:
            if self._ears is ears:  # else what was heard of is lost already, and there may be a new connection
                self._pipe.lose(error)
            await ears.close()

    def _learn(self, message: Any) -> None:
        if isinstance(message, Refusal):
            raise ConnectionError(str(message))
        if message[0] == b"message":
            # None: the server was flushed, or has dropped what it tracked.
            for key in message[2] if message[2] is not None else (None,):
                self._on_report(None if key is None else key.decode("utf-8", "surrogateescape"))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_INTERVAL)
            try:
                async with asyncio.timeout(self._connector.timeout):
                    await self._pipe.send("PING")
            except TimeoutError:
                self._pipe.lose(TimeoutError("no sign of life"))
            except StoreError as error:
                # Refused, which is a sign of life too; or lost, which is told already.
                _log.debug("%s: %s", self._name, error)
