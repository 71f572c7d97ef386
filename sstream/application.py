"""Wires one process: sessions, remote calls and events on Tornado's application, and its life."""

import asyncio
import json
import logging
import mimetypes
import re
import socket
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from socket import AF_UNSPEC, AddressFamily
from typing import Any, Final

import redis.asyncio as aioredis
import tornado.options
import tornado.web
from tornado import autoreload
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.options import OptionParser
from tornado.routing import RuleRouter
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler

from sstream import settings as outside
from sstream.counters import Counters
from sstream.errors import ConfigurationError, StoreError
from sstream.handlers import RPCHandler, SessionMixin, is_origin, is_same_origin
from sstream.limits import Limits
from sstream.listening import ListeningSocket
from sstream.monitor import Monitor
from sstream.pubsub import Broker, ChannelOptions, Hub, MemoryBroker, Presence, PresenceOptions, Publisher, RedisBroker
from sstream.rpc.dispatch import drain_detached
from sstream.serving import loop_factory, serve_until_signal, urls_of
from sstream.session import cookie
from sstream.session.options import DEFAULT_SECRET, SessionOptions
from sstream.session.records import BadTicket
from sstream.session.redis import RedisStore
from sstream.session.sessions import Sessions
from sstream.session.store import MemoryStore, SessionStore
from sstream.watch import Watch
from sstream.websocket import flush_sockets

__all__ = ["Application"]

_log = logging.getLogger("sstream")

Redis = str | aioredis.Redis | aioredis.RedisCluster  # a URL, or a ready client

_IDLE_TIMEOUT: Final = 10.0  # seconds
_RETIRE_PAUSE: Final = 0.01  # seconds
_LOOK_PAUSE: Final = 0.02  # seconds between two looks whether the pages in flight are answered
_SHORTEST_SECRET: Final = 16  # characters
_FIRST_REQUEST: Final = 1.0  # seconds that a draining process waits for the request of who had just connected
_BACKLOG: Final = 1024  # connections that may wait to be accepted
_CLIENT: Final = Path(__file__).parent / "client"
_CLIENT_FILES: Final = {
    "client.js": "sstream.js",
    "client.d.ts": "sstream.d.ts",
    "vendor/msgpack.js": "vendor/msgpack.js",
}


