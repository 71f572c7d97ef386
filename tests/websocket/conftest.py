"""Servers with the engine under them, on each wire, and peers that speak raw frames."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from sstream.limits import Limits
from sstream.websocket import upgrade, websocket_protocol
from tests.websocket.peer import Peer

CERTIFICATE = Path(__file__).with_name("localhost.pem")

# Nothing that a test does not ask for.
QUIET = Limits(ping_interval=None, message_rate=None)


class Handler(WebSocketHandler):
    """A handler on the engine; it remembers itself and what befell it."""

    limits = QUIET
    last: "Handler"

    def initialize(self) -> None:
        type(self).last = self
        self.closed: list[tuple[int | None, str | None]] = []

    def get_websocket_protocol(self) -> Any:
        return websocket_protocol(self, self.limits)

    def on_message(self, message: str | bytes) -> Any:
        self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        self.closed.append((self.close_code, self.close_reason))


class Site:
    """A server on a free port, and the way to it."""

    def __init__(self, wire: str) -> None:
        self.wire = wire
        self.server: HTTPServer
        self.port = 0
        self.peers: list[Peer] = []

    def start(self, handler: type[WebSocketHandler], **settings: Any) -> None:
        options = None
        if self.wire == "tls":
            options = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            options.load_cert_chain(CERTIFICATE)
        self.server = HTTPServer(Application([("/ws", handler)], **settings), ssl_options=options)
        sock, self.port = bind_unused_port()
        self.server.add_socket(sock)

    async def connect(self, *, receive_buffer: int | None = None, **headers: str) -> Peer:
        tls = None
        if self.wire == "tls":
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(CERTIFICATE)
        peer = await Peer.connect(self.port, tls, receive_buffer)
        self.peers.append(peer)
        await peer.shake_hands({name.replace("_", "-"): value for name, value in headers.items()})
        return peer

    async def stop(self) -> None:
        for peer in self.peers:
            await peer.abort()
        self.server.stop()
        await self.server.close_all_connections()


@pytest.fixture(params=["socket", "stream", "tls"])
def wire(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "stream":
        monkeypatch.setattr(upgrade, "may_take", lambda stream: False)
        monkeypatch.setattr(upgrade, "_tell_once", lambda: None)
    return request.param


Serve = Callable[..., Awaitable[Site]]


@pytest.fixture
async def serve(wire: str) -> AsyncIterator[Serve]:
    """``await serve(handler_class, **settings)`` gives a `Site`."""
    sites: list[Site] = []

    async def serve(handler: type[WebSocketHandler] = Handler, **settings: Any) -> Site:
        site = Site(wire)
        site.start(handler, **settings)
        sites.append(site)
        return site

    yield serve
    for site in sites:
        await site.stop()
