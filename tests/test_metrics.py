"""The metrics page as Prometheus reads it, and who may read it."""

import asyncio
import contextlib
import re
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tornado.websocket import WebSocketClosedError

from sstream import (
    Application,
    ConfigurationError,
    Limits,
    MemoryBroker,
    MemoryStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    Watch,
    load_session,
    rpc,
)
from sstream.metrics import Collector
from sstream.testing import BrokerProbe, Browser, StoreProbe, eventually, serve

TOKEN = "a token that nobody guesses"
PATH = "/_sstream/metrics"


class Page(SessionMixin):
    async def get(self) -> None:
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.finish("welcome")


class Live(RPCHandler):
    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @rpc(use=[load_session])
    async def put(self, key: str) -> None:
        self.session[key] = 1

    @rpc
    async def tell(self) -> None:
        await self.publish.all("told")


def application(**options: Any) -> Application:
    options = {"store": StoreProbe(MemoryStore()), "session": SessionOptions(secret="a test's own")} | options
    return Application([("/", Page), ("/ws", Live)], **{"watch": Watch(metrics_token=TOKEN)} | options)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


async def scrape(browser: Browser, token: str = TOKEN) -> Samples:
    page = await browser.get(PATH, headers={"Authorization": f"Bearer {token}"})
    assert page.status == 200
    return read(page.text)


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.mark.parametrize("version", ["none", "9.9.9", "1.0.0; escaping=none", "\xff", "x" * 5000])
async def test_a_version_that_is_none_is_answered_in_plain_text_at_worst(version: str) -> None:
    async with serve(application()) as site:
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": f"application/openmetrics-text; version={version}"}
        page = await site.browser().get(PATH, headers=headers)

        assert page.status == 200
        assert "sstream_sockets" in page.text


async def test_calls_come_by_method_and_code_with_their_times() -> None:
    async with serve(application(limits=Limits(message_rate=None))) as site:
        visitor = await site.browser().connect()
        for _ in range(300):
            await visitor.call("add", 1, 2)
        for method, params in (("add", ["x", 1]), ("nonsense", []), ("more nonsense", [])):
            with pytest.raises(RPCError):
                await visitor.call(method, *params)
        visitor.ask("hang")
        site.app.counters.calls.time_next()
        await visitor.call("add", 1, 2)

        samples = await scrape(site.browser())

        assert value(samples, "sstream_calls_total", method="add", code="ok") == 301
        assert value(samples, "sstream_calls_total", method="add", code="-32602") == 1
        assert value(samples, "sstream_calls_total", method="(unknown)", code="-32601") == 2
        assert value(samples, "sstream_calls_in_flight") == 1
        assert value(samples, "sstream_call_seconds_count", method="add") == 301
        assert value(samples, "sstream_call_seconds_bucket", method="add", le="+Inf") == 301
        assert value(samples, "sstream_sockets") == 1
        assert not [labels for _, labels in samples if ("method", "nonsense") in labels]


async def test_sessions_the_store_and_pages_are_counted() -> None:
    async with serve(application()) as site:
        browser = site.browser()
        await browser.get("/")
        await browser.get("/")
        visitor = await browser.connect()
        await visitor.call("put", "tea")

        samples = await scrape(site.browser())

        assert value(samples, "sstream_session_saves_total") == 3
        assert value(samples, "sstream_session_loads_total") == 2
        assert value(samples, "sstream_session_conflicts_total") == 0
        assert value(samples, "sstream_store_seconds_count", operation="swap") == 3
        assert value(samples, "sstream_pages_total", status="200") == 2
        assert value(samples, "sstream_pages_total", status="101") == 1


async def test_a_store_and_a_broker_that_fail_are_seen() -> None:
    store, broker = StoreProbe(MemoryStore()), BrokerProbe(MemoryBroker())
    async with serve(application(store=store, broker=broker)) as site:
        visitor = await site.browser().connect()
        store.fail("swap")
        broker.fail("publish")
        for method, params in (("put", ["tea"]), ("tell", [])):
            with pytest.raises(RPCError):
                await visitor.call(method, *params)

        samples = await scrape(site.browser())

        assert value(samples, "sstream_store_errors_total", operation="swap") == 1
        assert value(samples, "sstream_broker_errors_total", operation="publish") == 1
        assert value(samples, "sstream_calls_total", method="put", code="4050") == 1


