"""One Redis server: a pipe for commands, and a line to listen."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from sstream.backend.connection import Argument, Connection, Refusal
from sstream.backend.connector import Connector
from sstream.backend.pipe import Guard, Pipe, Script
from sstream.errors import BrokerError
from sstream.pubsub.line import Ears, Line

__all__ = ["Server"]

WAITING: Final = 20_000  # commands that wait at most; more are refused at once


class Server:
    """The place where everything is, if there is no Cluster; `Cluster` has one for each of its shards.

    Args:
        connector: Opens connections to it.
        ears: Who listens.
        deadline: Seconds that each operation may take; ``None`` for no bound.
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
        deadline: float | None,
        ping_interval: float,
        on_moved: Callable[[Collection[str], str], None] | None = None,
        on_away: Callable[[], None] | None = None,
    ) -> None:
        self._pipe = Pipe(
            connector, error=BrokerError, deadline=deadline, most=WAITING, in_order=True, prepare=_require_primary
        )
        # Never without a bound: a server that does not answer must be left for a new connection.
        self.line = Line(
            connector, ears, deadline=connector.timeout, ping_interval=ping_interval, on_moved=on_moved, on_away=on_away
        )

    def start(self) -> None:
        self.line.start()

    async def close(self) -> None:
        """Send what waits, as far as its deadline allows, and listen no more."""
        await self.line.close()
        await self._pipe.drain()
        await self._pipe.close()

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


async def _require_primary(connection: Connection) -> Guard | None:
    role = await connection.ask("ROLE")
    if isinstance(role, Refusal):
        return None  # a proxy may not know it, and a user may not ask
    _judge(role)
    # Asked with every write: a server may become a replica while we are connected.
    return ("ROLE",), _judge


def _judge(role: Any) -> None:
    # A replica carries PUBLISH out, for its own subscribers alone, and calls it a success.
    if isinstance(role, Refusal) or role[0] != b"master":
        raise RedisError("this server is no primary; what is published there reaches only its own subscribers")
