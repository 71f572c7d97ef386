"""Which server of a Redis Cluster has which key.

Source: Redis cluster specification, "Key distribution model" and "MOVED redirection".
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.crc import key_slot

from sstream.errors import StoreError
from sstream.session.link import ReplyError
from sstream.session.server import Server

__all__ = ["Address", "Cluster"]

_log = logging.getLogger("sstream.session")

Address = tuple[str, int]

_PAUSE: Final = 0.5  # seconds between two looks at a cluster of which a server is away


class Cluster:
    """One `Server` for each primary; the map of slots is read again when a server says that it has changed, or is lost.

    Args:
        addresses: Where to ask first.
        make_server: Makes the server at an address.
        deadline: Seconds that a look at the map may take.
    """

    def __init__(
        self, addresses: list[Address], make_server: Callable[[Address], Server], *, deadline: float | None
    ) -> None:
        self._addresses = addresses
        self._make_server = make_server
        self._deadline = deadline
        self._servers: dict[Address, Server] = {}
        self._slots: list[Server | None] = []  # empty: not known yet
        self._looking: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def coherent(self) -> bool:
        """Do all primaries report every change?"""
        return bool(self._slots) and all(server.coherent for server in self._servers.values())

    async def server_of(self, key: str) -> Server:
        """The server that has ``key``, as far as is known.

        Raises:
            StoreError: No server told who has it.
        """
        if not self._slots:
            await self.look()
        server = self._slots[key_slot(key.encode("utf-8", "surrogateescape"))] if self._slots else None
        if server is None:
            raise StoreError("no server of the cluster has that key")
        return server

    async def look(self) -> None:
        """Read the map of slots anew; whoever asks meanwhile waits for the same answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        await asyncio.shield(self._looking)

    def start(self) -> None:
        """Connect to all primaries, and follow them when they change."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        """Let go of every server."""
        tasks = [task for task in (self._watcher, self._looking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        self._servers.clear()
        self._slots.clear()

    async def _watch(self) -> None:
        while True:
            if not self._slots or not all(server.is_connected for server in self._servers.values()):
                try:
                    await self.look()
                except StoreError as error:
                    _log.warning("the Redis cluster cannot be reached: %s", error)
            await asyncio.sleep(_PAUSE)

    async def _look(self) -> None:
        connected = [address for address, server in self._servers.items() if server.is_connected]
        for address in dict.fromkeys([*connected, *self._addresses, *self._servers]):
            known = self._servers.get(address)
            server = known if known is not None else self._make_server(address)
            try:
                rows = await server.call("CLUSTER", "SLOTS")
            except (StoreError, ReplyError):
                if known is None:
                    await server.close()
                continue
            await self._learn(rows, address, server)
            return
        raise StoreError("no server of the Redis cluster answers")

    async def _learn(self, rows: Any, asked: Address, answered: Server) -> None:
        slots: list[Server | None] = [None] * 16384
        servers: dict[Address, Server] = {}
        for first, last, (host, port, *_), *_ in rows:
            # An empty host is that of the server that was asked.
            address = (host.decode() or asked[0], int(port))
            if address not in servers:
                known = answered if address == asked else self._servers.get(address)
                servers[address] = known if known is not None else self._make_server(address)
            for slot in range(first, last + 1):
                slots[slot] = servers[address]
        gone = [server for address, server in self._servers.items() if address not in servers]
        if asked not in servers:
            gone.append(answered)
        self._servers, self._slots = servers, slots
        for server in servers.values():
            server.start()
        await asyncio.gather(*(server.close() for server in gone))
