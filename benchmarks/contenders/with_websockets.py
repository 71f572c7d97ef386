"""websockets: its asyncio server, compression off."""

import asyncio
import socket

from websockets.asyncio.server import ServerConnection, broadcast, serve as websockets_serve

from benchmarks.contenders.work import respond

__all__ = ["serve"]

subscribers: set[ServerConnection] = set()


async def on_socket(connection: ServerConnection) -> None:
    subscribers.add(connection)
    try:
        async for message in connection:
            reply, is_event = respond(message)
            if is_event:
                broadcast(subscribers, reply)
            else:
                await connection.send(reply)
    finally:
        subscribers.discard(connection)


async def serve(listener: socket.socket) -> None:
    server = await websockets_serve(on_socket, sock=listener, compression=None)
    asyncio.ensure_future(server.serve_forever())  # noqa: RUF006  (as long as the process)
