"""Frames as a client writes them, good and bad."""

import zlib

__all__ = ["MASK", "compress", "frame", "message", "xor"]

MASK = b"\x12\x34\x56\x78"


def xor(data: bytes, mask: bytes = MASK) -> bytes:
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
    length: int | None = None,
) -> bytes:
    """One frame; everything that may be wrong with one can be chosen."""
    if length is None:
        length = len(payload)
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    masked = 0 if mask is None else 0x80
    header = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    header += bytes([masked | (length if length_bytes == 0 else 126 if length_bytes == 2 else 127)])
    if length_bytes:
        header += length.to_bytes(length_bytes, "big")
    return header + (payload if mask is None else mask + xor(payload, mask))


def message(opcode: int, *pieces: bytes, rsv: int = 0) -> bytes:
    """A message in as many fragments as there are pieces."""
    last = len(pieces) - 1
    return b"".join(
        frame(opcode if index == 0 else 0, piece, fin=index == last, rsv=rsv if index == 0 else 0)
        for index, piece in enumerate(pieces)
    )


def compress(data: bytes, flush: int = zlib.Z_SYNC_FLUSH, wbits: int = -15) -> bytes:
    """The payload of a compressed message without context."""
    stream = zlib.compressobj(wbits=wbits)
    deflated = stream.compress(data) + stream.flush(flush)
    return deflated[:-4] if flush == zlib.Z_SYNC_FLUSH else deflated
