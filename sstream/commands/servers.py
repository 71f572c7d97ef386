"""The Redis servers that a command looks at: where they are, and connections to all of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from sstream.application import Application
from sstream.backend.connection import BROKEN, Argument, Connection, Refusal, pack
from sstream.backend.connector import Address, Connector
from sstream.errors import ConfigurationError, StoreError
from sstream.settings import read, without_password

__all__ = ["add_url", "ask", "connections_to", "hear", "store_url"]

_TIMEOUT: Final = 3.0  # seconds


def add_url(parser: Any) -> None:
    """Let a command take the URL of a Redis."""
    parser.add_argument(
        "--redis", metavar="URL", help="where the sessions are; else what SSTREAM_STORE or SSTREAM_REDIS say"
    )


def store_url(given: str | None) -> str:
    """The URL of the sessions' Redis.

    Raises:
        ConfigurationError: Nobody says it.
    """
    found = read(Application)
    for place in ("store", "redis"):
        if given is None and place in found:
            given = found[place].value
    if not given:
        raise ConfigurationError("which Redis? Give --redis URL, or set SSTREAM_REDIS")
    return given


@asynccontextmanager
async def connections_to(url: str) -> AsyncIterator[list[Connection]]:
    """A connection to the Redis at ``url``, or to every primary of a Cluster.

    Raises:
        ConfigurationError: The URL is none.
        StoreError: It cannot be reached, or the connection to it was lost.
    """
    connector = Connector(url, timeout=_TIMEOUT)
    try:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(connector.close)
            connections = []
            for place in [connector.at(address) for address in await _primaries(connector)] or [connector]:
                connection = await place.open()
                stack.push_async_callback(connection.close)
                connections.append(connection)
            yield connections
    except BROKEN as error:
        reason = str(error).rstrip(".") or f"no answer within {_TIMEOUT:g} s"
        raise StoreError(f"the Redis at {without_password(url)} cannot be reached: {reason}") from error


async def _primaries(connector: Connector) -> list[Address]:
    """The primaries of a Cluster; empty for a single server."""
    for number, address in enumerate(connector.seeds, 1):
        try:
            connection = await connector.at(address).open()
            try:
                (slots,) = await ask(connection, ("CLUSTER", "SLOTS"))
            finally:
                await connection.close()
        except BROKEN:
            if number == len(connector.seeds):
                raise
            continue
        if isinstance(slots, Refusal):
            raise ConnectionError(str(slots))
        # No name: it is the server that we asked.
        found = {((primary[0] or b"").decode() or address[0], primary[1]) for _, _, primary, *_ in slots}
        return sorted(found)
    return []


async def ask(connection: Connection, *commands: Sequence[Argument]) -> list[Any]:
    """The answers to some commands, in one go; one that was refused is a `Refusal`."""
    if not commands:
        return []
    connection.write(b"".join(pack(*command) for command in commands))
    answers: list[Any] = []
    while len(answers) < len(commands):
        answers += await hear(connection)
    return answers


async def hear(connection: Connection) -> list[Any]:
    """What comes next."""
    async with asyncio.timeout(_TIMEOUT):
        return await connection.read()
