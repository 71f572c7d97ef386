"""A Redis Cluster: each channel lives with the shard of its slot, and is followed when it moves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from redis.crc import key_slot

from sstream.errors import BrokerError
from sstream.pubsub.connection import BROKEN, Address, Argument, Backoff, Connector, Refusal
from sstream.pubsub.line import Ears
from sstream.pubsub.pipe import Script
from sstream.pubsub.server import Server

__all__ = ["Cluster"]

log = logging.getLogger("sstream.pubsub")

SLOTS: Final = 16384  # https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/

T = TypeVar("T")


class Cluster:
    """Shards instead of one server, with sharded pub/sub: an event travels in its shard alone.

    What moves to another shard, or to the replica that took over, is subscribed there, and told as missed. While slots
    move, an operation on a channel with history may be refused; that is an error like any other.

    Args:
        connector: Opens connections; its seeds are asked who is who.
        ears: Who listens.
        deadline: Seconds that each operation may take.
        ping_interval: Seconds of silence after which a listening connection is tested.
    """

    publish: Final = "SPUBLISH"  # the command

    def __init__(self, connector: Connector, ears: Ears, *, deadline: float, ping_interval: float) -> None:
        self._connector = connector
        self._ears = ears
        self._deadline = deadline
        self._ping_interval = ping_interval
        self._servers: dict[Address, Server] = {}
        self._owners: list[Address | None] = []  # by slot; empty until they are known
        self._homes: dict[str, Server | None] = {}  # where each wanted channel is listened to
        self._lost: set[str] = set()  # wanted, heard nowhere, and to be told as missed
        self._known = asyncio.Event()
        self._search: asyncio.Task[None] | None = None
        self._ask_first: Address | None = None
        self._again = False
        self._started = False

    def start(self) -> None:
        self._started = True
        for server in self._servers.values():
            server.start()
        self._look()

    async def close(self) -> None:
        self._started = False
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    @property
    def connected(self) -> bool:
        """Whether all that is wanted is listened to."""
        return self._known.is_set() and all(home is not None and home.connected for home in {*self._homes.values()})

    async def send(self, channel: str, *command: Argument) -> Any:
        """The answer to a command where ``channel`` is; raises like `Pipe.send`."""
        return await self._at_owner(channel, lambda server: server.send(channel, *command))

    async def run(self, channel: str, script: Script, keys: Sequence[str], *arguments: Argument) -> Any:
        """The answer of a script where ``channel`` is."""
        return await self._at_owner(channel, lambda server: server.run(channel, script, keys, *arguments))

    async def subscribe(self, channels: Collection[str]) -> None:
        for channel in channels:
            self._homes.setdefault(channel, None)
        try:
            async with asyncio.timeout(self._deadline):
                # Again for those that were on the move meanwhile.
                while groups := self._unheard(channels) if await self._get_to_know() else {}:
                    await asyncio.gather(*(server.subscribe(group) for server, group in groups.items()))
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
                home = self._homes[channel] = self._homes[channel] or self._owner(channel)
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

    async def _at_owner(self, channel: str, ask: Callable[[Server], Awaitable[T]]) -> T:
        await self._get_to_know()
        server = self._owner(channel)
        try:
            return await ask(server)
        except BrokerError as error:
            reason = str(error.__cause__)
            if not reason.startswith("MOVED"):
                raise
        # It no longer has the slot; nothing was done there.
        self._known.clear()
        self._look(_new_place(reason) or self._address(server))
        await self._get_to_know()
        return await ask(self._owner(channel))

    def _owner(self, channel: str) -> Server:
        address = self._owners[key_slot(channel.encode())]
        if address is None:
            raise BrokerError("no server of the Redis Cluster has the slot of this channel")
        return self._server_at(address)

    def _server_at(self, address: Address) -> Server:
        server = self._servers.get(address)
        if server is None:
            server = self._servers[address] = Server(
                self._connector.at(address),
                self._ears,
                deadline=self._deadline,
                ping_interval=self._ping_interval,
                on_moved=partial(self._moved, address),
                on_away=self._look,
            )
            if self._started:
                server.start()
        return server

    def _address(self, server: Server) -> Address:
        return next(address for address, other in self._servers.items() if other is server)

    def _moved(self, teller: Address, channels: Collection[str], reason: str) -> None:
        """A server says that it has these no more: they are nowhere, until it is known where they are."""
        self._known.clear()
        for channel in channels:
            home = self._homes.get(channel)
            if home is not None:
                self._homes[channel] = None
                self._lost.update(home.line.release([channel]))
        self._look(_new_place(reason) or teller)

    def _settle(self) -> None:
        """Let each channel that has no home, or another one than before, be heard where it is now, and told."""
        groups: dict[Server, list[str]] = {}
        for channel, home in self._homes.items():
            address = self._owners[key_slot(channel.encode())]
            if address is None:
                continue
            owner = self._server_at(address)
            if home is not None and home is not owner:
                self._lost.update(home.line.release([channel]))
                self._homes[channel] = owner
            if channel in self._lost:
                self._lost.discard(channel)
                self._homes[channel] = owner
                groups.setdefault(owner, []).append(channel)
        for server, group in groups.items():
            server.line.adopt(group)

    # Who is who.

    async def _get_to_know(self) -> bool:
        """Return, true, when it is known who is who."""
        if not self._known.is_set():
            self._look()
            try:
                async with asyncio.timeout(self._deadline):
                    await self._known.wait()
            except TimeoutError as error:
                raise BrokerError("no server of the Redis Cluster could be asked in time") from error
        return True

    def _look(self, ask_first: Address | None = None) -> None:
        # Of a slot that has just moved the former and the new owner know; to others the news may take seconds.
        self._ask_first = ask_first or self._ask_first
        if self._search is None:
            self._search = asyncio.get_running_loop().create_task(self._find_out())
        else:
            self._again = True  # what is being asked may be older than what we were told

    async def _find_out(self) -> None:
        backoff = Backoff(0.05, 0.5)
        try:
            while True:
                self._again = False
                owners = await self._ask_anybody()
                if owners is not None:
                    self._owners = owners
                    self._settle()
                    self._known.set()
                    if not self._again:
                        return
                await asyncio.sleep(backoff.pause())
        finally:
            self._search = None

    async def _ask_anybody(self) -> "list[Address | None] | None":
        first, self._ask_first = self._ask_first, None
        for address in dict.fromkeys((*([first] if first else []), *self._servers, *self._connector.seeds)):
            try:
                connection = await self._connector.at(address).open()
            except BROKEN as error:
                log.info("Redis Cluster: %s:%d cannot be reached: %s", *address, error)
                continue
            try:
                async with asyncio.timeout(self._deadline):
                    ranges = await connection.ask("CLUSTER", "SLOTS")
                if isinstance(ranges, Refusal):
                    log.warning("Redis Cluster: %s:%d does not tell its slots: %s", *address, ranges)
                    continue
                owners: list[Address | None] = [None] * SLOTS
                for first, last, primary, *_ in ranges:
                    # No name: it is the server that we asked.
                    owner = ((primary[0] or b"").decode() or address[0], primary[1])
                    owners[first : last + 1] = [owner] * (last + 1 - first)
                return owners
            except BROKEN as error:
                log.info("Redis Cluster: %s:%d was lost: %s", *address, error)
            finally:
                await connection.close()
        return None


def _new_place(reason: str) -> Address | None:
    """The address in ``MOVED <slot> <host>:<port>``; ``None`` if it names none."""
    host, _, port = reason.rpartition(" ")[2].rpartition(":")
    return (host, int(port)) if host and reason.startswith("MOVED") else None
