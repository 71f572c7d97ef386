"""Which server of a Redis Cluster has which key.

Source: Redis cluster specification, "Key distribution model" and "MOVED redirection".
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from redis.crc import key_slot

from sstream.backend.connection import BROKEN, Backoff, Refusal, finish
from sstream.backend.connector import Address, Connector
from sstream.errors import SStreamError

__all__ = ["Slots", "new_place"]

log = logging.getLogger("sstream.backend")

SLOTS: Final = 16384
PAUSE: Final = 0.01  # seconds, where a server says that a key is between two of them


class Server(Protocol):
    """One server of the cluster, as a wing has it."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


S = TypeVar("S", bound=Server)
T = TypeVar("T")


class Slots(Generic[S]):
    """Makes, starts and closes a server for each primary of the cluster, and finds the one that has a key.

    The map of the slots is read when it is needed first, and again whenever `look` or `doubt` say so, until one of the
    servers tells it.

    Args:
        connector: Opens connections; its seeds are asked first.
        make: Makes the server at an address.
        error: The class of the errors.
        on_told: Called when the map was read, before servers that are no longer in it are closed.

    Attributes:
        servers: The servers of now.
    """

    def __init__(
        self,
        connector: Connector,
        make: Callable[[Address], S],
        *,
        error: type[SStreamError],
        on_told: Callable[[], None] = lambda: None,
    ) -> None:
        self._connector = connector
        self._make = make
        self._error = error
        self._on_told = on_told
        self.servers: dict[Address, S] = {}
        self._owners: list[Address | None] = [None] * SLOTS
        self._known = asyncio.Event()
        self._search: asyncio.Task[None] | None = None
        self._ask_first: Address | None = None
        self._again = False
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def is_known(self) -> bool:
        """Whether the map is, as far as is known, the one of now."""
        return self._known.is_set()

    def find(self, key: str) -> S | None:
        """The server that has ``key``, if any has."""
        address = self._owners[key_slot(key.encode("utf-8", "surrogateescape"))]
        return None if address is None else self.servers[address]

    def owner(self, key: str) -> S:
        """The server that has ``key``.

        Raises:
            SStreamError: No server has it.
        """
        server = self.find(key)
        if server is None:
            raise self._error("no server of the Redis Cluster has the slot of this key")
        return server

    async def get_to_know(self) -> None:
        """Return when the map is known.

        Raises:
            SStreamError: No server told it in time.
        """
        if self._closed:
            raise self._error("Redis: it was closed")
        if not self._known.is_set():
            self.look()
            try:
                async with asyncio.timeout(self._connector.timeout):
                    await self._known.wait()
            except TimeoutError as error:
                raise self._error("no server of the Redis Cluster could be asked in time") from error

    async def ask(self, key: str, ask: Callable[[S], Awaitable[T]], again: tuple[str, ...] = ()) -> T:
        """What ``ask`` gives of the server that has ``key``, and of the next one where that has not got it any more.

        Args:
            again: Further answers after which nothing was done, and the map is to be read anew.
        """
        end = asyncio.get_running_loop().time() + self._connector.timeout
        while True:
            await self.get_to_know()
            server = self.owner(key)
            try:
                return await ask(server)
            except self._error as error:
                reason = str(error.__cause__)
                if not reason.startswith(("MOVED", *again)) or asyncio.get_running_loop().time() > end:
                    raise
            if not reason.startswith("MOVED"):
                await asyncio.sleep(PAUSE)
            self.doubt(new_place(reason) or self._address(server))

    def look(self, ask_first: Address | None = None) -> None:
        """Read the map anew."""
        # Of a slot that has just moved the former and the new owner know; to others the news may take seconds.
        self._ask_first = ask_first or self._ask_first
        if self._search is not None:
            self._again = True  # what is being asked may be older than what we were told
        elif not self._closed:
            self._search = asyncio.get_running_loop().create_task(self._find_out())

    def doubt(self, ask_first: Address | None = None) -> None:
        """Read the map anew, and let those who come meanwhile wait for it."""
        self._known.clear()
        self.look(ask_first)

    async def close(self) -> None:
        """Close every server."""
        self._closed = True
        await finish(self._search)
        await asyncio.gather(*self._closing, *(server.close() for server in self.servers.values()))

    def _address(self, server: S) -> Address | None:
        return next((address for address, other in self.servers.items() if other is server), None)

    async def _find_out(self) -> None:
        backoff = Backoff(0.05, 0.5)
        try:
            while True:
                self._again = False
                owners = await self._ask_anybody()
                if owners is not None:
                    self._learn(owners)
                    if not self._again:
                        return
                await asyncio.sleep(backoff.pause())
        finally:
            self._search = None

    def _learn(self, owners: list[Address | None]) -> None:
        self._owners = owners
        addresses = {address for address in owners if address is not None}
        for address in addresses - self.servers.keys():
            self.servers[address] = self._make(address)
            self.servers[address].start()
        self._on_told()
        for address in self.servers.keys() - addresses:
            closing = asyncio.get_running_loop().create_task(self.servers.pop(address).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._known.set()

    async def _ask_anybody(self) -> "list[Address | None] | None":
        first, self._ask_first = self._ask_first, None
        for address in dict.fromkeys((*([first] if first else []), *self.servers, *self._connector.seeds)):
            try:
                owners = await self._ask_one(address)
            except BROKEN as error:
                log.info("Redis Cluster: %s:%d cannot be reached: %s", *address, error)
                continue
            if owners is not None:
                return owners
        return None

    async def _ask_one(self, address: Address) -> "list[Address | None] | None":
        async with asyncio.timeout(self._connector.timeout):
            connection = await self._connector.at(address).open()
            try:
                ranges = await connection.ask("CLUSTER", "SLOTS")
            finally:
                await connection.close()
        if isinstance(ranges, Refusal):
            log.warning("Redis Cluster: %s:%d does not tell its slots: %s", *address, ranges)
            return None
        owners: list[Address | None] = [None] * SLOTS
        for first, last, primary, *_ in ranges:
            # No name: it is the server that we asked.
            owner = ((primary[0] or b"").decode() or address[0], primary[1])
            owners[first : last + 1] = [owner] * (last + 1 - first)
        return owners


def new_place(reason: str) -> Address | None:
    """The address in ``MOVED <slot> <host>:<port>``; ``None`` if it names none."""
    host, _, port = reason.rpartition(" ")[2].rpartition(":")
    return (host, int(port)) if host and reason.startswith("MOVED") else None
