"""Spans of pages, calls and store operations for OpenTelemetry; wants the package ``opentelemetry-api``.

A span has the name of a method, of a handler class or of an operation, and the short name of the session that logs have
too; never an argument, a key, or the text of an exception, which may hold either.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as contexts, trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sstream.errors import RPCError
from sstream.logs import session_name
from sstream.rpc.trace import traceparent
from sstream.version import __version__

__all__ = ["Tracer"]

_w3c = TraceContextTextMapPropagator()


class Tracer:
    """Makes the spans of one application, by whatever tracer provider is set when they begin."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("sstream", __version__)

    @contextmanager
    def call(self, method: str, handler: Any) -> Iterator[None]:
        """Around one call; its parent is what the caller sent as ``traceparent``, if anything."""
        sent = traceparent.get()
        parent = contexts.Context() if sent is None else _w3c.extract({"traceparent": sent}, contexts.Context())
        attributes = {"rpc.system": "sstream", "rpc.method": method, "sstream.socket": handler.id}
        with self._span(method, SpanKind.SERVER, attributes, parent) as span:
            # What is called or logged in here goes on from this span.
            token = traceparent.set(_header(span))
            try:
                yield
            except BaseException as error:
                if not isinstance(error, RPCError):
                    error.__dict__["sstream_trace"] = self.trace_of(span)
                raise
            finally:
                traceparent.reset(token)
                if (session := session_name(handler)) is not None:
                    span.set_attribute("sstream.session", session)

    def operation(self, where: str) -> Callable[[str], Any]:
        """What stands around the operations of a store or a broker."""
        return lambda name: self._span(f"{where} {name}", SpanKind.CLIENT, {"sstream.operation": name}, None)

    def page(self, method: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a page, and go on in it; `end_page` ends it."""
        # HTTPHeaders spell names as they like, a carrier is asked for small letters.
        carrier = {name.lower(): value for name, value in headers.items()}
        span = self._tracer.start_span(method, extract(carrier), SpanKind.SERVER)
        contexts.attach(trace.set_span_in_context(span))
        return span

    def trace_of(self, span: Span) -> str:
        """The id of the trace that a span belongs to."""
        return trace.format_trace_id(span.get_span_context().trace_id)

    def end_page(self, span: Span, handler: Any) -> None:
        """A page was answered."""
        name = type(handler).__name__
        span.update_name(f"{handler.request.method} {name}")
        span.set_attribute("http.request.method", handler.request.method)
        span.set_attribute("sstream.handler", name)
        span.set_attribute("http.response.status_code", handler.get_status())
        if (session := session_name(handler)) is not None:
            span.set_attribute("sstream.session", session)
        if handler.get_status() >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: dict[str, str], parent: contexts.Context | None
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR))
                if isinstance(error, RPCError):
                    span.set_attribute("rpc.sstream.code", error.code)
                else:
                    span.set_attribute("error.type", type(error).__name__)
                raise


def _header(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent")
