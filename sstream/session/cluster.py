"""A Redis Cluster: each key is asked for, and tracked, at the server that has it."""

from collections.abc import Callable
from typing import Any, Final

from sstream.backend.connection import Argument
from sstream.backend.connector import Address, Connector
from sstream.backend.pipe import Script
from sstream.backend.slots import Slots
from sstream.errors import StoreError
from sstream.session.server import Server

__all__ = ["Cluster"]

# Nothing was done: the key is, or is about to be, on another server.
_ELSEWHERE: Final = ("ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY")


class Cluster:
    """One `Server` for each primary.

    Args:
        connector: Opens connections; its seeds are asked who is who.
        make: Makes a `Server`, given what it does not have yet.
    """

    def __init__(self, connector: Connector, make: Callable[..., Server]) -> None:
        self._connector = connector
        self._make = make
        self._slots = Slots(connector, self._make_server, error=StoreError)

    def _make_server(self, address: Address) -> Server:
        name = "Redis at {}:{}".format(*address)
        return self._make(self._connector.at(address), name=name, on_away=self._slots.look)

    @property
    def coherent(self) -> bool:
        """Do all primaries report every change?"""
        servers = self._slots.servers.values()
        return bool(servers) and all(server.coherent for server in servers)

    def start(self) -> None:
        """Connect to all primaries, and follow them when they change."""
        self._slots.look()

    async def close(self) -> None:
        """Let go of every server; what waits fails."""
        await self._slots.close()

    async def send(self, key: str, *command: Argument) -> Any:
        """The answer to a command about ``key``; raises like `Pipe.send`."""
        return await self._slots.ask(key, lambda server: server.send(key, *command), _ELSEWHERE)

    async def run(self, key: str, script: Script, *arguments: Argument) -> Any:
        """The answer of a script about ``key``."""
        return await self._slots.ask(key, lambda server: server.run(key, script, *arguments), _ELSEWHERE)
