"""Frames of RFC 6455, server side, without I/O: bytes in, events out; payloads in, frames out."""

import codecs
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from sstream.websocket.deflate import Deflate, DeflateError, InflatedSizeError, Inflater

__all__ = [
    "BINARY",
    "CLOSE",
    "EVENTS_PER_PASS",
    "PING",
    "PONG",
    "TEXT",
    "Close",
    "Event",
    "Failure",
    "Parser",
    "Ping",
    "Pong",
    "close_payload",
    "frame",
    "may_be_sent",
    "message_cutter",
    "unmask",
]

# RFC 6455, 5.2.
_CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_FIN: Final = 0x80
_RSV1: Final = 0x40
_MASKED: Final = 0x80

# One `receive` gives at most so many events, walks through so many frames, and hands out so many bytes, more or less:
# with a greedy peer the rest waits until the others had their turn.
EVENTS_PER_PASS: Final = 128
_FRAMES_PER_PASS: Final = 512
_BYTES_PER_PASS: Final = 256 * 1024

# Fragments are legal in any number and of no bytes at all, and each costs the work of a frame. A message may have so
# many, and one more for each byte it has, up to one for each 16 bytes it might have.
_FRAGMENTS: Final = 128
_BYTES_PER_FRAGMENT: Final = 16
# In a rate of messages so many fragments count as one.
_FRAGMENTS_PER_MESSAGE: Final = 16


class Ping(NamedTuple):
    """A ping, which wants a pong with the same payload."""

    payload: bytes


class Pong(NamedTuple):
    """A pong, asked for or not."""

    payload: bytes


class Close(NamedTuple):
    """The peer's last frame; ``code`` is None where it named none."""

    code: int | None
    reason: str


class Failure(NamedTuple):
    """What the peer sent is not acceptable: close with this code. Nothing after it is read."""

    code: int
    reason: str


# A binary message, a text message, or a control frame.
Event = bytes | str | Ping | Pong | Close | Failure


class _RefusedError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.failure = Failure(code, reason)


