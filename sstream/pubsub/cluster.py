"""A Redis Cluster: each channel lives with the shard of its slot, and is followed when it moves."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

from sstream.backend.connection import Argument
from sstream.backend.connector import Address, Connector
from sstream.backend.pipe import Script
from sstream.backend.slots import Slots, new_place
from sstream.errors import BrokerError
from sstream.pubsub.server import Server

__all__ = ["Cluster"]


class Cluster:
    """Shards instead of one server, with sharded pub/sub: an event travels in its shard alone.

    What moves to another shard, or to the replica that took over, is subscribed there, and told as missed. While slots
    move, an operation on a channel with history may be refused; that is an error like any other.

    Args:
        connector: Opens connections; its seeds are asked who is who.
        make: Makes a `Server`, given what it does not have yet.
    """

    publish: Final = "SPUBLISH"  # the command

    def __init__(self, connector: Connector, make: Callable[..., Server]) -> None:
        self._connector = connector
        self._make = make
        self._homes: dict[str, Server | None] = {}  # where each wanted channel is listened to
        self._lost: set[str] = set()  # wanted, heard nowhere, and to be told as missed
        self._slots = Slots(connector, self._make_server, error=BrokerError, on_told=self._settle)

    def _make_server(self, address: Address) -> Server:
        on_moved = partial(self._moved, address)
        return self._make(self._connector.at(address), on_moved=on_moved, on_away=self._slots.look)

    def start(self) -> None:
        self._slots.look()

    async def close(self) -> None:
        await self._slots.close()

    @property
    def connected(self) -> bool:
        """Whether all that is wanted is listened to."""
        return self._slots.is_known and all(home is not None and home.connected for home in {*self._homes.values()})

    async def send(self, channel: str, *command: Argument) -> Any:
        """The answer to a command where ``channel`` is; raises like `Pipe.send`."""
        return await self._slots.ask(channel, lambda server: server.send(channel, *command))

    async def run(self, channel: str, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        """The answer of a script where ``channel`` is."""
        return await self._slots.ask(channel, lambda server: server.run(channel, script, keys, *arguments))

    async def subscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._homes.setdefault(channel, None)
        try:
            async with asyncio.timeout(self._connector.timeout):
                # Again for those that were on the move meanwhile.
                await self._slots.get_to_know()
                while groups := self._unheard(channels):
                    await asyncio.gather(*(server.subscribe(group) for server, group in groups.items()))
                    await self._slots.get_to_know()
        except TimeoutError as error:
            raise BrokerError("the Redis Cluster did not acknowledge the subscriptions in time") from error
        finally:
            # Those without a home get one, and are told, as soon as it is known who is who.
            self._lost.update(channel for channel in channels if channel in self._homes and not self._homes[channel])

    def _unheard(self, channels: Collection[str]) -> dict[Server, list[str]]:
        """Those that are not listened to, by the server that should."""
        groups: dict[Server, list[str]] = {}
        for channel in channels:
            if channel in self._homes:
                home = self._homes[channel] = self._homes[channel] or self._slots.owner(channel)
                if not home.line.hears(channel):
                    groups.setdefault(home, []).append(channel)
        return groups

    def unsubscribe(self, channels: Collection[str]) -> None:
        groups: dict[Server, list[str]] = {}
        for channel in channels:
            home = self._homes.pop(channel, None)
            self._lost.discard(channel)
            if home is not None:
                groups.setdefault(home, []).append(channel)
        for server, group in groups.items():
            server.unsubscribe(group)

    def _moved(self, teller: Address, channels: Collection[str], reason: str) -> None:
        """A server says that it has these no more: they are nowhere, until it is known where they are."""
        for channel in channels:
            home = self._homes.get(channel)
            if home is not None:
                self._homes[channel] = None
                self._lost.update(home.line.release([channel]))
        self._slots.doubt(new_place(reason) or teller)

    def _settle(self) -> None:
        """Let each channel that has no home, or another one than before, be heard where it is now, and told."""
        groups: dict[Server, list[str]] = {}
        for channel, home in self._homes.items():
            owner = self._slots.find(channel)
            if home is not None and home is not owner:
                self._lost.update(home.line.release([channel]))
                self._homes[channel] = owner
            if channel in self._lost and owner is not None:
                self._lost.discard(channel)
                self._homes[channel] = owner
                groups.setdefault(owner, []).append(channel)
        for server, group in groups.items():
            server.line.adopt(group)
