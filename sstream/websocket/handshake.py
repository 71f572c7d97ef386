"""The opening handshake of RFC 6455, section 4.2: what is checked and what is answered."""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from sstream.websocket.deflate import Deflate, negotiate

__all__ = ["accept_value", "agree", "end_answer", "is_handshake", "set_answer", "shares_answer", "write_answer"]

Method = TypeVar("Method", bound=Callable[..., Any])

# RFC 6455, 1.3.
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# What `RequestHandler.finish` takes out of a response without a body.
_OF_A_BODY = frozenset({"Content-Encoding", "Content-Language", "Content-Type"})

# Those ``finish`` and ``flush`` that add nothing to the answer of a handshake.
_SHARED: set[Any] = {RequestHandler.finish, RequestHandler.flush}


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


def agree(
    handler: WebSocketHandler, options: Mapping[str, Any] | None
) -> tuple[str | None, Deflate | None, dict[str, str]]:
    """Give the subprotocol chosen, what was agreed about compression, and the headers that answer the handshake.

    Their names are as Tornado writes them.
    """
    headers = handler.request.headers
    answer = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-Websocket-Accept": accept_value(headers["Sec-WebSocket-Key"]),
    }
    offered = [name.strip() for name in headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
    subprotocol = handler.select_subprotocol(offered)
    if subprotocol is not None:
        if subprotocol not in offered:
            raise ValueError(f"select_subprotocol chose {subprotocol!r}; the client offered {offered}")
        answer["Sec-Websocket-Protocol"] = subprotocol
    deflate = None
    if options is not None:
        deflate = negotiate(headers.get("Sec-WebSocket-Extensions", ""), options)
        if deflate is not None:
            answer["Sec-Websocket-Extensions"] = deflate.header
    return subprotocol, deflate, answer


def set_answer(handler: WebSocketHandler, headers: Mapping[str, str]) -> None:
    """Set status and headers of the 101 response, which ``handler.finish`` sends."""
    handler.clear_header("Content-Type")
    handler.set_status(101)
    for name, value in headers.items():
        handler.set_header(name, value)


def shares_answer(method: Method) -> Method:
    """Mark a ``finish`` or ``flush`` that adds nothing of its own to the answer of a handshake."""
    _SHARED.add(method)
    return method


def write_answer(handler: WebSocketHandler, headers: Mapping[str, str]) -> bytes | None:
    """Give the 101 response as ``handler.finish`` would send it; None if only that knows what it sends.

    Of a handshake's instructions Tornado's way takes a fifth: transforms, futures, the checks of each line, and three
    settings of Nagle's algorithm. Read in Tornado 6.5 and 6.6.1, where these attributes are.
    """
    kind = type(handler)
    if not (
        kind.finish in _SHARED
        and kind.flush in _SHARED
        and handler.request.version == "HTTP/1.1"
        and getattr(handler, "_transforms", None) == []
        and getattr(handler, "_write_buffer", None) == []
        and getattr(handler, "_headers_written", None) is False
        and not hasattr(handler, "_new_cookie")
        and all(hasattr(handler, name) for name in ("_headers", "_log"))
    ):
        return None
    lines = ["HTTP/1.1 101 Switching Protocols"]
    for name, value in handler._headers.get_all():
        if name not in headers and name not in _OF_A_BODY:
            lines.append(f"{name}: {value}")
    for name, value in headers.items():
        lines.append(f"{name}: {value}")
    ends = len(lines) + 1
    text = "\r\n".join((*lines, "", ""))
    if text.count("\r") != ends or text.count("\n") != ends:
        return None  # Tornado refuses to send it
    handler.set_status(101)
    handler._headers_written = True
    return text.encode("latin-1")


def end_answer(handler: WebSocketHandler) -> None:
    """Do what ``finish`` does when a response was sent."""
    handler._log()
    handler.on_finish()