class Application(tornado.web.Application):
    """A Tornado application with sessions, remote calls and events.

    What is not given is read from the environment (``SSTREAM_REDIS``, ``SSTREAM_SESSION_SECRET``, ...), then from
    ``tornado.options``; a keyword that is ``None`` counts as not given. An option of ``session`` and of ``limits``
    counts as given where it was named when that was made.

    Args:
        handlers: Tornado's routes.
        session: How sessions live, and their secret.
        redis: A URL or a ready ``redis.asyncio`` client: where sessions are kept and events travel. Without it
            everything is in this process's memory.
        store: Where sessions are kept, a `SessionStore` or a URL; instead of ``redis``.
        broker: How events travel, a `Broker` or a URL; instead of ``redis``.
        trusted_origins: Other origins whose pages may open websockets here, with their visitors' cookies:
            ``https://shop.example``.
        production: Refuse what is fit for development alone.
        debug: Tornado's debug mode: start anew when a file changes, show tracebacks to visitors.
        limits: What a socket, a message and a process may use.
        presence: How soon the users of a channel hear of who is gone; ``channel_options`` says which channels tell.
        watch: How it is watched: metrics, traces, fields of log lines, the inspector.
        clock: Unix time in seconds, where a test turns it (`sstream.testing.Clock`): what sessions, and memory's store
            and broker, go by. ``None`` is the machine's.
        settings: Any other setting of Tornado's.

    Raises:
        ConfigurationError: The settings cannot work, or must not be used in production.
    """

    def __init__(
        self,
        handlers: Any = None,
        default_host: str | None = None,
        transforms: Any = None,
        *,
        session: SessionOptions | None = None,
        redis: "Redis | None" = None,
        store: SessionStore | str | None = None,
        broker: Broker | str | None = None,
        trusted_origins: Sequence[str] | None = None,
        production: bool | None = None,
        debug: bool | None = None,
        limits: Limits | None = None,
        presence: PresenceOptions | None = None,
        watch: Watch | None = None,
        clock: Callable[[], float] | None = None,
        **settings: Any,
    ) -> None:
        outside.check_names(Application)
        options = outside.fill(session if session is not None else SessionOptions(), "SSTREAM_SESSION_")
        self.limits = outside.fill(limits if limits is not None else Limits(), "SSTREAM_LIMITS_")
        times = outside.fill(presence if presence is not None else PresenceOptions(), "SSTREAM_PRESENCE_")
        chosen = outside.choose(
            Application,
            redis=redis,
            # In code, redis= says more than what stands outside about one of the two.
            store=store if store is not None else redis,
            broker=broker if broker is not None else redis,
            trusted_origins=trusted_origins,
            production=production,
            debug=debug,
        )
        self.clock = clock
        self.production = bool(chosen["production"])
        settings["debug"] = bool(chosen["debug"])
        settings["trusted_origins"] = _check_origins(chosen["trusted_origins"] or ())
        self.store = _make_store(
            chosen["store"] if chosen["store"] is not None else chosen["redis"], self.limits, clock or time.time
        )
        self.broker = _make_broker(
            chosen["broker"] if chosen["broker"] is not None else chosen["redis"], self.limits, clock or time.monotonic
        )
        self.counters = Counters()
        watching = outside.fill(watch if watch is not None else Watch(), "SSTREAM_WATCH_")
        self.monitor = Monitor(self, watching, debug=settings["debug"])
        broker = self.monitor.broker(self.broker)
        self.sessions = Sessions(
            self.monitor.store(self.store),
            options,
            deadline=self.limits.store_deadline,
            max_channels=self.limits.channels,
            clock=clock or time.time,
            counts=self.counters.sessions,
        )
        self.hub = Hub(broker, channel_options=self.channel_options, flush=flush_sockets)
        self.presence = Presence(broker, self.hub, times)
        self.publish = Publisher(broker, channel_options=self.channel_options)
        self.sockets: dict[str, RPCHandler] = {}
        self._servers: list[HTTPServer] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._requests: weakref.WeakSet[HTTPServerRequest] = weakref.WeakSet()  # begun and not answered
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()  # all that were accepted
        self._fresh: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()  # those whose first request has not come yet
        self._started: asyncio.Future[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._activity_timer: asyncio.TimerHandle | None = None
        self.is_draining = False
        settings.setdefault("websocket_max_message_size", self.limits.message_size or 2**63)
        own = [
            (r"/_sstream/(client\.js|client\.d\.ts|vendor/msgpack\.js)", _ClientFile),
            (re.escape(options.ticket_path), _Ticket),
            (r"/_sstream/health/(live|ready)", _Health),
            *self.monitor.routes(),
        ]
        reloads = settings.pop("autoreload", bool(settings.get("debug")))
        super().__init__([*own, *(handlers or [])], default_host, transforms, autoreload=False, **settings)
        self.settings["autoreload"] = reloads  # begins with the loop that serves, and that need not run yet
        self._handlers = _rpc_handlers(self.default_router)
        self._check(options)

    def _check(self, options: SessionOptions) -> None:
        """Refuse or warn of what works and is insecure, or is likely a mistake."""
        production, debug = self.production, self.settings["debug"]
        if production and debug:
            raise ConfigurationError("debug=True shows tracebacks to visitors; leave it out in production")
        if DEFAULT_SECRET in options.secrets and production:
            raise ConfigurationError(
                "the session secret is the public default: anybody can forge a session; give "
                "SessionOptions(secret=...), or SSTREAM_SESSION_SECRET, a random text of your own"
            )
        if debug:
            return
        if DEFAULT_SECRET in options.secrets:
            _log.warning("the session secret is the public default: anybody can forge a session; set your own")
        elif production and min(map(len, options.secrets)) < _SHORTEST_SECRET:
            _log.warning("a session secret is shorter than %d characters: it may be guessed", _SHORTEST_SECRET)
        if isinstance(self.store, MemoryStore):
            _log.warning("sessions are kept in memory: they end with this process, and no other process sees them")
        elif isinstance(self.store, RedisStore) and isinstance(self.broker, MemoryBroker):
            _log.warning("sessions are shared with other processes, and events are not: give redis=, or broker= too")
        if production and options.secure is False:
            _log.warning('secure=False sends the session\'s cookie over plain http; give secure=True or "auto"')
        for handler in self._handlers:
            if _trusts_everybody(handler):
                _log.warning(
                    "%s.check_origin lets every site in: any page can call it with its visitor's session; "
                    "name those you trust, trusted_origins=[...]",
                    handler.__name__,
                )

    @staticmethod
    def define_options(parser: OptionParser = tornado.options.options) -> None:
        """Let ``tornado.options`` know every setting, so that the command line may say ``--sstream-limits-drain=60``.

        They are written there as in the environment, which comes first.
        """
        outside.define(Application, parser)

    def listen(
        self,
        port: int,
        address: str | None = None,
        *,
        family: AddressFamily = AF_UNSPEC,
        backlog: int = _BACKLOG,
        flags: int | None = None,
        reuse_port: bool = False,
        **kwargs: Any,
    ) -> HTTPServer:
        """Start an HTTP server for this application, as Tornado's method does; `close` stops it.

        A connection that is idle, or whose request headers do not come to an end, is dropped after 10 seconds instead
        of Tornado's hour; ``idle_connection_timeout=`` says otherwise.
        """
        return self.listen_on(bind_sockets(port, address or "", family, backlog, flags, reuse_port), **kwargs)

    def listen_on(self, sockets: Iterable[socket.socket], **kwargs: Any) -> HTTPServer:
        """Like `listen`, on sockets that listen already; they are used up. Several processes may share one."""
        kwargs.setdefault("idle_connection_timeout", _IDLE_TIMEOUT)
        server = HTTPServer(self, **kwargs)
        server.add_sockets([ListeningSocket.of(plain) for plain in sockets])
        self._servers.append(server)
        IOLoop.current().add_callback(self._begin)  # the loop need not run yet
        return server

    def _begin(self) -> None:
        if self._closed:
            return  # before the loop came to it
        self._start_once()
        if self.settings["autoreload"]:
            autoreload.start()

    async def serve(self, port: int | None = None, address: str | None = None, **options: Any) -> None:
        """Serve until SIGTERM or SIGINT comes, answer what is in flight, and close.

        A second signal ends the process at once; the log says what was cut.

        Args:
            port: Where to `listen`, with the address and the options; ``None``: it listens already.
        """
        if port is not None:
            self.listen(port, address, **options)
        await serve_until_signal(self)

    def run(self, port: int = 8888, address: str | None = "localhost", *, loop: str = "auto", **options: Any) -> None:
        """`serve` in an event loop of its own, and say where: the last line of a program.

        ``python -m sstream run module:app`` does it with several processes.

        Args:
            address: ``None`` is every address of this machine.
            loop: "asyncio", "uvloop", or uvloop where it is installed.
        """

        async def listen_and_serve() -> None:
            sockets = bind_sockets(port, address or "", backlog=_BACKLOG)
            where = urls_of(sockets, "https" if options.get("ssl_options") else "http")
            self.listen_on(sockets, **options)
            print(f"Listening on {where}; Ctrl-C ends it.", file=sys.stderr, flush=True)  # noqa: T201 - a program's word
            await self.serve()

        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(listen_and_serve())

    def channel_options(self, channel: str) -> ChannelOptions:
        """What a channel keeps: the first that an `RPCHandler` of this application says, in the order of the routes.

        Raises:
            ConfigurationError: A handler's hook raised, or gave something else.
        """
        for handler in self._handlers:
            hook = f"{handler.__name__}.channel_options({channel!r})"
            try:
                options = handler.channel_options(channel)
            except Exception as error:
                raise ConfigurationError(f"{hook} failed: {error}") from error
            if isinstance(options, ChannelOptions):
                return options
            if options is not None:
                raise ConfigurationError(f"{hook} gave {options!r}; legal are ChannelOptions and None")
        return ChannelOptions()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        # Tornado calls it when it begins to wait for a request: the first of a connection, or a further one.
        if server_conn not in self._connections:
            self._connections.add(server_conn)
            self._fresh.add(request_conn)
        return super().start_request(server_conn, request_conn)

    def watch_activity(self) -> None:
        """Let the sockets' calls touch their sessions: of each socket the first in every ``touch_interval``."""
        if self._activity_timer is None and self.clock is None and not self._closed:
            # One timer for all, so that a call need not look at the clock.
            interval = self.sessions.options.touch_interval
            self._activity_timer = asyncio.get_running_loop().call_later(interval, self._expect_activity)

    def _expect_activity(self) -> None:
        self._activity_timer = None
        for handler in self.sockets.values():
            handler.expect_activity()
        if self.sockets:
            self.watch_activity()

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        if request.connection is not None:
            self._fresh.discard(request.connection)
        self._requests.add(request)
        delegate = super().find_handler(request, **kwargs)
        self.monitor.enter(request, delegate)
        return delegate

    def log_request(self, handler: tornado.web.RequestHandler) -> None:
        self._requests.discard(handler.request)
        pages, status = self.counters.pages, handler.get_status()
        pages[status] = pages.get(status, 0) + 1
        self.counters.page_times.observe(handler.request.request_time())
        self.monitor.leave(handler)
        super().log_request(handler)

    # --- its life -----------------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Does it take visitors in: not going down?"""
        return not self._closed and not self.is_draining

    async def can_serve(self) -> bool:
        """Does it take visitors in, and do store and broker answer?"""
        if not self.is_ready or not getattr(self.broker, "connected", True):
            return False
        try:
            await self.store.ttl("sstream:health")
        except StoreError:
            return False
        return True

    async def start(self) -> None:
        """Connect to the store and the broker. One that cannot be reached is tried again until it can."""
        await asyncio.shield(self._start_once())

    def _start_once(self) -> "asyncio.Future[Any]":
        # A task of its own: who gives up waiting does not end it for the others, and if it fails all of them hear it.
        if self._started is None:
            self._started = self.spawn(self._start(), "the start")
        return self._started

    async def _start(self) -> None:
        await self.store.start()
        await self.hub.start()
        await self.presence.start()
        self.monitor.start()

    async def drain(self) -> None:
        """Go down gently: take nobody in, answer the calls in flight, close every socket with 1012, a few at a time.

        It ends when all are gone, or after ``Limits.drain`` seconds, with a warning that says what was cut. `close`
        follows.
        """
        self.is_draining = True
        for server in self._servers:
            server.stop()
        limit = self.limits.drain
        sockets = list(self.sockets.values())
        try:
            async with asyncio.timeout(limit):
                # A hundred a second, so that they do not all come back at once; of many, all within half of the time,
                # so that the last ones still have time for their calls.
                pause = _RETIRE_PAUSE if limit is None else min(_RETIRE_PAUSE, limit / 2 / max(len(sockets), 1))
                async with asyncio.TaskGroup() as group:
                    for handler in sockets:
                        group.create_task(handler.retire())
                        await asyncio.sleep(pause)
                await drain_detached()
                patience = asyncio.get_running_loop().time() + _FIRST_REQUEST
                while self._has_pages(patience):  # noqa: ASYNC110 - see _has_left
                    await asyncio.sleep(_LOOK_PAUSE)
        except TimeoutError:
            _log.warning("after %s s the drain ends and cuts %s", limit, self.in_flight)

    def _has_pages(self, patience: float) -> bool:
        """Is a request unanswered, or may one still come on a connection that was accepted a moment ago?"""
        if any(not _has_left(request.connection) for request in list(self._requests)):
            return True
        is_patient = asyncio.get_running_loop().time() < patience
        return is_patient and any(not _has_left(connection) for connection in list(self._fresh))

    @property
    def in_flight(self) -> str:
        """What an end at once would cut, in words: ``2 calls, 1 page, 7 sockets``."""
        calls = sum(handler.calls_in_flight for handler in self.sockets.values())
        pages = sum(not _has_left(request.connection) for request in list(self._requests))
        counts = {"call": calls, "page": pages, "socket": len(self.sockets)}
        return ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())

    async def close(self) -> None:
        """Stop listening, close every socket with 1001 and let go of store and broker. Safe to call twice."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._closed = True
        for server in self._servers:
            server.stop()
        for handler in list(self.sockets.values()):
            handler.close(1001, "going away")
        for server in self._servers:
            await server.close_all_connections()
        self._servers.clear()
        if self._activity_timer is not None:
            self._activity_timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.monitor.close()
        await self.sessions.close()
        await self.presence.close()
        await self.hub.close()
        await self.broker.close()
        await self.store.close()

    def spawn(self, work: Awaitable[Any], what: str = "a background task") -> "asyncio.Future[Any]":
        """Run a coroutine beside everything else; what it raises is logged, and `close` ends it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def reap(task: "asyncio.Future[Any]") -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s failed", what, exc_info=error)

        task.add_done_callback(reap)
        return task


