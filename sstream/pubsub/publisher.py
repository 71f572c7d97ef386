"""Publishing: to all, to users, to channels, to sockets, and never to anybody by a forgotten argument."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from sstream.pubsub.broker import Broker
from sstream.pubsub.channels import PLAIN, ChannelOptions, history_of
from sstream.pubsub.message import encode_event
from sstream.pubsub.topics import ALL, channel_topic, socket_topic, user_topic

__all__ = ["Publisher"]

RESERVED: Final = "sstream:"  # events that begin so are sstream's own


class Publisher:
    """Sends events. Each method returns when the broker has the event, which is not yet that anybody got it.

    All of them raise:
        TypeError: An argument cannot be encoded; the message says which.
        ValueError: A name outside the alphabet of topics, an event name that is reserved, an event that is too large.
        BrokerError: The broker did not take it in time; whether it was delivered is unknown.

    Args:
        broker: Where events go.
        channel_options: The options of a channel by its name; must say the same on every process.
        event_size: Bytes that one encoded event may have; ``None`` takes the bound off.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        channel_options: Callable[[str], ChannelOptions] = lambda name: PLAIN,
        event_size: int | None = 64 * 1024,
    ) -> None:
        self._broker = broker
        self._channel_options = channel_options
        self._event_size = event_size

    async def all(self, event: str, *args: Any) -> None:
        """Send an event to every socket of the application."""
        await self._broker.publish(ALL, self._encode(event, args))

    async def user(self, ids: str | int | Iterable[str | int], event: str, *args: Any) -> None:
        """Send an event to every socket of a user, or of several."""
        # None is no group of users but a mistake: an anonymous visitor's user_id, most likely. user_topic says so.
        # Bytes are none either, though their numbers would be users.
        topics = [user_topic(ids)] if isinstance(ids, str | int | bytes | None) else list(map(user_topic, ids))
        payload = self._encode(event, args)
        await self._send([(topic, payload) for topic in topics])

    async def channel(self, names: str | Iterable[str], event: str, *args: Any) -> None:
        """Send an event to everybody who listens to a channel, or to one of several."""
        names = [names] if isinstance(names, str) else list(names)
        topics = list(map(channel_topic, names))
        numbered: bytes | None = None
        events = []
        for name, topic in zip(names, topics, strict=True):
            if history_of(topic, self._channel_options) is None:
                events.append((topic, self._encode(event, args, name)))
            else:
                if numbered is None:
                    numbered = self._encode(event, args)
                events.append((topic, numbered))
        await self._send(events)

    async def socket(self, ids: str | Iterable[str], event: str, *args: Any) -> None:
        """Send an event to one socket, or to several."""
        topics = [socket_topic(ids)] if isinstance(ids, str) else list(map(socket_topic, ids))
        payload = self._encode(event, args)
        await self._send([(topic, payload) for topic in topics])

    async def _send(self, events: list[tuple[str, bytes]]) -> None:
        publish = self._broker.publish
        if len(events) == 1:
            topic, payload = events[0]
            await publish(topic, payload, history_of(topic, self._channel_options))
        else:
            # Started in this order and without a pause, so they leave in one turn of the loop.
            await asyncio.gather(
                *(publish(topic, payload, history_of(topic, self._channel_options)) for topic, payload in events)
            )

    def _encode(self, event: str, args: tuple[Any, ...], channel: str | None = None) -> bytes:
        payload = encode_event(event, args, channel)
        if event.startswith(RESERVED):
            raise ValueError(f"cannot publish {event!r}: names that begin with {RESERVED!r} are sstream's own")
        if self._event_size is not None and len(payload) > self._event_size:
            raise ValueError(f"cannot publish {event!r}: it has {len(payload)} bytes, {self._event_size} are allowed")
        return payload
