"""permessage-deflate (RFC 7692): what was agreed in the handshake, and the two streams that follow from it."""

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Deflate", "DeflateError", "Deflater", "InflatedSizeError", "Inflater", "negotiate"]

# RFC 7692, 7.2.1: the sender removes these four octets from the end of a message, the receiver puts them back.
_TAIL = b"\x00\x00\xff\xff"

# RFC 7692, 7.1.2: window bits are 8 to 15 without a leading zero.
_WINDOW_BITS = frozenset(["8", "9", "10", "11", "12", "13", "14", "15"])

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 6455, 9.1: extension-param = token [ "=" (token | quoted-string) ]
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_WORD})(?:[ \t]*=[ \t]*(?:({_WORD})|"({_WORD})"))?[ \t]*')
_NAME = re.compile(rf"[ \t]*({_WORD})[ \t]*")
_COMMA = re.compile(r"[ \t]*,[ \t,]*")

# A sender that flushes with final blocks needs one a message; each costs us a new stream.
_FINAL_BLOCKS = 16

_PARAMETERS = frozenset(
    ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits"]
)


class DeflateError(Exception):
    """The data of a compressed message is not DEFLATE."""


class InflatedSizeError(Exception):
    """A compressed message holds more than it may."""


@dataclass(frozen=True, slots=True)
class Deflate:
    """What server and client agreed on, RFC 7692, 7.1.

    Attributes:
        server_takeover: We may refer to earlier messages when we compress.
        client_takeover: The client may.
        server_bits: Size of our window, as a power of two.
        client_bits: Size of the client's.
        level: How hard we try, 0 to 9, as for ``zlib.compressobj``.
        memory: Memory for trying, 1 to 9, as for ``zlib.compressobj``.
        header: Our ``Sec-WebSocket-Extensions`` answer.
    """

    server_takeover: bool
    client_takeover: bool
    server_bits: int
    client_bits: int
    level: int
    memory: int
    header: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sockets of one shape can be sent the same compressed frame."""
        return (self.server_bits, self.level, self.memory)


def _parse_offers(header: str) -> Iterator[tuple[str, dict[str, str | None] | None]]:
    """Yield name and parameters of each extension offered; ``None`` for parameters with one named twice.

    Ends at the first thing that is not the grammar of RFC 6455, 9.1; what stood before it still counts.
    """
    position = 0
    while (name := _NAME.match(header, position)) is not None:
        position = name.end()
        parameters: dict[str, str | None] | None = {}
        while (parameter := _PARAMETER.match(header, position)) is not None:
            position = parameter.end()
            key, token, quoted = parameter.groups()
            if parameters is not None:
                if key in parameters:
                    parameters = None
                else:
                    parameters[key] = token if token is not None else quoted
        comma = _COMMA.match(header, position)
        if comma is None and position < len(header):
            return
        yield name[1], parameters
        if comma is None:
            return
        position = comma.end()


def negotiate(header: str, options: Mapping[str, Any]) -> Deflate | None:
    """Answer the client's ``Sec-WebSocket-Extensions`` with the first offer that can be honoured, or with ``None``.

    An offer that is malformed, unknown to RFC 7692 or beyond zlib is declined, never an error (RFC 7692, 5.1).

    Args:
        header: The client's offers.
        options: What ``WebSocketHandler.get_compression_options`` gave: ``compression_level`` and ``mem_level`` as in
            Tornado, and those of RFC 7692's four parameters that the server wants: ``server_no_context_takeover=True``,
            ``server_max_window_bits=12`` and so on.
    """
    for name, parameters in _parse_offers(header):
        if name != "permessage-deflate" or parameters is None:
            continue
        agreed = _honour(parameters, options)
        if agreed is not None:
            return agreed
    return None


def _honour(offer: dict[str, str | None], options: Mapping[str, Any]) -> Deflate | None:
    for key, value in offer.items():
        if key not in _PARAMETERS:
            return None
        if key.endswith("takeover"):
            # 7.1.1: these have no value.
            if value is not None:
                return None
        elif value is None:
            # 7.1.2.1: the server's has one always; 7.1.2.2: the client's may come without, as a hint.
            if key == "server_max_window_bits":
                return None
        elif value not in _WINDOW_BITS:
            return None

    answer = ["permessage-deflate"]
    server_takeover = not ("server_no_context_takeover" in offer or options.get("server_no_context_takeover"))
    if not server_takeover:
        answer.append("server_no_context_takeover")
    client_takeover = not ("client_no_context_takeover" in offer or options.get("client_no_context_takeover"))
    if not client_takeover:
        answer.append("client_no_context_takeover")

    server_bits = min(int(offer.get("server_max_window_bits") or 15), int(options.get("server_max_window_bits") or 15))
    if server_bits < 9:
        # zlib compresses with a window of 512 bytes at least.
        return None
    if "server_max_window_bits" in offer or server_bits < 15:
        answer.append(f"server_max_window_bits={server_bits}")

    client_bits = 15
    if "client_max_window_bits" in offer:
        # 7.1.2.2: may stand in the answer only if the client named it.
        client_bits = min(int(offer["client_max_window_bits"] or 15), int(options.get("client_max_window_bits") or 15))
        if client_bits < 15:
            answer.append(f"client_max_window_bits={client_bits}")

    return Deflate(
        server_takeover=server_takeover,
        client_takeover=client_takeover,
        server_bits=server_bits,
        client_bits=client_bits,
        level=int(options.get("compression_level", 6)),
        memory=int(options.get("mem_level", 8)),
        header="; ".join(answer),
    )


class Deflater:
    """Compresses messages one by one."""

    __slots__ = ("_agreed", "_stream")

    def __init__(self, agreed: Deflate) -> None:
        self._agreed = agreed
        self._stream: Any = None  # zlib names its type only in stubs

    def compress(self, payload: bytes) -> bytes:
        """Give the payload of a compressed message, RFC 7692, 7.2.1."""
        agreed = self._agreed
        stream = self._stream
        if stream is None:
            stream = zlib.compressobj(agreed.level, zlib.DEFLATED, -agreed.server_bits, agreed.memory)
            if agreed.server_takeover:
                self._stream = stream
        data: bytes = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]

    def restart(self) -> None:
        """Refer to nothing sent so far: the peer was sent something that this stream has not seen."""
        self._stream = None


class Inflater:
    """Inflates messages piece by piece; the first bad or superfluous byte raises."""

    __slots__ = ("_agreed", "_fed", "_final_blocks", "_recent", "_stream")

    def __init__(self, agreed: Deflate) -> None:
        self._agreed = agreed
        self._stream: Any = None  # zlib names its type only in stubs
        # The end of what this message held so far, kept once one of its blocks was marked final.
        self._recent = b""
        self._final_blocks = 0
        # Whether the stream has seen anything of this message.
        self._fed = False

    def inflate(self, data: bytes, room: int | None) -> bytes:
        """Give what ``data``, the next piece of a message, holds.

        Raises:
            InflatedSizeError: It holds more than ``room`` bytes.
            DeflateError: It is not DEFLATE, or refers to what was never sent.
        """
        pieces = []
        size = 0
        while data:
            stream = self._stream
            if stream is None:
                # A larger window decodes what a smaller one wrote; senders that agreed on 8 bits often use 9.
                stream = self._stream = zlib.decompressobj(-max(self._agreed.client_bits, 9), zdict=self._recent)
            try:
                piece = stream.decompress(data, 0 if room is None else room - size + 1)
            except zlib.error as error:
                raise DeflateError(str(error)) from None
            self._fed = True
            size += len(piece)
            if room is not None and size > room:
                raise InflatedSizeError
            pieces.append(piece)
            data = stream.unconsumed_tail
            if stream.eof:
                # 7.2.3.4: a sender may flush with a block marked final. What follows it is a new DEFLATE stream, which
                # may refer to what this message held before.
                self._final_blocks += 1
                if self._final_blocks > _FINAL_BLOCKS:
                    raise DeflateError("too many final blocks")
                data = stream.unused_data
                self._recent = (self._recent + b"".join(pieces))[-32768:]
                self._stream = None
                self._fed = False
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self, room: int | None) -> bytes:
        """Give the rest of the message, which ends here."""
        # After a block marked final with nothing behind it there is nothing to complete.
        rest = self.inflate(_TAIL, room) if self._fed else b""
        if not self._agreed.client_takeover:
            self._stream = None
        self._recent = b""
        self._final_blocks = 0
        self._fed = False
        return rest
