"""Watches one application as far as its `Watch` asks for it: borders counted, the loop's lag measured, pages added."""

import asyncio
import contextvars
import errno
import importlib
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import tornado.web
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest

from sstream.boundaries import CountedBroker, CountedStore
from sstream.errors import ConfigurationError
from sstream.inspector import Inspector
from sstream.logs import Scope, scope
from sstream.pubsub import Broker
from sstream.session.store import SessionStore
from sstream.watch import Watch

if TYPE_CHECKING:
    from sstream.application import Application

__all__ = ["Monitor"]

_TICK: Final = 0.5  # seconds
_PORTS: Final = 64  # as many processes on one machine can be scraped


class Monitor:
    """What watches one application; `start` and `close` come with the application's own."""

    def __init__(self, application: "Application", watch: Watch, *, debug: bool) -> None:
        self._application = application
        self._watch = watch
        self._inspector = Inspector(application, watch.inspector) if watch.inspector is not None or debug else None
        self._is_on = self._serves_metrics or watch.tracing
        # Packages that need not be there are looked for where they are asked for, and nowhere else.
        self._metrics = _load("metrics", "sstream[metrics]") if self._serves_metrics else None
        self._collector = self._metrics.Collector(application) if self._metrics is not None else None
        self._tracer = _load("tracing", "opentelemetry-api").Tracer() if watch.tracing else None
        self._pages: weakref.WeakKeyDictionary[HTTPServerRequest, Any] = weakref.WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._servers: list[HTTPServer] = []
        if watch.tracing or watch.log_fields:
            application.counters.calls.around = self._around

    @property
    def _serves_metrics(self) -> bool:
        return self._watch.serves_metrics or self._watch.metrics_port is not None

    def store(self, store: SessionStore) -> SessionStore:
        """The store that the application is to use."""
        span = self._tracer.operation("store") if self._tracer is not None else None
        return CountedStore(store, self._application.counters.store, span) if self._is_on else store

    def broker(self, broker: Broker) -> Broker:
        """The broker that the application is to use."""
        span = self._tracer.operation("broker") if self._tracer is not None else None
        return CountedBroker(broker, self._application.counters.broker, span) if self._is_on else broker

    def routes(self) -> list[Any]:
        """The pages that are switched on."""
        routes: list[Any] = []
        if self._metrics is not None and self._watch.serves_metrics:
            arguments = {"collector": self._collector, "watch": self._watch}
            routes.append((r"/_sstream/metrics", self._metrics.MetricsPage, arguments))
        if self._inspector is not None:
            routes += self._inspector.routes()
        return routes

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to measure, and to listen."""
        self._loop = asyncio.get_running_loop()
        if self._watch.metrics_port is not None:
            self._listen_near(self._watch.metrics_port)
        self._measure()

    def _measure(self) -> None:
        if self._is_on and self._loop is not None and self._timer is None:
            self._wind(self._loop)

    def _listen_near(self, first: int) -> None:
        """Listen at the first port that is free: of several processes on a machine each gets one."""
        for port in range(first, first + _PORTS):
            try:
                self.listen(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return
        raise ConfigurationError(f"metrics_port={first}: {_PORTS} ports from there on are taken")

    def listen(self, port: int, address: str = "127.0.0.1") -> HTTPServer:
        """Serve the metrics of this process at a port of their own, to everybody who can reach it.

        How long store and broker take is measured only where the `Watch` asks for metrics or tracing: they are made
        with the application.
        """
        if self._metrics is None:
            self._metrics = _load("metrics", "sstream[metrics]")
            self._collector = self._metrics.Collector(self._application)
        page = (r"/_sstream/metrics", self._metrics.MetricsPage, {"collector": self._collector})
        listening = socket.create_server((address, port))
        listening.setblocking(False)
        server = HTTPServer(tornado.web.Application([page], log_function=_quietly))
        server.add_socket(listening)
        self._servers.append(server)
        self._is_on = True
        self._measure()
        return server

    async def close(self) -> None:
        """Measure no more, and listen no more."""
        for server in self._servers:
            server.stop()
            await server.close_all_connections()
        self._servers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop = None

    def _wind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_at(loop.time() + _TICK, self._tick, loop, loop.time() + _TICK)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        counters = self._application.counters
        counters.lag.observe(max(loop.time() - due, 0.0))
        counters.calls.time_next()
        self._wind(loop)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def enter(self, request: HTTPServerRequest, delegate: Any) -> None:
        """Let a page run in a context of its own, where it can be told which it is."""
        # What is no handler of Tornado's, a function for instance, has nothing to be told by.
        execute = getattr(delegate, "execute", None)
        if execute is None or not (self._watch.tracing or self._watch.log_fields):
            return

        def run() -> Any:
            method, trace = request.method or "", None
            if self._tracer is not None:
                span = self._pages[request] = self._tracer.page(method, request.headers)
                trace = self._tracer.trace_of(span)
            # Weakly: a context may be kept for long, by a task or a socket that was begun in it.
            page = weakref.ref(delegate)
            running = Scope(lambda: getattr(page(), "handler", None), method, trace)
            scope.set(running)
            result = execute()
            running.handler = weakref.ref(delegate.handler)
            return result

        delegate.execute = lambda: contextvars.copy_context().run(run)

    def leave(self, handler: tornado.web.RequestHandler) -> None:
        """A page was answered."""
        span = self._pages.pop(handler.request, None)
        if span is not None and self._tracer is not None:
            self._tracer.end_page(span, handler)

    def _around(self, method: str, invoke: Callable[..., Any], is_coroutine: bool) -> Callable[..., Any]:
        if not is_coroutine:

            def call(target: Any, *arguments: Any) -> Any:
                with self._running(method, target):
                    return invoke(target, *arguments)

            return call

        async def wait(target: Any, *arguments: Any) -> Any:
            with self._running(method, target):
                return await invoke(target, *arguments)

        return wait

    @contextmanager
    def _running(self, method: str, target: Any) -> Iterator[None]:
        # A handler itself; an action group or a request, which know theirs.
        handler = getattr(target, "handler", target)
        token = scope.set(Scope(weakref.ref(handler), method))
        try:
            with ExitStack() as stack:
                if self._tracer is not None:
                    stack.enter_context(self._tracer.call(method, handler))
                yield
        finally:
            scope.reset(token)


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(f"sstream.{module}")
    except ImportError as error:
        raise ConfigurationError(f"Watch asks for {module}, which wants more: pip install '{package}'") from error


def _quietly(handler: tornado.web.RequestHandler) -> None:
    """A scrape every few seconds is nothing to be told."""
