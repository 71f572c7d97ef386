"""Publishes an event through Redis, as the processes of an application do."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from sstream.errors import BrokerError, ConfigurationError
from sstream.pubsub import ChannelOptions, History, Position, Publisher, RedisBroker

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add ``publish``."""
    parser = commands.add_parser(
        "publish",
        help="publish an event through Redis",
        description="Publish an event through the Redis of an application, and say how many processes heard it.",
        epilog="""example: python -m sstream publish redis://localhost:6379/0 channel:lobby message '"hello"'""",
    )
    parser.add_argument("redis", metavar="URL", help="the application's Redis; a Sentinel's or a Cluster's URL too")
    parser.add_argument("topic", help="all, user:ID, channel:NAME or socket:ID")
    parser.add_argument("event", help="its name")
    parser.add_argument(
        "args", nargs="*", default=[], metavar="JSON", help="""its arguments: '"hello"' 5 '{"tea": 1}'"""
    )
    parser.add_argument("--also", action="append", default=[], metavar="TOPIC", help="one more topic; may be repeated")
    parser.add_argument(
        "--history",
        type=history,
        metavar="SIZE,SECONDS",
        help="number and keep the event, as the application's channel_options say for the channel",
    )
    parser.add_argument("--prefix", default="sstream:", help="the application's, if its RedisBroker has one (sstream:)")
    parser.set_defaults(run=publish)


def history(text: str) -> History:
    """A history by its size and seconds: ``100,3600``."""
    size, seconds = map(int, text.split(","))
    return History(size, seconds)


def publish(options: argparse.Namespace) -> int:
    """Publish to each topic; the exit status."""
    args = [read_argument(number, text) for number, text in enumerate(options.args, 1)]
    try:
        asyncio.run(_publish(options, args))
    except BrokerError as error:
        print(f"sstream: not published: {error}", file=sys.stderr)  # noqa: T201, this is a program
        return 1
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    return 0


def read_argument(number: int, text: str) -> Any:
    """An argument of the event, from JSON.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"""argument {number} is no JSON: {text} ({error}); a text stands in quotes: '"hello"'"""
        ) from error


class _Counting(RedisBroker):
    """Remembers what became of the last event."""

    processes = 0
    position: Position | None = None

    async def publish(self, topic: str, payload: bytes, history: History | None = None) -> Position | None:
        if history is None:
            self.processes = await self.announce(topic, payload)
        else:
            self.position = await super().publish(topic, payload, history)
        return self.position


async def _publish(options: argparse.Namespace, args: list[Any]) -> None:
    broker = _Counting(options.redis, prefix=options.prefix)
    publisher = Publisher(broker, channel_options=lambda name: ChannelOptions(history=options.history))
    try:
        sends = [(topic, sender(publisher, topic)) for topic in (options.topic, *options.also)]
        for topic, send in sends:
            await send(options.event, *args)
            if broker.position is None:
                text = f"{topic}: heard by {broker.processes} process{'es' * (broker.processes != 1)}"
            else:
                text = f"{topic}: kept, number {broker.position.offset}"
            print(text)  # noqa: T201, this is a program
            broker.position = None
    finally:
        await broker.close()


def sender(publisher: Publisher, topic: str) -> Callable[..., Any]:
    """What publishes to ``topic``.

    Raises:
        ConfigurationError: It is no topic.
    """
    kind, colon, name = topic.partition(":")
    if topic == "all":
        return publisher.all
    if colon and kind in {"user", "channel", "socket"}:
        to = getattr(publisher, kind)
        return lambda event, *args: to(name, event, *args)
    raise ConfigurationError(f"{topic!r} is no topic; legal are all, user:ID, channel:NAME and socket:ID")