def _has_left(connection: HTTPConnection | None) -> bool:
    # A visitor who leaves is announced to nobody but a handler that asks, so this is looked at again and again.
    stream = getattr(connection, "stream", None)
    return stream is None or stream.closed()


def _trusts_everybody(handler: type[RPCHandler]) -> bool:
    if handler.check_origin is WebSocketHandler.check_origin:
        return False
    try:
        return bool(handler.check_origin(handler.__new__(handler), "https://somebody.invalid"))
    except Exception:
        return False  # it looks at more than the origin, at its request most likely, which is not there yet


def _rpc_handlers(router: Any) -> list[type[RPCHandler]]:
    found = []
    for rule in router.rules:
        if isinstance(rule.target, RuleRouter):
            found += _rpc_handlers(rule.target)
        elif isinstance(rule.target, type) and issubclass(rule.target, RPCHandler):
            found.append(rule.target)
    return found


def _make_store(store: "SessionStore | Redis | None", limits: Limits, clock: Callable[[], float]) -> SessionStore:
    if store is None:
        return MemoryStore(clock=clock)
    if isinstance(store, str | aioredis.Redis | aioredis.RedisCluster):
        return RedisStore(store, deadline=limits.store_deadline)
    # A handle of its own for each application, so that two on one store hear of each other.
    if isinstance(store, MemoryStore):
        return store.share()
    if not isinstance(store, SessionStore):
        raise ConfigurationError(
            f"store is a {type(store).__name__}; legal are a URL, a redis.asyncio client, a SessionStore"
        )
    return store


