"""What an open socket of the whole framework takes."""

import asyncio
import gc
import tracemalloc
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from sstream import Application, RPCHandler, SessionOptions, load_session, rpc

IDLE = 100
CALL = b"\x94\x00\x01\xa4name\x90"


class Live(RPCHandler):
    @rpc(use=[load_session])
    def name(self) -> str:
        return str(self.session["name"])


async def test_an_idle_socket_with_its_session_loaded_takes_less_than_5900_bytes(expect_log: Any) -> None:
    expect_log("sessions are kept in memory", count=1)
    application = Application([("/ws", Live)], session=SessionOptions(secret="x"), debug=False)
    await application.start()
    listener, port = bind_unused_port()
    server = HTTPServer(application)
    server.add_socket(listener)
    cookies = [
        application.sessions.cookie_value(await application.sessions.create({"name": "fred"})) for _ in range(IDLE + 20)
    ]
    peers = [await connect(port, cookie) for cookie in cookies[:20]]
    tracemalloc.start()
    try:
        peers += [await connect(port, cookie) for cookie in cookies[20:]]
        gc.collect()
        each = server_bytes() / IDLE
    finally:
        tracemalloc.stop()
    one, other = list(application.sockets.values())[-2:]
    one.path_args.append("x")
    assert (one.path_args, other.path_args, other.path_kwargs) == (["x"], [], {})
    assert (other.get_status(), other.close_code, other.close_reason) == (101, None, None)
    for _, writer in peers:
        writer.close()
    server.stop()
    await application.close()
    assert 2000 < each < 5900


async def connect(port: int, cookie: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket that has loaded its session."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: sstream.v1.msgpack\r\nCookie: connect.sid={cookie}\r\n\r\n"
    )
    writer.write(head.encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(bytes((0x82, 0x80 | len(CALL), 0, 0, 0, 0)) + CALL)
    assert (await reader.readexactly(11)).endswith(b"\xa4fred")
    return reader, writer


def server_bytes() -> int:
    """What the server's side of this process has allocated since tracing began."""
    ours = (__file__, "*/asyncio/streams.py", "*/selector_events.py", "*/transports.py", "*/tracemalloc.py")
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pattern) for pattern in ours])
    return sum(statistic.size for statistic in snapshot.statistics("filename"))
