"""A websocket client that says exactly what it is told to."""

import asyncio
import base64
import hashlib
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Self

from tests.websocket.frames import frame

__all__ = ["Peer", "Received"]


@dataclass(frozen=True)
class Received:
    """A frame from the server."""

    opcode: int
    payload: bytes
    fin: bool = True
    compressed: bool = False

    @property
    def close_code(self) -> int | None:
        assert self.opcode == 8, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> Self:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        server_hostname = "localhost" if tls else None
        return cls(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=server_hostname))

    async def shake_hands(self, headers: dict[str, str]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = {
            "Host": "localhost",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        } | headers
        # A header that must not be sent is given as "".
        request = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        self.send(f"GET /ws HTTP/1.1\r\n{request}\r\n".encode())
        status, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest if line)}
        if self.status == 101:
            accept = hashlib.sha1(
                lines["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            ).digest()
            assert self.headers["sec-websocket-accept"] == base64.b64encode(accept).decode()
        else:
            self.body = await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self) -> Received:
        """The next frame."""
        first, second = await self.reader.readexactly(2)
        assert not second & 0x80, "a server must not mask"
        assert not first & 0x30
        length = second
        if length == 126:
            length = int.from_bytes(await self.reader.readexactly(2), "big")
        elif length == 127:
            length = int.from_bytes(await self.reader.readexactly(8), "big")
        payload = await self.reader.readexactly(length)
        return Received(first & 15, payload, bool(first & 0x80), bool(first & 0x40))

    async def receive_close(self) -> int | None:
        """The code of the Close frame that comes next, and after which nothing may come but the end."""
        code = (await self.receive()).close_code
        self.send(frame(8, b"" if code is None else code.to_bytes(2, "big")))
        await self.receive_end()
        return code

    async def receive_end(self) -> None:
        try:
            assert await self.reader.read() == b""
        except ConnectionResetError:
            # It came after all that was said.
            pass

    async def abort(self) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass
