"""Records what real clients send after the handshake, for test_recorded.py.

    python -m tests.websocket.record NODE        (NODE: a node with WebSocket, 22 or newer)

Each client says the same, with compression and without. The files are in tests/websocket/recorded: a line of JSON with
what was agreed about compression, then the bytes.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import websockets
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from sstream.websocket import connection, speedups, websocket_protocol
from sstream.websocket.frames import Event

RECORDED = Path(__file__).with_name("recorded")
SAYS = ["hello", "grüße 𝄞 " * 20, "", "all alike, " * 600, "all alike, " * 600]

NODE = """
const socket = new WebSocket(process.argv[1]);
socket.onopen = () => {
    for (const text of JSON.parse(process.argv[2])) {
        socket.send(text);
        socket.send(new TextEncoder().encode(text));
    }
    socket.close(4000, "done");
};
"""

heard: list[bytes] = []


class Recorder(speedups.parser_class):  # type: ignore[misc, valid-type]
    def receive(self, data: bytes) -> list[Event]:
        heard.append(data)
        return super().receive(data)


class Handler(WebSocketHandler):
    compresses = False
    closed: asyncio.Event

    def get_websocket_protocol(self) -> Any:
        return websocket_protocol(self)

    def get_compression_options(self) -> dict[str, Any] | None:
        return {} if self.compresses else None

    def open(self, *args: str, **kwargs: str) -> None:
        # All goes by way of the parser.
        self.ws_connection._limit = -1  # type: ignore[union-attr]
        self.agreed = self.ws_connection._deflate  # type: ignore[union-attr]

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_close(self) -> None:
        type(self).header = self.agreed.header if self.agreed else ""
        self.closed.set()


async def speak_python(url: str) -> None:
    async with websockets.connect(url) as socket:
        for text in SAYS:
            await socket.send(text)
            await socket.send(text.encode())
        await socket.ping(b"there?")
        # A message in fragments.
        await socket.send(iter(["one, ", "two, ", "three"]))
        await socket.close(4000, "done")


async def speak_node(url: str) -> None:
    process = await asyncio.create_subprocess_exec(sys.argv[1], "-e", NODE, url, json.dumps(SAYS))
    await process.wait()


async def main() -> None:
    connection.parser_class = Recorder
    sock, port = bind_unused_port()
    server = HTTPServer(Application([("/", Handler)]))
    server.add_socket(sock)
    for name, speak in (("websockets", speak_python), ("node", speak_node)):
        for compresses in (False, True):
            heard.clear()
            Handler.compresses = compresses
            Handler.closed = asyncio.Event()
            await speak(f"ws://127.0.0.1:{port}/")
            await Handler.closed.wait()
            agreement = json.dumps({"client": name, "deflate": Handler.header}).encode()
            file = RECORDED / f"{name}{'-deflate' if compresses else ''}.bin"
            file.write_bytes(agreement + b"\n" + b"".join(heard))
            print(file.name, file.stat().st_size)


if __name__ == "__main__":
    asyncio.run(main())
