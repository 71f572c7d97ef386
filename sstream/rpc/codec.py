"""Turn payloads into messages and messages into payloads, in MessagePack and in JSON.

Both subprotocols carry the same arrays:

    [0, id, method, params, meta?]      call, both ways
    [1, id, error, result]              reply, both ways
    [2, method, params]                 call without reply
    [3, id]                             cancel a call
    [4, id, item]                       one item of a stream, server to client
    [5, id, n]                          ask for n more items of a stream

Parameters and results stay raw until it is known what they must be: only then they are decoded, straight into their
types. Whatever the bytes are, decoding raises one of ``DECODE_ERRORS`` or ``BadMessage``, and nothing else.
"""

import functools
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Raw

from sstream.errors import INVALID_REQUEST, PARSE_ERROR, RPCError

__all__ = [
    "CODECS",
    "DECODE_ERRORS",
    "ENCODE_ERRORS",
    "JSON",
    "MSGPACK",
    "BadMessage",
    "Bounds",
    "CallMessage",
    "CancelMessage",
    "Codec",
    "CreditMessage",
    "Id",
    "Message",
    "Meta",
    "Notification",
    "ReplyMessage",
]

# msgspec raises these besides its own errors: nesting past the interpreter's limit, text that is no UTF-8.
DECODE_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
# A value that no codec knows, an integer past 64 bits, a lone surrogate, a list that holds itself.
ENCODE_ERRORS: Final = (msgspec.EncodeError, TypeError, ValueError, OverflowError, RecursionError, NotImplementedError)

# What a message of 64 KiB may hold: with more maps and arrays it could cost more than 2 MiB of memory.
CONTAINERS: Final = 4096
# Below this size no message can be costly: the worst, empty maps, take 80 bytes each.
SMALL: Final = 8192

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | str


class BadMessage(RPCError):
    """A payload that is no message of ours; ``id`` is the call it may have meant, or None."""

    def __init__(self, code: int, message: str, id: int | str | None = None) -> None:  # noqa: A002, the wire's word
        super().__init__(code, message)
        self.id = id


class Meta(msgspec.Struct, frozen=True):
    """What a call may say about itself: seconds that it may take, and its W3C trace context."""

    timeout: float | None = None
    traceparent: str | None = None


class CallMessage(msgspec.Struct, tag=0, array_like=True, forbid_unknown_fields=True):
    """``[0, id, method, params, meta?]``"""

    id: Id
    method: str
    params: Raw
    meta: Meta | None = None


class ReplyMessage(msgspec.Struct, tag=1, array_like=True, forbid_unknown_fields=True):
    """``[1, id, error, result]``"""

    id: Id
    error: Raw
    result: Raw


class Notification(msgspec.Struct, tag=2, array_like=True, forbid_unknown_fields=True):
    """``[2, method, params, meta?]``"""

    method: str
    params: Raw
    meta: Meta | None = None


class CancelMessage(msgspec.Struct, tag=3, array_like=True, forbid_unknown_fields=True):
    """``[3, id]``"""

    id: Id


class CreditMessage(msgspec.Struct, tag=5, array_like=True, forbid_unknown_fields=True):
    """``[5, id, n]``"""

    id: Id
    n: Annotated[int, msgspec.Meta(ge=1)]


Message = CallMessage | ReplyMessage | Notification | CancelMessage | CreditMessage


class _Envelope(msgspec.Struct, array_like=True):
    """The first two elements of anything: enough to answer a call that is wrong further on."""

    kind: Raw
    id: Raw