def may_be_sent(code: int) -> bool:
    """Tell whether a Close frame may carry ``code``: RFC 6455, 7.4, and the IANA registry it founds (1012 to 1014)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, 1005, 1006})


def close_payload(code: int | None, reason: str | None) -> bytes:
    """Give the payload of a Close frame, RFC 6455, 5.5.1.

    Raises:
        ValueError: The code may not be sent, or the reason is longer than 123 bytes.
    """
    if code is None:
        if reason is None:
            return b""
        code = 1000
    if not may_be_sent(code):
        raise ValueError(f"close code {code} may not be sent; legal are 1000 to 1003, 1007 to 1014 and 3000 to 4999")
    payload = code.to_bytes(2, "big") + (reason or "").encode()
    if len(payload) > 125:
        raise ValueError(f"close reason of {len(payload) - 2} bytes; legal are 123 at most")
    return payload


def frame(opcode: int, payload: bytes, compressed: bool = False) -> bytes:
    """Give ``payload`` as one whole frame from a server, unmasked (RFC 6455, 5.1)."""
    first = _FIN | opcode | (_RSV1 if compressed else 0)
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return bytes((first, 126, length >> 8, length & 0xFF)) + payload
    return bytes((first, 127)) + length.to_bytes(8, "big") + payload


def unmask(mask: bytes, data: bytes) -> bytes:
    """Give ``data`` XOR ``mask``, repeated (RFC 6455, 5.3)."""
    length = len(data)
    # One big number: 0.3 µs for 20 bytes, 3 µs for 1 KB, where a loop over bytes takes 50 times as long.
    key = int.from_bytes((mask * ((length + 3) >> 2))[:length], sys.byteorder)
    return (int.from_bytes(data, sys.byteorder) ^ key).to_bytes(length, sys.byteorder)


def message_cutter(unmask: Callable[[bytes, bytes], bytes]) -> Callable[[bytes, int, int, int, list[Event]], int]:
    """Give the function that cuts plain messages, with ``unmask`` for the masks."""

    def cut(data: bytes, position: int, most: int, size: int, events: list[Event]) -> int:
        """Append the plain messages that lie whole from ``position`` on; give the place of the first other thing.

        Plain is a message in one masked frame of minimal length, up to 64 KiB, uncompressed, and if it is text, valid.
        Whatever is not, is left for the strict and slow to judge. At most ``most`` events, of ``size`` bytes each.
        """
        end = len(data)
        while most > 0 and end - position >= 6:
            first = data[position]
            length = data[position + 1] - _MASKED
            start = position + 6
            # Common case first: nearly every frame is binary, final and under 126 bytes.
            if (first != 0x82 and first != 0x81) or length < 0 or length == 127:
                break
            if length == 126:
                if end - start < 2:
                    break
                length = data[position + 2] << 8 | data[position + 3]
                if length < 126:
                    break
                start = position + 8
            stop = start + length
            if stop > end or length > size:
                break
            message = unmask(data[start - 4 : start], data[start:stop])
            if first == 0x82:
                events.append(message)
            else:
                try:
                    events.append(message.decode())
                except UnicodeDecodeError:
                    break
            position = stop
            most -= 1
        return position

    return cut


class _Message:
    """A message of which something is still to come."""

    __slots__ = ("compressed", "data", "final", "fragments", "inflated", "mask", "remaining", "size", "text", "utf8")

    def __init__(self, text: bool, compressed: bool) -> None:
        self.compressed = compressed
        self.final = False  # whether the frame at hand is the last
        self.remaining = 0  # bytes of the frame at hand that are still to come
        self.mask = b""
        self.fragments = 0
        self.size = 0  # bytes on the wire, those to come of the frame at hand included
        self.inflated = 0
        self.data = bytearray()
        self.text: list[str] = []
        self.utf8 = codecs.getincrementaldecoder("utf-8")() if text else None


class Parser:
    """Cuts what one client sends into messages and control frames, as strictly as RFC 6455 allows.

    Args:
        size: Bytes a message may have on the wire; None: any.
        inflated_size: Bytes a compressed message may have after inflating; None: any.
        deflate: What was agreed in the handshake; None: nothing may be compressed.

    Attributes:
        pending: Whether more of what came already waits to be cut, by ``receive(b"")``.
        cost: How many messages' worth of work the last ``receive`` was beyond its events, for a rate limit.
    """

    __slots__ = ("_buffer", "_closed", "_inflated_size", "_inflater", "_message", "_size", "cost", "pending")

    # A subclass may bring faster ones.
    _unmask = staticmethod(unmask)
    cut = staticmethod(message_cutter(unmask))

    def __init__(self, size: int | None, inflated_size: int | None = None, deflate: Deflate | None = None) -> None:
        self._size = sys.maxsize if size is None else size
        self._inflated_size = inflated_size
        self._inflater = None if deflate is None else Inflater(deflate)
        self._buffer = b""
        self._message: _Message | None = None
        self._closed = False
        self.pending = False
        self.cost = 0

    @property
    def idle(self) -> bool:
        """Whether the next byte is the first of a message or a control frame."""
        return self._message is None and not self._buffer and not self._closed

    def receive(self, data: bytes) -> list[Event]:
        """Give the events that ``data``, the next bytes of the stream, completes, or as many of them as make one pass.

        A `Close` or a `Failure` is the last event ever.
        """
        events: list[Event] = []
        self.cost = 0
        self.pending = False
        if self._closed:
            return events
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        position = 0
        if self._message is None:
            position = self.cut(data, 0, EVENTS_PER_PASS, self._size, events)
        if position < len(data):
            try:
                position = self._walk(data, position, events)
            except _RefusedError as refused:
                events.append(refused.failure)
                self._closed = True
            if self._closed:
                # 1.4: what follows a Close frame is ignored.
                self._message = self._inflater = None
            else:
                self._buffer = data[position:]
        return events

    def _walk(self, data: bytes, position: int, events: list[Event]) -> int:
        """Take frame by frame what was not plain; give the place of what is incomplete or not for this pass."""
        frames = weight = 0
        while position < len(data) and not self._closed:
            if len(events) >= EVENTS_PER_PASS or frames >= _FRAMES_PER_PASS or weight >= _BYTES_PER_PASS:
                self.pending = True
                break
            if self._message is not None and self._message.remaining:
                after = self._take_payload(self._message, data, position, events)
            else:
                after = self._take_frame(data, position, events)
                if after == position:
                    break
            frames += 1
            if self._message is None:
                if events and isinstance(events[-1], (bytes, str)):
                    weight += len(events[-1])
                if not self._closed:
                    after = self.cut(data, after, EVENTS_PER_PASS - len(events), self._size, events)
            position = after
        return position

    def _take_frame(self, data: bytes, position: int, events: list[Event]) -> int:
        """Take one frame, or of a data frame what is there; give the same place back where even that is not enough."""
        there = len(data) - position
        if there < 2:
            return position
        first, second = data[position], data[position + 1]
        opcode = first & 0x0F
        # 5.2: RSV2 and RSV3 belong to no extension.
        # RFC 7692, 6: RSV1 belongs to permessage-deflate, and stands on the first frame of a message.
        if first & 0x30 or (first & _RSV1 and (self._inflater is None or opcode not in {TEXT, BINARY})):
            raise _RefusedError(1002, "reserved bit set")
        if opcode not in {_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}:
            raise _RefusedError(1002, "reserved opcode")
        # 5.1: a server closes upon a frame that is not masked.
        if not second & _MASKED:
            raise _RefusedError(1002, "frame not masked")
        length = second & 0x7F
        if opcode >= CLOSE:
            # 5.5: control frames have 125 bytes at most and are never fragmented.
            if length > 125:
                raise _RefusedError(1002, "control frame too long")
            if not first & _FIN:
                raise _RefusedError(1002, "control frame fragmented")
            stop = position + 6 + length
            if stop > len(data):
                return position
            payload = self._unmask(data[position + 2 : position + 6], data[position + 6 : stop])
            events.append(self._control(opcode, payload))
            return stop

        message = self._message
        # 5.4: the fragments of one message come in a row, with nothing but control frames between.
        if opcode == _CONTINUATION:
            if message is None:
                raise _RefusedError(1002, "nothing to continue")
        elif message is not None:
            raise _RefusedError(1002, "message inside a fragmented message")

        # 5.2: the length in the fewest bytes that hold it, the most significant bit zero.
        start = position + 6
        if length == 126:
            if there < 4:
                return position
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            if length < 126:
                raise _RefusedError(1002, "length not minimal")
            start = position + 8
        elif length == 127:
            if there < 10:
                return position
            length = int.from_bytes(data[position + 2 : position + 10], "big")
            if length < 65536:
                raise _RefusedError(1002, "length not minimal")
            if length >> 63:
                raise _RefusedError(1002, "length out of range")
            start = position + 14
        # Refused by what the header promises, before the bytes come.
        if length + (0 if message is None else message.size) > self._size:
            raise _RefusedError(1009, "message too big")
        if start > len(data):
            return position

        if message is None:
            message = self._message = _Message(opcode == TEXT, bool(first & _RSV1))
        message.final = bool(first & _FIN)
        message.mask = data[start - 4 : start]
        message.remaining = length
        message.size += length
        message.fragments += 1
        if message.fragments > _FRAGMENTS + min(self._size // _BYTES_PER_FRAGMENT, message.size):
            raise _RefusedError(1008, "too many fragments")
        if not message.fragments % _FRAGMENTS_PER_MESSAGE:
            self.cost += 1
        return self._take_payload(message, data, start, events)

    def _take_payload(self, message: _Message, data: bytes, start: int, events: list[Event]) -> int:
        """Take what is there of the frame at hand; with its last byte the message may be complete."""
        piece = data[start : start + message.remaining]
        count = len(piece)
        if piece:
            message.remaining -= count
            self._add(message, self._unmask(message.mask, piece))
            turn = count & 3
            if turn:
                message.mask = message.mask[turn:] + message.mask[:turn]
        if message.final and not message.remaining:
            events.append(self._complete(message))
            self._message = None
        return start + count

    def _add(self, message: _Message, piece: bytes) -> None:
        if message.compressed:
            piece = self._inflate(message, piece)
        if message.utf8 is None:
            message.data += piece
        else:
            # 8.1: text that is not UTF-8 fails at the first byte that cannot be, not at the end of the message.
            try:
                message.text.append(message.utf8.decode(piece))
            except UnicodeDecodeError:
                raise _RefusedError(1007, "text not UTF-8") from None
            # CPython's decoder waits for the third byte of a surrogate before it says no.
            start, _ = message.utf8.getstate()
            if start[:1] == b"\xed" and start[1:] >= b"\xa0":
                raise _RefusedError(1007, "text not UTF-8")

    def _inflate(self, message: _Message, piece: bytes | None) -> bytes:
        inflater = self._inflater
        assert inflater is not None
        room = None if self._inflated_size is None else self._inflated_size - message.inflated
        try:
            plain = inflater.finish(room) if piece is None else inflater.inflate(piece, room)
        except InflatedSizeError:
            raise _RefusedError(1009, "message too big after inflating") from None
        except DeflateError:
            raise _RefusedError(1007, "bad deflate data") from None
        message.inflated += len(plain)
        return plain

    def _complete(self, message: _Message) -> bytes | str:
        rest = self._inflate(message, None) if message.compressed else b""
        if message.utf8 is None:
            return bytes(message.data + rest)
        try:
            message.text.append(message.utf8.decode(rest, final=True))
        except UnicodeDecodeError:
            raise _RefusedError(1007, "text not UTF-8") from None
        return "".join(message.text)

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == PING:
            return Ping(payload)
        if opcode == PONG:
            return Pong(payload)
        # 5.5.1: no payload, or a code of two bytes and a reason in UTF-8.
        self._closed = True
        if not payload:
            return Close(None, "")
        if len(payload) == 1:
            raise _RefusedError(1002, "close code of one byte")
        code = int.from_bytes(payload[:2], "big")
        if not may_be_sent(code):
            raise _RefusedError(1002, "close code not allowed")
        try:
            return Close(code, payload[2:].decode())
        except UnicodeDecodeError:
            raise _RefusedError(1007, "close reason not UTF-8") from None
