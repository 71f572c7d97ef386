"""Spans by the real OpenTelemetry SDK, and log lines that say where they come from; neither tells a secret."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine
from tornado.routing import PathMatches, Rule

from sstream import (
    Actions,
    Application,
    MemoryStore,
    RPCError,
    RPCHandler,
    SessionMixin,
    SessionOptions,
    StoreError,
    Watch,
    load_session,
    rpc,
)
from sstream.logs import Fields, JSONFormatter
from sstream.session.commits import log_name
from sstream.testing import Browser, StoreProbe, serve

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SENT = f"00-{TRACE}-{PARENT}-01"
SECRET = "a test's own secret"

_log = logging.getLogger("shop")


class Page(SessionMixin):
    async def get(self) -> None:
        _log.warning("a page")
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.finish("welcome")


class Cart(Actions):
    @rpc(use=[load_session])
    async def add(self, tea: str) -> None:
        _log.warning("put into the cart")
        await asyncio.sleep(0)
        self.session["tea"] = tea


class Live(RPCHandler):
    actions = {"cart": Cart}

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    async def ask(self) -> Any:
        return await self.call("tea")

    @rpc
    def refuse(self, code: int) -> None:
        raise RPCError(code, "a text of the application's", "with data")

    @rpc
    def fail(self, text: str) -> None:
        raise ValueError(text)


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    # A process has one provider, for ever.
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def application(**watch: bool) -> Application:
    return Application(
        [("/", Page), ("/ws", Live)],
        session=SessionOptions(secret=SECRET),
        store=StoreProbe(MemoryStore()),
        watch=Watch(**watch),
    )


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = (span for span in spans.get_finished_spans() if span.name == name)
    return found


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and parent.context is not None and span.parent.span_id == parent.context.span_id


async def test_a_page_is_a_span_and_what_it_asks_of_the_store_its_children(spans: InMemorySpanExporter) -> None:
    async with serve(application(tracing=True)) as site:
        browser = site.browser()
        await browser.get("/", headers={"traceparent": SENT})

        page, swap = named(spans, "GET Page"), named(spans, "store swap")

        assert page.kind == SpanKind.SERVER
        assert page.context is not None
        assert trace.format_trace_id(page.context.trace_id) == TRACE
        assert page.parent is not None
        assert trace.format_span_id(page.parent.span_id) == PARENT
        assert dict(page.attributes or {}) == {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "sstream.handler": "Page",
            "sstream.session": log_name(browser.sid or ""),
        }
        assert is_child(swap, page)


async def test_a_call_goes_on_from_the_callers_trace(spans: InMemorySpanExporter) -> None:
    async with serve(application(tracing=True)) as site:
        browser = site.browser()
        await browser.get("/")
        spans.clear()
        visitor = await browser.connect()
        await visitor.reply(visitor.ask("cart.add", "oolong", meta={"traceparent": SENT}))
        await visitor.call("add", 1, 2)

        call, plain = named(spans, "cart.add"), named(spans, "add")
        (swap,) = (span for span in spans.get_finished_spans() if span.name == "store swap" and is_child(span, call))

        assert call.context is not None
        assert trace.format_trace_id(call.context.trace_id) == TRACE
        assert swap.kind == SpanKind.CLIENT
        assert plain.parent is None
        assert dict(plain.attributes or {}) == {
            "rpc.system": "sstream",
            "rpc.method": "add",
            "sstream.socket": visitor.handler.id,
            "sstream.session": log_name(browser.sid or ""),
        }


async def test_a_call_to_the_browser_carries_the_trace_on(spans: InMemorySpanExporter) -> None:
    async with serve(application(tracing=True)) as site:
        visitor = await site.browser().connect(subprotocol="sstream.v1.json")
        asked = visitor.ask("ask")
        message = await visitor.receive_message()
        visitor.send([1, message[1], None, "oolong"])
        await visitor.reply(asked)

        call = named(spans, "ask")

        assert call.context is not None
        ids = trace.format_trace_id(call.context.trace_id), trace.format_span_id(call.context.span_id)
        assert message[2] == "tea"
        assert message[4]["traceparent"].split("-")[1:3] == list(ids)


async def test_what_fails_says_how_and_not_with_what(spans: InMemorySpanExporter, expect_log: Any) -> None:
    failed = expect_log("raised on socket", logger="sstream.rpc")
    async with serve(application(tracing=True)) as site:
        visitor = await site.browser().connect()
        for method, argument in (("refuse", 4009), ("fail", "a payload")):
            with pytest.raises(RPCError):
                await visitor.call(method, argument)

        refused, raised = named(spans, "refuse"), named(spans, "fail")

        assert refused.status.status_code == raised.status.status_code == StatusCode.ERROR
        assert (refused.attributes or {})["rpc.sstream.code"] == 4009
        assert (raised.attributes or {})["error.type"] == "ValueError"
        assert "a payload" not in raised.to_json()
        assert "a text" not in refused.to_json()
        assert raised.events == refused.events == ()
        # The line that tells of it belongs to the same trace.
        Fields().filter(failed.records[0])
        assert raised.context is not None
        assert failed.records[0].trace == trace.format_trace_id(raised.context.trace_id)


async def test_a_store_that_fails_is_a_span_that_says_so(spans: InMemorySpanExporter) -> None:
    async with serve(application(tracing=True)) as site:
        visitor = await site.browser().connect()
        site.app.store.fail("swap")  # type: ignore[attr-defined]  # a probe
        with pytest.raises(RPCError, match="unavailable"):
            await visitor.call("cart.add", "oolong")

        swap = named(spans, "store swap")

        assert swap.status.status_code == StatusCode.ERROR
        assert (swap.attributes or {})["error.type"] == StoreError.__name__


async def test_without_being_asked_for_there_are_no_spans(spans: InMemorySpanExporter) -> None:
    async with serve(application()) as site:
        await site.browser().get("/")

        assert spans.get_finished_spans() == ()


# --- log lines --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """All that any logger says at any level, as lines of JSON."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.addFilter(Fields())
    handler.setFormatter(JSONFormatter())
    with ExitStack() as stack:
        for name in ("", "sstream", "tornado", "shop"):
            stack.enter_context(caplog.at_level(logging.DEBUG, logger=name or None))
        logging.getLogger().addHandler(handler)
        stack.callback(logging.getLogger().removeHandler, handler)
        yield text


