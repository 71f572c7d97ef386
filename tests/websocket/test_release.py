"""What is let go of is not missed, and that it is a lot."""

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest
from tornado.template import DictLoader

from sstream.limits import Limits
from sstream.websocket import release
from tests.websocket.conftest import Handler, Serve, Site
from tests.websocket.frames import frame

IDLE = 200


async def test_request_is_as_it_was_after_the_upgrade(serve: Serve) -> None:
    seen: dict[str, Any] = {}

    class Looking(Handler):
        def look(self) -> dict[str, Any]:
            request = self.request
            return {
                "method": request.method,
                "uri": request.uri,
                "remote_ip": request.remote_ip,
                "protocol": request.protocol,
                "host": request.host,
                "headers": list(request.headers.get_all()),
                "origin": request.headers.get("origin"),
                "cookie": self.get_cookie("a"),
                "cookies": sorted(request.cookies),
                "argument": self.get_argument("q", "none"),
                "bodies": [request.body, request.arguments, request.query_arguments, request.body_arguments],
                "files": request.files,
                "unknown": hasattr(request, "unknown"),
                "context": str(request.connection.context.address[0]),  # type: ignore[union-attr]
                "status": self.get_status(),
                "subprotocol": self.selected_subprotocol,
            }

        def open(self, *args: str, **kwargs: str) -> None:
            seen["open"] = self.look()

        def on_message(self, message: str | bytes) -> None:
            seen[str(message)] = self.look()
            assert self.request.files is not self.request.arguments
            assert self.request.files is self.request.files
            self.write_message(message)

    peer = await (await serve(Looking)).connect(Cookie="a=1; b=2", X_Custom="äöü", Origin="http://localhost")
    for name in ("first", "second"):
        peer.send(frame(1, name.encode()))
        await peer.receive()

    assert seen["open"]["cookie"] == "1"
    assert seen["first"] == seen["open"]
    assert seen["second"] == seen["open"]


async def test_what_clients_have_in_common_is_kept_once(serve: Serve) -> None:
    requests = []

    class Collecting(Handler):
        def on_message(self, message: str | bytes) -> None:
            requests.append(self.request)
            self.write_message(message)

    site = await serve(Collecting)
    for cookie in ("a=1", "a=2"):
        peer = await site.connect(Cookie=cookie, User_Agent="Mozilla/5.0")
        peer.send(frame(1, b"x"))
        await peer.receive()

    one, other = requests
    assert (one.uri, one.host) == (other.uri, other.host)
    assert one.uri is other.uri
    assert one.host is other.host
    assert vars(one.headers)["_lines"] is vars(other.headers)["_lines"]
    assert [request.headers["Cookie"] for request in requests] == ["a=1", "a=2"]


def test_texts_that_one_client_alone_sends_are_not_kept_for_ever() -> None:
    kept = [release._shared(f"/ws?number={number}") for number in range(release._SHARED_TEXTS + 1)]
    long = "x" * release._SHARED_SIZE

    assert release._shared(f"/ws?number={len(kept) - 1}") is kept[-1]
    assert release._shared(f"/ws?number={0}") is not kept[0]
    assert release._shared(long + "y") is not release._shared(long + "y")


async def test_template_can_be_rendered_for_a_message(serve: Serve) -> None:
    class Rendering(Handler):
        def on_message(self, message: str | bytes) -> None:
            self.write_message(self.render_string("page", message=message).decode())

    loader = DictLoader({"page": "{{ message }} at {{ request.path }}"})
    peer = await (await serve(Rendering, template_loader=loader)).connect()
    peer.send(frame(1, b"x"))

    assert (await peer.receive()).payload == b"x at /ws"


async def test_headers_have_no_attributes_that_headers_do_not_have(serve: Serve) -> None:
    await (await serve()).connect()

    with pytest.raises(AttributeError, match="nothing"):
        _ = Handler.last.request.headers.nothing  # type: ignore[attr-defined]


async def test_idle_connection_takes_less_than_4_kilobytes() -> None:
    class Idle(Handler):
        limits = Limits()

    site = Site("socket")
    site.start(Idle)
    tracemalloc.start()
    peers = [await site.connect() for _ in range(20)]
    gc.collect()
    before = server_bytes()

    peers += [await site.connect() for _ in range(IDLE)]
    await asyncio.sleep(0)
    gc.collect()
    each = (server_bytes() - before) / IDLE

    tracemalloc.stop()
    assert each < 4000
    await site.stop()


def server_bytes() -> int:
    """What was allocated by the server's side of this process."""
    snapshot = tracemalloc.take_snapshot()
    ours = ("*/tests/*", "*/streams.py", "*/selector_events.py", "*/transports.py", "*/tracemalloc.py")
    kept = snapshot.filter_traces([tracemalloc.Filter(False, pattern) for pattern in ours])
    return sum(statistic.size for statistic in kept.statistics("filename"))