def _make_broker(broker: "Broker | Redis | None", limits: Limits, clock: Callable[[], float]) -> Broker:
    if broker is None:
        return MemoryBroker(clock=clock)
    if isinstance(broker, str | aioredis.Redis | aioredis.RedisCluster):
        return RedisBroker(broker, deadline=limits.store_deadline)
    if not all(hasattr(broker, method) for method in ("subscribe", "publish", "history")):
        raise ConfigurationError(
            f"broker is a {type(broker).__name__}; legal are a URL, a redis.asyncio client, a Broker"
        )
    return broker


def _check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    if isinstance(origins, str):
        raise ConfigurationError(f"trusted_origins={origins!r} is one text; give a list of texts")
    for origin in origins:
        if not is_origin(origin):
            why = "would let every site's pages act for their visitors" if origin == "*" else "is no origin"
            raise ConfigurationError(
                f"trusted_origins: {origin!r} {why}; legal are a scheme, a host and perhaps a port, https://shop.example"
            )
    return tuple(origins)


class _ClientFile(tornado.web.RequestHandler):
    """The browser client."""

    def get(self, name: str) -> None:
        content = (_CLIENT / _CLIENT_FILES[name]).read_bytes()
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")  # asked for anew each time, answered 304 by its Etag
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(content)

    head = get


