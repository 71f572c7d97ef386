"""The opening handshake of RFC 6455, section 4.2: what is checked and what is answered."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from tornado.websocket import WebSocketHandler

from sstream.websocket.deflate import Deflate, negotiate

__all__ = ["accept_value", "answer", "is_handshake"]

# RFC 6455, 1.3.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_value(key: str) -> str:
    """Give the ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    digest = hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def is_handshake(headers: Mapping[str, str]) -> bool:
    """Tell whether what Tornado does not check itself is there: RFC 6455, 4.2.1, points 2 and 5."""
    try:
        nonce = base64.b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(nonce) == 16 and bool(headers.get("Host"))


def answer(handler: WebSocketHandler, options: Mapping[str, Any] | None) -> tuple[str | None, Deflate | None]:
    """Set status and headers of the 101 response; give the subprotocol chosen and what was agreed about compression."""
    headers = handler.request.headers
    offered = [name.strip() for name in headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
    subprotocol = handler.select_subprotocol(offered)
    if subprotocol is not None:
        if subprotocol not in offered:
            raise ValueError(f"select_subprotocol chose {subprotocol!r}; the client offered {offered}")
        handler.set_header("Sec-WebSocket-Protocol", subprotocol)

    deflate = None
    if options is not None:
        deflate = negotiate(headers.get("Sec-WebSocket-Extensions", ""), options)
        if deflate is not None:
            handler.set_header("Sec-WebSocket-Extensions", deflate.header)

    handler.clear_header("Content-Type")
    handler.set_status(101)
    handler.set_header("Upgrade", "websocket")
    handler.set_header("Connection", "Upgrade")
    handler.set_header("Sec-WebSocket-Accept", accept_value(headers["Sec-WebSocket-Key"]))
    return subprotocol, deflate
