"""One event, encoded once, as it travels from the publisher to every socket.

On the wire and in the broker it is ``[2, event, args]`` or ``[2, event, args, {channel, offset, epoch}]`` in
MessagePack; docs/reference-publish-format.md tells it for other programs.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

__all__ = ["GAP", "Burst", "Message", "Position", "encode_event", "joined_event", "left_event", "number_event"]

log = logging.getLogger("sstream.pubsub")

GAP: Final = "sstream:gap"  # the event that tells a socket: you may have missed something here


class Position(NamedTuple):
    """A place in the history of a channel: the event ``offset`` of the count that began with ``epoch``."""

    offset: int
    epoch: str


class _Meta(msgspec.Struct):
    channel: str | None = None
    offset: int | None = None
    epoch: str | None = None


class _Event(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    kind: Literal[2]
    event: str
    args: msgspec.Raw
    meta: _Meta | None = None


_decode_event = msgspec.msgpack.Decoder(_Event).decode
_decode = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


def _null(value: Any) -> None:
    """What stands in JSON for MessagePack's ext types, which it has not; keys that are no text it has not either."""
    if type(value) is not msgspec.msgpack.Ext:
        raise TypeError(f"{type(value).__name__} cannot be told in JSON")


_encode_text = msgspec.json.Encoder(enc_hook=_null).encode


class Message:
    """A finished event with everything that is made of it once per node, however many sockets get it.

    Attributes:
        payload: The MessagePack bytes of the event.
        position: Its place in the history of its channel; ``None`` for an event that is not numbered.
        frame: A slot for the websocket frame of ``payload``: who needs it first fills it, all others take it.
    """

    __slots__ = ("_text", "frame", "payload", "position")

    def __init__(self, payload: bytes, position: Position | None = None) -> None:
        self.payload = payload
        self.position = position
        self.frame: Any = None  # the engine's own kind of frame
        self._text: str | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "Message":
        """The message in ``payload``, which may come from any program.

        Raises:
            ValueError: It is no event in MessagePack.
        """
        try:
            event = _decode_event(payload)
        # msgspec raises the last two for text that is no UTF-8 and for deep nesting.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"no event: {error}") from error
        kind = memoryview(event.args)[0]
        if not (0x90 <= kind <= 0x9F or kind in (0xDC, 0xDD)):  # the first byte of an array
            raise ValueError("no event: its arguments are no array")
        meta = event.meta
        if meta is None or meta.offset is None or meta.epoch is None:
            return cls(payload)
        return cls(payload, Position(meta.offset, meta.epoch))

    @classmethod
    def gap(cls, channel: str | None, position: Position | None = None) -> "Message":
        """The event that tells a socket of a gap: ``[2, "sstream:gap", [channel]]``.

        ``channel`` is ``None`` where an event to all, to the user or to the socket may be missing. In a channel with
        history ``position`` tells from where it goes on.
        """
        meta: tuple[dict[str, Any], ...] = ()
        if position is not None:
            meta = ({"channel": channel, "offset": position.offset, "epoch": position.epoch},)
        return cls(_encode((2, GAP, (channel,), *meta)))

    @property
    def text(self) -> str:
        """The same event as JSON text; bytes stand in it as base64.

        One that JSON cannot hold (a key is nil or a boolean, a text no UTF-8) is a gap.
        """
        if self._text is None:
            try:
                self._text = _encode_text(_decode(self.payload)).decode()
            except (msgspec.DecodeError, TypeError, ValueError, RecursionError) as error:
                meta = _decode_event(self.payload).meta
                channel = None if meta is None else meta.channel
                log.warning("an event cannot be told in JSON, its sockets are told of a gap: %s", error)
                self._text = Message.gap(channel, self.position).text
        return self._text


class Burst:
    """Messages of one topic that many sockets get together, one after the other.

    Attributes:
        messages: In their order.
        frame: A slot for the websocket frames of their payloads, as `Message.frame`.
    """

    __slots__ = ("frame", "messages")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.frame: Any = None


def encode_event(event: str, args: Sequence[Any], channel: str | None = None) -> bytes:
    """The payload of an event; ``channel`` is named in it where it goes to a channel.

    Raises:
        TypeError: ``event`` or an argument is nothing that MessagePack can hold; the message names it.
    """
    if not event or type(event) is not str:
        raise TypeError(f"an event has a name, a str that is not empty, not {event!r}")
    meta = () if channel is None else ({"channel": channel},)
    try:
        return _encode((2, event, args, *meta))
    except Exception as error:
        # Whatever the type of the error (msgspec has five for this): the caller needs to know which argument it is.
        for number, argument in enumerate(args, 1):
            try:
                _encode(argument)
            except Exception as reason:
                raise TypeError(f"cannot publish {event!r}: argument {number}: {reason}") from reason
        raise TypeError(f"cannot publish {event!r}: {error}") from error


def number_event(payload: bytes, channel: str, position: Position) -> bytes:
    """``payload``, which is ``[2, event, args]``, with its place in the history of ``channel`` as fourth element."""
    meta = _encode({"channel": channel, "offset": position.offset, "epoch": position.epoch})
    return b"\x94" + payload[1:] + meta  # 0x93 and 0x94: an array of three, of four


def joined_event(channel: str, user: str, about: bytes) -> bytes:
    """The payload of ``[2, "joined", [user, about], {channel}]``; ``about`` is a map in MessagePack."""
    return _encode((2, "joined", (user, msgspec.Raw(about)), {"channel": channel}))


def left_event(channel: str, user: str) -> bytes:
    """The payload of ``[2, "left", [user], {channel}]``."""
    return _encode((2, "left", (user,), {"channel": channel}))