class _Ticket(SessionMixin, tornado.web.RequestHandler):
    """Trades a ticket that a websocket handed out for the session's new cookie."""

    _MAX_BODY: Final = 1024  # bytes

    def check_xsrf_cookie(self) -> None:
        # A JSON body is never sent across sites without asking first, and the ticket is the client's proof.
        pass

    async def prepare(self) -> None:
        # The session is not loaded: which one the cookie names is decided below.
        self._sent_sid = self._sessions.sid_of("; ".join(self.request.headers.get_list("Cookie")))

    async def post(self) -> None:
        try:
            session = await self._sessions.trade(self._read_ticket(), self._sent_sid)
        except BadTicket:
            self.set_status(403)
            self.finish()
            return
        except StoreError as error:
            raise HTTPError(503, "a ticket could not be traded: %s", error) from error
        if session is not None and (not session.cookie.get("secure") or self._is_https()):
            value, fields = self._sessions.cookie_value(session), self._sessions.cookie_fields(session)
            self.add_header("Set-Cookie", cookie.serialize(self._sessions.options.name, value, fields))
        self.set_header("Cache-Control", "no-store")
        self.set_status(204)
        self.finish()

    def _read_ticket(self) -> str:
        request = self.request
        is_json = request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
        if not is_json or len(request.body) > self._MAX_BODY:
            raise BadTicket
        from_browser = "Sec-Fetch-Site" in request.headers or "Origin" in request.headers
        if from_browser and not is_same_origin(self._is_https(), request.host, request.headers):
            raise BadTicket
        try:
            body = json.loads(request.body)
        except (ValueError, RecursionError):
            raise BadTicket from None
        ticket = body.get("ticket") if isinstance(body, dict) else None
        if not isinstance(ticket, str):
            raise BadTicket
        return ticket


class _Health(tornado.web.RequestHandler):
    """Is the process alive; can it take visitors?"""

    application: Application

    async def get(self, question: str) -> None:
        well = question == "live" or await self.application.can_serve()
        self.set_status(200 if well else 503)
        self.set_header("Cache-Control", "no-store")
        self.finish({"status": "ok" if well else "unavailable"})

    head = get
