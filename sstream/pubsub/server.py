"""One Redis server: a pipe for commands, and a line to listen."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from sstream.pubsub.connection import Argument, Connector
from sstream.pubsub.line import Ears, Line
from sstream.pubsub.pipe import Pipe, Script

__all__ = ["Server"]


class Server:
    """The place where everything is, if there is no Cluster; `Cluster` has one for each of its shards.

    Args:
        connector: Opens connections to it.
        ears: Who listens.
        deadline: Seconds that each operation may take.
        ping_interval: Seconds of silence after which the listening connection is tested.
        on_moved: Given for a shard of a Cluster, which then is told which channels are served elsewhere.
        on_away: Told of each attempt to connect that failed.
    """

    publish: Final = "PUBLISH"  # the command

    def __init__(
        self,
        connector: Connector,
        ears: Ears,
        *,
        deadline: float,
        ping_interval: float,
        on_moved: Callable[[Collection[str], str], None] | None = None,
        on_away: Callable[[], None] | None = None,
    ) -> None:
        self._connector = connector
        self._pipe = Pipe(connector, deadline=deadline)
        self.line = Line(
            connector, ears, deadline=deadline, ping_interval=ping_interval, on_moved=on_moved, on_away=on_away
        )

    def start(self) -> None:
        self.line.start()

    async def close(self) -> None:
        await self.line.close()
        await self._pipe.close()
        await self._connector.close()

    @property
    def connected(self) -> bool:
        """Whether all that is wanted is listened to."""
        return self.line.connected

    def send(self, channel: str, *command: Argument) -> "asyncio.Future[Any]":
        """The answer to a command where ``channel`` is; raises like `Pipe.send`."""
        return self._pipe.send(*command)

    def run(self, channel: str, script: Script, keys: Sequence[str], *arguments: Argument) -> "asyncio.Future[Any]":
        """The answer of a script where ``channel`` is."""
        return self._pipe.run(script, keys, *arguments)

    async def subscribe(self, channels: Collection[str]) -> None:
        await self.line.subscribe(channels)

    def unsubscribe(self, channels: Collection[str]) -> None:
        self.line.unsubscribe(channels)
