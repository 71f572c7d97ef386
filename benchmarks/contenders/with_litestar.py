"""Litestar on uvicorn."""

import socket
from typing import Any

from litestar import Litestar, WebSocket
from litestar.exceptions import WebSocketDisconnect
from litestar.handlers import websocket

from benchmarks.contenders.on_uvicorn import serve_asgi
from benchmarks.contenders.work import respond

__all__ = ["serve"]

subscribers: set[WebSocket[Any, Any, Any]] = set()


@websocket("/ws")
async def on_socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    subscribers.add(socket)
    try:
        while True:
            reply, is_event = respond(await socket.receive_bytes())
            if not is_event:
                await socket.send_bytes(reply)
                continue
            for subscriber in list(subscribers):
                await subscriber.send_bytes(reply)
    except WebSocketDisconnect:
        pass  # that is how it tells
    finally:
        subscribers.discard(socket)


async def serve(listener: socket.socket) -> None:
    await serve_asgi(Litestar([on_socket], openapi_config=None), listener)
