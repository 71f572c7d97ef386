"""The work that every contender in Python does with a message, so that only the way to it differs.

``[0, id, "add", [2, 3]]`` is answered with ``[1, id, nil, 5]``; ``[2, "publish", [text]]`` is for everybody.
"""

from collections.abc import Callable
from typing import Any

import msgspec

__all__ = ["METHODS", "decode", "encode", "respond"]

decode = msgspec.msgpack.Decoder(list).decode
encode = msgspec.msgpack.Encoder().encode

METHODS: dict[str, Callable[..., Any]] = {"add": lambda a, b: a + b, "echo": lambda value: value}


def respond(payload: bytes) -> tuple[bytes, bool]:
    """What to send, and whether everybody gets it."""
    message = decode(payload)
    if message[0] == 2:
        return encode([2, "message", message[2]]), True
    _, number, name, params = message
    return encode([1, number, None, METHODS[name](*params)]), False
