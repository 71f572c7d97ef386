"""picows on uvloop: websockets in Cython and nothing around them."""

import asyncio
import socket
from typing import Any

import picows

from benchmarks.contenders.work import respond

__all__ = ["serve"]

subscribers: set[Any] = set()


class Listener(picows.WSListener):  # type: ignore[misc]  # it has no types
    def on_ws_connected(self, transport: Any) -> None:
        subscribers.add(transport)

    def on_ws_disconnected(self, transport: Any) -> None:
        subscribers.discard(transport)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type is not picows.WSMsgType.BINARY:
            transport.disconnect()
            return
        reply, is_event = respond(frame.get_payload_as_bytes())
        if not is_event:
            transport.send(picows.WSMsgType.BINARY, reply)
            return
        for subscriber in subscribers:
            subscriber.send(picows.WSMsgType.BINARY, reply)


async def serve(listener: socket.socket) -> None:
    server = await picows.ws_create_server(lambda request: Listener(), sock=listener, backlog=4096)
    asyncio.ensure_future(server.serve_forever())  # noqa: RUF006  (as long as the process)
