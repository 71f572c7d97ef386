"""aiohttp: its own server and websocket."""

import socket

from aiohttp import WSMsgType, web

from benchmarks.contenders.work import respond

__all__ = ["serve"]

subscribers: set[web.WebSocketResponse] = set()


async def on_socket(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=False)
    await connection.prepare(request)
    subscribers.add(connection)
    try:
        async for message in connection:
            if message.type is not WSMsgType.BINARY:
                break
            reply, is_event = respond(message.data)
            if not is_event:
                await connection.send_bytes(reply)
                continue
            for subscriber in list(subscribers):
                await subscriber.send_bytes(reply)
    finally:
        subscribers.discard(connection)
    return connection


async def serve(listener: socket.socket) -> None:
    application = web.Application()
    application.router.add_get("/ws", on_socket)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=4096).start()
