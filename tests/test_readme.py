"""The code in README.md runs as it is printed."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import websocket_connect

ROOT = Path(__file__).parents[1]


def read_program() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(blocks[0], "README.md", "exec"), names)
    return names


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr("tornado.autoreload.start", lambda: None)
    app = read_program()["make_app"]()
    server = app.listen(0, "127.0.0.1")
    yield next(iter(server._sockets.values())).getsockname()[1]
    await app.close()


async def test_the_page_counts_its_views_in_the_session(port: int) -> None:
    with contextlib.closing(AsyncHTTPClient(force_instance=True)) as client:
        first = await client.fetch(f"http://127.0.0.1:{port}/")
        cookie = first.headers["Set-Cookie"].split(";")[0]

        second = await client.fetch(f"http://127.0.0.1:{port}/", headers={"Cookie": cookie})

    assert b"1 views" in first.body
    assert b"2 views" in second.body


async def test_the_socket_fills_the_cart_of_the_page_s_session(port: int) -> None:
    with contextlib.closing(AsyncHTTPClient(force_instance=True)) as client:
        page = await client.fetch(f"http://127.0.0.1:{port}/")
    cookie = page.headers["Set-Cookie"].split(";")[0]
    socket = await websocket_connect(HTTPRequest(f"ws://127.0.0.1:{port}/ws", headers={"Cookie": cookie}))
    received = []
    for number, (method, params) in enumerate([("cart.add", ["tea", 2]), ("add", [2, 3]), ("cart.add", [5])]):
        await socket.write_message(msgspec.msgpack.encode([0, number, method, params]), binary=True)
        while True:
            message = await socket.read_message()
            assert isinstance(message, bytes)
            received.append(msgspec.msgpack.decode(message))
            if received[-1][0] == 1:
                break
    socket.close()

    assert [2, "session", [{"cart": {"tea": 2}}]] in received
    assert [message for message in received if message[0] == 1] == [
        [1, 0, None, {"tea": 2}],
        [1, 1, None, 5],
        [1, 2, [-32602, "params[0] (item): expected str, got int", None], None],
    ]