@dataclass(frozen=True, slots=True)
class Bounds:
    """How deep a message may be nested, and how many maps and arrays it may hold; ``None`` is no bound."""

    depth: int | None = 32
    containers: int | None = CONTAINERS

    @classmethod
    @functools.lru_cache(maxsize=64)  # the same for all sockets with the same limits
    def of(cls, depth: int | None, message_size: int | None) -> "Bounds":
        """Get the bounds for messages of ``message_size`` bytes: memory per byte stays the same."""
        return cls(depth, None if message_size is None else max(CONTAINERS, message_size // 16))


class Codec:
    """One subprotocol: ``subprotocol`` is its name, ``binary`` tells whether its payloads are bytes or text.

    ``encode`` gives a payload.
    """

    subprotocol: str
    binary: bool
    encode: Callable[[Any], bytes | str]

    def __init__(self) -> None:
        self._message = self.decoder(Message)
        self._envelope = self.decoder(_Envelope)
        self._id = self.decoder(Id)
        self._kind = self.decoder(int)
        self._any = self.decoder(Any)

    def decoder(self, expected: Any) -> Callable[[Any], Any]:
        """Build a function that decodes bytes into ``expected``, or raises one of ``DECODE_ERRORS``."""
        raise NotImplementedError

    def call_decoder(self, names: Collection[str]) -> Callable[[Any], tuple[int, int | str, str, Raw]]:
        """Build the short way for the common message, ``[0, id, method, params]`` without meta, of a known method.

        It gives the four elements, or raises one of ``DECODE_ERRORS`` for everything else, legal or not, and
        ``TypeError`` for text where bytes must be.
        """
        # 210 ns on CPython 3.11: a tuple takes 60 less than a union of structs, and a name that is a Literal comes as
        # the very string that the table of methods has, which saves 50.
        method = Literal[tuple(names)] if names else str
        return self.decoder(tuple[Literal[0], Id, method, Raw])  # type: ignore[valid-type]  # a type made at run time

    def check(self, raw: bytes, bounds: Bounds, level: int, *, timestamps: bool = False) -> None:
        """Refuse in well formed ``raw`` what ``Any`` would let through, before it is decoded.

        ``level`` is how many containers of the message are around it. Map keys must be text, and extension types are
        refused, but for MessagePack's timestamp if ``timestamps``.

        Raises:
            msgspec.ValidationError: says what was wrong.
        """
        raise NotImplementedError

    def check_count(self, raw: bytes, bounds: Bounds) -> None:
        """Refuse too many maps and arrays in well formed ``raw``; needed for messages of more than ``SMALL`` bytes."""
        raise NotImplementedError

    def decode(self, payload: bytes | str) -> Message:
        """Get the message in ``payload``.

        Raises:
            BadMessage: there is none; it carries the code, the text and the id to answer with.
        """
        if self.binary and isinstance(payload, str):
            raise BadMessage(PARSE_ERROR, f"parse error: {self.subprotocol} wants binary messages")
        try:
            message: Message = self._message(payload)
        except msgspec.ValidationError as error:
            raise BadMessage(INVALID_REQUEST, f"invalid request: {_plain(error)}", self._called(payload)) from None
        except RecursionError:
            raise BadMessage(PARSE_ERROR, "parse error: nested too deeply") from None
        except DECODE_ERRORS:
            raise BadMessage(PARSE_ERROR, f"parse error: no {self.subprotocol} message") from None
        return message

    def decode_value(self, raw: Raw | bytes, bounds: Bounds, level: int = 0) -> Any:
        """Get the untyped value in well formed ``raw``, or raise one of ``DECODE_ERRORS``."""
        data = bytes(raw)
        self.check(data, bounds, level)
        return self._any(data)

    def count_params(self, raw: Raw) -> int:
        """Tell at least how many elements the array ``raw`` has, where that is cheap to know; else 0."""
        raise NotImplementedError

    def _called(self, payload: bytes | str) -> int | str | None:
        try:
            envelope = self._envelope(payload)
            if self._kind(envelope.kind) == 0:
                return self._id(envelope.id)  # type: ignore[no-any-return]  # the decoder was made for Id
        except DECODE_ERRORS:
            pass
        return None


class MessagePackCodec(Codec):
    """``sstream.v1.msgpack``: binary messages."""

    subprotocol = "sstream.v1.msgpack"
    binary = True
    encode = staticmethod(msgspec.msgpack.Encoder().encode)

    def decoder(self, expected: Any) -> Callable[[Any], Any]:
        return msgspec.msgpack.Decoder(expected).decode

    def check(self, raw: bytes, bounds: Bounds, level: int, *, timestamps: bool = False) -> None:
        # Common case first: a scalar, or one array of scalars. Bytes inside of text or numbers may look like headers;
        # then the slow way finds that they are none.
        suspects = len(raw) - len(raw.translate(None, _STRUCTURE))
        if suspects > 1 or (suspects and raw[0] not in _ARRAYS):
            _check_messagepack(raw, bounds, level, timestamps=timestamps, keys=True)

    def check_count(self, raw: bytes, bounds: Bounds) -> None:
        if bounds.containers is not None and len(raw) - len(raw.translate(None, _STRUCTURE)) > bounds.containers:
            _check_messagepack(raw, Bounds(None, bounds.containers), 1, timestamps=True, keys=False)

    def count_params(self, raw: Raw) -> int:
        data = memoryview(raw)
        header = data[0]
        if header & 0xF0 == 0x90:
            return header & 0x0F
        if header in {0xDC, 0xDD}:
            return int.from_bytes(data[1 : 3 if header == 0xDC else 5], "big")
        return 0


class JSONCodec(Codec):
    """``sstream.v1.json``: the same arrays as JSON text, for a terminal or a browser's inspector."""

    subprotocol = "sstream.v1.json"
    binary = False

    def decoder(self, expected: Any) -> Callable[[Any], Any]:
        return msgspec.json.Decoder(expected).decode

    @staticmethod
    def encode(message: Any) -> str:
        return _encode_json(message).decode()

    def check(self, raw: bytes, bounds: Bounds, level: int, *, timestamps: bool = False) -> None:
        # A bound that bytes inside of text can only raise; past it the text is taken out and the brackets are walked.
        depth = sys.maxsize if bounds.depth is None else bounds.depth
        if raw.count(b"[") + raw.count(b"{") + level <= min(depth, CONTAINERS):
            return
        for bracket in self._brackets(raw, bounds):
            if bracket in b"[{":
                level += 1
                if level > depth:
                    raise msgspec.ValidationError(f"nested more than {depth} deep")
            else:
                level -= 1

    def check_count(self, raw: bytes, bounds: Bounds) -> None:
        if bounds.containers is not None and raw.count(b"[") + raw.count(b"{") > bounds.containers:
            self._brackets(raw, bounds)

    @staticmethod
    def _brackets(raw: bytes, bounds: Bounds) -> bytes:
        brackets = _JSON_STRING.sub(b"", raw).translate(None, _NO_BRACKETS)
        if bounds.containers is not None and len(brackets) > 2 * bounds.containers:
            raise msgspec.ValidationError(f"more than {bounds.containers} arrays and objects")
        return brackets

    def count_params(self, raw: Raw) -> int:
        return 0


# MessagePack specification, "Formats". The bytes that a value takes which begins with this byte; 0: it says itself.
_SIZES: Final = tuple(
    1
    if byte <= 0x7F or byte >= 0xE0 or byte in {0xC0, 0xC2, 0xC3}
    else byte - 0xA0 + 1
    if 0xA0 <= byte <= 0xBF
    else {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(byte, 0)
    for byte in range(256)
)
# bin 8, 16, 32 and str 8, 16, 32: the bytes of their length.
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD4: -1, 0xD5: -2, 0xD6: -4, 0xD7: -8, 0xD8: -16}
_TEXT: Final = frozenset([*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB])
_STRUCTURE: Final = bytes([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)])
_ARRAYS: Final = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_RUN: Final = re.compile(rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff]*")

_JSON_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_encode_json: Final = msgspec.json.Encoder().encode


def _check_messagepack(raw: bytes, bounds: Bounds, level: int, *, timestamps: bool, keys: bool) -> None:
    depth = sys.maxsize if bounds.depth is None else bounds.depth
    containers = sys.maxsize if bounds.containers is None else bounds.containers
    position = 0
    left, in_map, runs = 1, False, False  # of the container that is being walked: values to come, kind
    around: list[tuple[int, bool, bool]] = []
    while True:
        if not left:
            if not around:
                return
            left, in_map, runs = around.pop()
            continue
        byte = raw[position]
        if in_map and keys and not left & 1 and byte not in _TEXT:
            raise msgspec.ValidationError("map keys must be text")
        left -= 1
        size = _SIZES[byte]
        if size:
            position += size
            if size == 1 and runs:
                # Whole runs of small values at once: 64 KiB of them take 0.1 ms instead of 5.
                end = _RUN.match(raw, position, position + left).end()  # type: ignore[union-attr]  # * always matches
                runs = end - position > 8
                left -= end - position
                position = end
        elif byte in _LENGTHS:
            header = position + 1 + _LENGTHS[byte]
            position = header + int.from_bytes(raw[position + 1 : header], "big")
        elif byte in _EXTENSIONS:
            size = _EXTENSIONS[byte]
            header = position + 1 + max(size, 0)
            if not (timestamps and raw[header] == 0xFF):
                raise msgspec.ValidationError("extension types are not accepted")
            position = header + 1 + (-size if size < 0 else int.from_bytes(raw[position + 1 : header], "big"))
        else:
            containers -= 1
            if containers < 0:
                raise msgspec.ValidationError(f"more than {bounds.containers} arrays and maps")
            if level + len(around) >= depth:
                raise msgspec.ValidationError(f"nested more than {depth} deep")
            around.append((left, in_map, runs))
            if byte < 0xA0:
                left, in_map = byte & 0x0F, byte < 0x90
                position += 1
            else:
                size = 2 if byte in {0xDC, 0xDE} else 4
                left, in_map = int.from_bytes(raw[position + 1 : position + 1 + size], "big"), byte >= 0xDE
                position += 1 + size
            runs = not in_map and left > 8
            if in_map:
                left *= 2


def _plain(error: msgspec.ValidationError) -> str:
    """Say what msgspec says in the words of the wire: no backticks, no ``$``, and not at any length."""
    text = str(error).replace("`", "").replace(" - at $", " at message")
    return (text[:1].lower() + text[1:])[:500]


MSGPACK: Final = MessagePackCodec()
JSON: Final = JSONCodec()
# In order of preference; the first also when the client names none.
CODECS: Final[dict[str, Codec]] = {codec.subprotocol: codec for codec in (MSGPACK, JSON)}