async def test_a_reader_that_does_not_read_is_seen() -> None:
    class Flood(RPCHandler):
        @rpc
        def flood(self) -> None:
            with contextlib.suppress(WebSocketClosedError):
                for _ in range(400):
                    self.write_message(b"x" * 60_000)

    app = Application(
        [("/ws", Flood)],
        store=StoreProbe(MemoryStore()),
        session=SessionOptions(secret="a test's own"),
        watch=Watch(metrics_token=TOKEN),
    )
    async with serve(app) as site:
        host, port = site.address
        plain = socket.create_connection((host, port))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        handshake = f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        handshake += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        plain.sendall(handshake.encode())
        call = b"\x94\x00\x01\xa5flood\x90"
        plain.sendall(bytes([0x82, 0x80 | len(call), 0, 0, 0, 0]) + call)

        await eventually(lambda: app.counters.sockets.closed.get(4408), "it was not closed")
        samples = await scrape(site.browser())

        assert value(samples, "sstream_slow_consumers_total") == 1
        assert value(samples, "sstream_sockets_closed_total", code="4408") == 1
        plain.close()


async def test_the_lag_of_the_loop_is_measured_by_itself() -> None:
    async with serve(application()) as site:
        await eventually(lambda: site.app.counters.lag.count, "no measurement")

        samples = await scrape(site.browser())

        assert (value(samples, "sstream_event_loop_lag_seconds_count") or 0) >= 1


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic " + TOKEN, "Bearer", f"Bearer {TOKEN}x", "Bearer ä"])
async def test_who_has_no_token_finds_nothing(header: str | None) -> None:
    async with serve(application()) as site:
        page = await site.browser().get(PATH, headers={"Authorization": header} if header else None)

        assert page.status == 404


async def test_without_being_asked_for_there_is_no_page() -> None:
    async with serve(application(watch=Watch())) as site:
        assert (await site.browser().get(PATH)).status == 404
        assert site.app.counters.lag.count == 0


@pytest.mark.parametrize("answer", [True, False])
async def test_a_guard_says_who_may_read(answer: bool) -> None:
    async def guard(handler: Any) -> bool:
        await asyncio.sleep(0)
        return answer and handler.request.remote_ip == "127.0.0.1"

    async with serve(application(watch=Watch(metrics=guard))) as site:
        assert (await site.browser().get(PATH)).status == (200 if answer else 404)


def test_a_token_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="less than 16"):
        Watch(metrics_token="secret")


def test_a_token_never_shows() -> None:
    assert TOKEN not in repr(Watch(metrics_token=TOKEN))


async def test_each_process_on_a_machine_takes_a_port_of_its_own() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = free.getsockname()[1]
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(serve(application(watch=Watch(metrics_port=first)))) for _ in range(2)]
        await (await sites[1].browser().connect()).call("add", 1, 2)

        servers = [server for site in sites for server in site.app.monitor._servers]
        ports = [listening.getsockname()[1] for server in servers for listening in server._sockets.values()]
        pages = [await Browser(f"http://127.0.0.1:{port}").get(PATH) for port in ports]

        calls = [value(read(page.text), "sstream_calls_total", method="add", code="ok") for page in pages]
        assert sorted(calls, key=str) == [1.0, None]
        assert first <= ports[0] < ports[1] < first + 10  # the next that nobody else has
        assert (await sites[0].browser().get(PATH)).status == 404
        assert (await Browser(f"http://127.0.0.1:{ports[0]}").get("/")).status == 404


async def test_a_port_that_is_asked_for_in_code_shows_how_late_the_loop_is() -> None:
    async with serve(application(watch=Watch())) as site:
        server = site.app.monitor.listen(0)
        (port,) = (listening.getsockname()[1] for listening in server._sockets.values())
        browser = Browser(f"http://127.0.0.1:{port}")

        async def lag_is_seen() -> bool:
            return bool(value(read((await browser.get(PATH)).text), "sstream_event_loop_lag_seconds_count"))

        await eventually(lag_is_seen, "no lag was measured")


async def test_the_docs_name_the_metrics_that_there_are() -> None:
    docs = Path(__file__).parents[1] / "docs"
    table = (docs / "reference.md").read_text().partition("### Metrics\n")[2].partition("\n## ")[0]
    told = set(
        re.findall(r"`(sstream_\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )
    async with serve(application()) as site:
        families = list(Collector(site.app).collect())

        real = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
        assert told == real
        used = set(re.findall(r"\bsstream_\w+", (docs / "how-to.md").read_text()))
        assert {name.removesuffix("_bucket") for name in used} <= real


async def test_no_id_of_a_session_stands_in_the_metrics() -> None:
    async with serve(application()) as site:
        browser = site.browser()
        await browser.get("/")
        visitor = await browser.connect()
        await visitor.call("put", "a-key-of-a-session")
        with pytest.raises(RPCError):
            await visitor.call("a-name-of-the-caller")

        text = (await site.browser().get(PATH, headers={"Authorization": f"Bearer {TOKEN}"})).text

        for secret in (browser.sid or "-", visitor.handler.id, "a-key-of-a-session", "a-name-of-the-caller", TOKEN):
            assert secret not in text
