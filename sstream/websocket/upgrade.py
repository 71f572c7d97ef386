"""Chooses the wire for a handler that is about to be upgraded."""

import asyncio
import dataclasses
import functools
import logging
from typing import Any

from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler

from sstream.limits import Limits
from sstream.websocket.connection import Connection
from sstream.websocket.wires import SocketConnection, StreamConnection, may_take

__all__ = ["websocket_protocol"]

logger = logging.getLogger("sstream.websocket")

_DEFAULT = Limits()


def websocket_protocol(handler: WebSocketHandler, limits: Limits | None = None) -> Connection | None:
    """Give what ``WebSocketHandler.get_websocket_protocol`` has to give; None for a version other than 13.

    Tornado's settings ``websocket_max_message_size``, ``websocket_ping_interval`` and ``websocket_ping_timeout``, or
    the handler's properties for them, count before ``limits`` where they are given.
    """
    request = handler.request
    if request.headers.get("Sec-WebSocket-Version") != "13":
        return None
    limits = _with_settings(handler, limits or _DEFAULT)
    stream = getattr(request.connection, "stream", None)
    if isinstance(stream, IOStream) and may_take(stream) and _watches_sockets():
        return SocketConnection(handler, limits)
    if type(stream) is IOStream and not stream.closed():
        _tell_once()
    return StreamConnection(handler, limits)


def _watches_sockets() -> bool:
    # Windows' default loop does not.
    return type(asyncio.get_running_loop()).add_reader is not asyncio.AbstractEventLoop.add_reader


@functools.cache
def _tell_once() -> None:
    logger.warning("this Tornado or event loop is not as sstream knows it: websockets work, on the slower wire")


def _with_settings(handler: WebSocketHandler, limits: Limits) -> Limits:
    changes: dict[str, Any] = {}
    overridden = type(handler).max_message_size is not WebSocketHandler.max_message_size
    if overridden or "websocket_max_message_size" in handler.settings:
        size = handler.max_message_size
        if size != limits.message_size:
            changes["message_size"] = changes["inflated_size"] = size
    if handler.ping_interval is not None:
        changes["ping_interval"] = handler.ping_interval or None  # Tornado's 0 is no bound
    if handler.ping_timeout is not None:
        changes["ping_timeout"] = handler.ping_timeout or None
    return _replace(limits, **changes) if changes else limits


@functools.lru_cache(maxsize=64)
def _replace(limits: Limits, **changes: Any) -> Limits:
    return dataclasses.replace(limits, **changes)
