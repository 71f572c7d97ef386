"""Starlette on uvicorn."""

import socket

from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.contenders.on_uvicorn import serve_asgi
from benchmarks.contenders.work import respond

__all__ = ["serve"]

subscribers: set[WebSocket] = set()


class Socket(WebSocketEndpoint):
    encoding = "bytes"

    async def on_connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        subscribers.add(websocket)

    async def on_receive(self, websocket: WebSocket, data: bytes) -> None:
        reply, is_event = respond(data)
        if not is_event:
            await websocket.send_bytes(reply)
            return
        for subscriber in list(subscribers):
            await subscriber.send_bytes(reply)

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        subscribers.discard(websocket)


async def serve(listener: socket.socket) -> None:
    await serve_asgi(Starlette(routes=[WebSocketRoute("/ws", Socket)]), listener)