def of(lines: io.StringIO, message: str) -> dict[str, Any]:
    (found,) = (line for line in map(json.loads, lines.getvalue().splitlines()) if line["message"] == message)
    return {name: found.get(name) for name in ("socket", "method", "session", "trace")}


async def test_a_line_says_of_which_call_socket_session_and_trace_it_is(lines: io.StringIO) -> None:
    async with serve(application(log_fields=True)) as site:
        browser = site.browser()
        await browser.get("/")
        visitor = await browser.connect()
        await visitor.reply(visitor.ask("cart.add", "oolong", meta={"traceparent": SENT}))

        name = log_name(browser.sid or "")
        assert of(lines, "put into the cart") == {
            "socket": visitor.handler.id,
            "method": "cart.add",
            "session": name,
            "trace": TRACE,
        }
        assert of(lines, "a page")["method"] == "GET"
        assert of(lines, "a page")["socket"] is None


async def test_a_route_to_a_function_is_served_as_ever() -> None:
    def answer(request: HTTPServerRequest) -> None:
        assert request.connection is not None
        request.connection.write_headers(ResponseStartLine("", 200, "OK"), HTTPHeaders({"Content-Length": "2"}), b"ok")
        request.connection.finish()

    app = Application(
        [Rule(PathMatches("/plain"), answer)],
        session=SessionOptions(secret=SECRET),
        store=StoreProbe(MemoryStore()),
        watch=Watch(log_fields=True),
    )
    async with serve(app) as site:
        assert (await site.browser().get("/plain")).text == "ok"


async def test_a_line_of_nobody_has_no_fields(lines: io.StringIO) -> None:
    async with serve(application(log_fields=True)) as site:
        await (await site.browser().connect()).call("add", 1, 2)

        _log.warning("outside")

        assert of(lines, "outside") == dict.fromkeys(("socket", "method", "session", "trace"))


def test_a_line_of_json_has_its_exception_and_its_stack() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        trouble = (ValueError, error, None)
        record = logging.LogRecord(
            "shop", logging.ERROR, __file__, 1, "it is %s", ("bad",), trouble, sinfo="Stack: here"
        )

    line = json.loads(JSONFormatter().format(record))

    assert line["message"] == "it is bad"
    assert line["level"] == "error"
    assert "ValueError: broken" in line["exception"]
    assert line["stack"] == "Stack: here"


async def test_a_busy_run_tells_no_id_no_secret_and_no_payload(
    lines: io.StringIO, spans: InMemorySpanExporter, expect_log: Any
) -> None:
    expect_log("raised on socket", logger="sstream.rpc")
    app = Application(
        [("/", Page), ("/ws", Live)],
        session=SessionOptions(secret=SECRET),
        store=StoreProbe(MemoryStore()),
        watch=Watch(log_fields=True, tracing=True, metrics=lambda handler: True),
    )
    secrets = {SECRET, "the-payload"}

    async def visit(browser: Browser) -> None:
        await browser.get("/")
        secrets.add(browser.sid or "")
        secrets.add(browser.jar["connect.sid"])
        visitor = await browser.connect()
        for method, params in (("cart.add", ["the-payload"]), ("add", ["the-payload", 1]), ("none", ["the-payload"])):
            await asyncio.gather(visitor.call(method, *params), return_exceptions=True)
        await asyncio.gather(visitor.call("fail", "no secret here"), return_exceptions=True)
        await visitor.handler.session.set_user_id("ann")
        await visitor.traded()
        secrets.add(browser.sid or "")
        await app.sessions.end(visitor.handler.session.id)

    async with serve(app) as site:
        await asyncio.gather(*(visit(site.browser()) for _ in range(8)))
        metrics = (await site.browser().get("/_sstream/metrics")).text

    output = lines.getvalue() + "".join(span.to_json() for span in spans.get_finished_spans()) + metrics
    assert len(secrets) > 16
    assert "put into the cart" in output
    assert "cart.add" in metrics
    assert not [secret for secret in secrets if secret in output]
