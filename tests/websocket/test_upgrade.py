"""Which wire a handler gets: the fast one where Tornado is as it was read, else the one that needs to know nothing."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.iostream import IOStream

from sstream.websocket import upgrade, wires
from sstream.websocket.wires import SocketConnection, StreamConnection, may_take
from tests.websocket.conftest import Handler, Site
from tests.websocket.frames import frame


@pytest.fixture
def told_nothing_yet() -> Iterator[None]:
    upgrade._tell_once.cache_clear()
    yield
    upgrade._tell_once.cache_clear()


async def works(site: Site) -> None:
    peer = await site.connect()
    peer.send(frame(1, b"works"))
    assert (await peer.receive()).payload == b"works"


async def test_plain_socket_is_taken() -> None:
    site = Site("socket")
    site.start(Handler)

    await works(site)

    assert type(Handler.last.ws_connection) is SocketConnection
    await site.stop()


async def test_tls_stays_on_the_stream() -> None:
    site = Site("tls")
    site.start(Handler)

    await works(site)

    assert type(Handler.last.ws_connection) is StreamConnection
    await site.stop()


async def test_stream_of_another_class_is_left_alone_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, expect_log: Any, told_nothing_yet: None
) -> None:
    monkeypatch.setattr(wires, "IOStream", type("Other", (IOStream,), {}))
    expect_log("slower wire", count=1)
    site = Site("socket")
    site.start(Handler)

    for _ in range(2):
        await works(site)

        assert type(Handler.last.ws_connection) is StreamConnection
    await site.stop()


@pytest.mark.parametrize(
    "name", ["_read_buffer", "_read_buffer_size", "_closed", "_read_future", "_state", "_user_read_buffer", "socket"]
)
async def test_stream_without_what_was_read_is_not_taken(name: str) -> None:
    with socket.socket() as sock:
        stream = IOStream(sock)
        assert may_take(stream)

        delattr(stream, name)

        assert not may_take(stream)


async def test_loop_that_watches_no_sockets_gets_the_stream(
    monkeypatch: pytest.MonkeyPatch, expect_log: Any, told_nothing_yet: None
) -> None:
    monkeypatch.setattr(upgrade, "_watches_sockets", lambda: False)
    expect_log("slower wire", count=1)
    site = Site("socket")
    site.start(Handler)

    await works(site)

    assert type(Handler.last.ws_connection) is StreamConnection
    await site.stop()
