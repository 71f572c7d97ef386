"""python-socketio: socket.io's acks, as ASGI on uvicorn or on Tornado's own server."""

import os
import socket
from typing import Any

import socketio
from tornado.httpserver import HTTPServer
from tornado.web import Application

from benchmarks.contenders.on_uvicorn import serve_asgi
from benchmarks.contenders.work import METHODS

__all__ = ["serve", "serve_on_tornado"]


def make_server(mode: str) -> Any:
    manager = None
    if url := os.environ.get("REDIS_URL"):
        manager = socketio.AsyncRedisManager(url)
    server = socketio.AsyncServer(async_mode=mode, client_manager=manager, http_compression=False)

    @server.event  # type: ignore[untyped-decorator]
    async def add(sid: str, a: int, b: int) -> int:
        return METHODS["add"](a, b)  # type: ignore[no-any-return]

    @server.event  # type: ignore[untyped-decorator]
    async def echo(sid: str, value: str) -> str:
        return value

    @server.event  # type: ignore[untyped-decorator]
    async def publish(sid: str, text: str) -> None:
        await server.emit("message", text)

    return server


async def serve(listener: socket.socket) -> None:
    await serve_asgi(socketio.ASGIApp(make_server("asgi")), listener)


async def serve_on_tornado(listener: socket.socket) -> None:
    handler = socketio.get_tornado_handler(make_server("tornado"))
    server = HTTPServer(Application([("/socket.io/", handler)], log_function=lambda handler: None))
    server.add_socket(listener)
