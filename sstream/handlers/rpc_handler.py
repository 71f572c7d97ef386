"""A websocket with remote calls, its session and events: Tornado's hooks, and what stands behind them."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from http.client import responses
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from tornado.httputil import HTTPServerRequest
from tornado.util import ObjectDict
from tornado.web import HTTPError, _UIModuleNamespace
from tornado.websocket import WebSocketHandler

from sstream.errors import (
    FORBIDDEN,
    INVALID_PARAMS,
    TOO_MANY,
    UNAVAILABLE,
    BrokerError,
    ConfigurationError,
    RPCError,
    SessionGone,
    StoreError,
)
from sstream.handlers.origin import is_origin, is_same_origin
from sstream.handlers.session_mixin import SessionMixin
from sstream.pubsub import Burst, ChannelOptions, Message, Position, Present, Publisher
from sstream.pubsub.topics import ALL, channel_of, channel_topic, socket_topic, user_topic
from sstream.rpc.codec import CODECS, MSGPACK, Codec
from sstream.rpc.dispatch import Calls
from sstream.rpc.middleware import Middleware
from sstream.rpc.registry import Actions, Registry, rpc
from sstream.session.session import CHANNELS, USER_ID, Session, is_user_id
from sstream.websocket import Connection, SharedFrame, websocket_protocol

if TYPE_CHECKING:
    from sstream.application import Application

__all__ = ["RPCHandler"]

_log = logging.getLogger("sstream")

TOO_FAST = 4429
_LAST_REPLIES = 1.0  # seconds that calls in flight get when their session has ended
_NO_TOPICS: frozenset[str] = frozenset()
# What an open websocket has no use for.
_PAGES_ONLY = frozenset({"finish", "flush", "redirect", "set_cookie", "set_header", "set_status", "write"})
# Of a socket's attributes: "open" hides the subclass' own.
_HANDSHAKE_ONLY = _PAGES_ONLY | {
    "open",
    "open_args",
    "open_kwargs",
    "session_now",
    "ui",
    "_headers",
    "_sent_sid",
    "_transforms",
    "_write_buffer",
}
_EMPTY_IF_ABSENT = frozenset({"path_args", "path_kwargs"})


class _UntilOpen:
    """A method of Tornado's that a websocket has only until it is open.

    Tornado 6.5 and 6.6.1 hide these in each handler by itself: a dict of 0.2 KB, of which nothing else may be left.
    """

    __slots__ = ("_method",)

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def __get__(self, handler: "RPCHandler | None", owner: type) -> Any:
        if handler is None:
            return self._method
        return MethodType(self._method, handler) if handler._calls is None else _refuse


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("Method not supported for Web Sockets")


class RPCHandler(SessionMixin, WebSocketHandler):
    """A websocket whose ``@rpc`` methods the browser may call.

    A call loads no session unless it asks for it: by ``middleware = [load_session]`` on the class or on a group of
    `Actions`, or by ``@rpc(use=[load_session])`` on a method. Tornado's own hooks (``open``, ``on_close``,
    ``check_origin``, ...) stay for the subclass.

    Attributes:
        middleware: Stands around every method, the first outermost.
        actions: Groups of methods by the name they are mounted under.
        id: The socket's id, public, in logs and as ``publish.socket``'s target.
    """

    middleware: ClassVar[Sequence[Middleware]] = ()
    actions: ClassVar[Mapping[str, type[Actions]]] = {}
    registry: ClassVar[Registry]

    # What every socket has. The rest is in its dict, which is empty if the subclass adds nothing: 0.2 KB less.
    __slots__ = (
        "_calls",
        "_connection_session",
        "_prepared",
        "_send",
        "_touch_at",
        "application",
        "id",
        "request",
        "ws_connection",
    )

    _calls: Calls | None
    _send: Callable[[bytes | str], None]
    ws_connection: Connection | None  # what `get_websocket_protocol` gives
    _codec: Codec = MSGPACK
    _clock: Callable[[], float] = time.monotonic
    _sent_view: bytes | str | None = None
    # What became of the session while `prepare` was still at work, and is told when the socket is open.
    _early_tickets: tuple[str, ...] = ()
    _early_end: str | None = None
    # What this socket is bound to for its session's sake, and for its own.
    _session_topics = _NO_TOPICS
    _own_topics = _NO_TOPICS

    # What Tornado sets for every request, as it is once a socket is open: there it stands here alone.
    close_code = None
    close_reason = None
    _auto_finish = True
    _finished = True
    _headers_written = True
    _on_close_called = False
    _prepared_future = None
    _reason = responses[101]
    _status_code = 101

    def __init__(self, application: "Application", request: HTTPServerRequest, **kwargs: Any) -> None:
        self._calls = None
        self._connection_session = None
        self._prepared = False
        super().__init__(application, request, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Here, so that whatever is wrong with a method is told when its class is made.
        cls.registry = Registry.of(cls)

    # --- for who watches ----------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that wait because the browser does not read."""
        connection = self.ws_connection
        return connection.queued if connection is not None else 0

    @property
    def stored_session(self) -> Session | None:
        """The session as it is stored, without what a call that is running has changed in it; ``None`` without one."""
        connection = self._connection_session
        if connection is None or not connection.is_loaded or connection.session.is_new:
            return None
        return connection.stored()

    # --- for the subclass ---------------------------------------------------------------------------------------------

    @property
    def publish(self) -> Publisher:
        """The publisher: ``all``, ``user``, ``channel``, ``socket``."""
        return self.application.publish

    async def subscribe(self, *channels: str) -> None:
        """Subscribe this socket alone; ``session.channels.subscribe`` is for all sockets of the session.

        A socket that has closed meanwhile hears nothing any more, and that is no error.
        """
        topics = [channel_topic(name) for name in channels]
        self._check_channels(topics)
        with self._claiming(*topics):
            await self._bind(*topics)
        await self._enter(*channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Take back `subscribe`. What the session is subscribed to stays."""
        topics = {channel_topic(name): name for name in channels}
        self._own_topics -= topics.keys()
        await self.application.hub.unbind(self, *(topics.keys() - self._session_topics))
        for topic, name in topics.items():
            if topic not in self._session_topics:
                await self.application.presence.leave(self, name)

    async def presence(self, channel: str) -> list[Present]:
        """Who is in a channel that keeps presence (`channel_options`), on all processes, each user once."""
        return await self.application.presence.list(channel)

    def presence_about(self, channel: str) -> Mapping[str, Any]:
        """What the others in a channel may know of this socket's user beside the id; at most 1 KiB."""
        return {}

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a function that the browser exposes, and get its result.

        Args:
            timeout: Seconds to wait, if not ``Limits.call_timeout``.

        Raises:
            RPCError: What the browser answered; 4000, it did not in time; 4050, the socket is closed.
        """
        if self._calls is None:
            raise RPCError(UNAVAILABLE, "the socket is not open")
        return await self._calls.call(method, *params, timeout=timeout)

    def may_subscribe(self, channel: str) -> bool | Awaitable[bool]:
        """May the browser subscribe to this channel by itself? No, unless a subclass says so."""
        return False

    def may_publish(self, channel: str) -> bool | Awaitable[bool]:
        """May the browser publish to this channel by itself? No, unless a subclass says so."""
        return False

    def session_view(self) -> dict[str, Any] | None:
        """What the browser may see of ``self.session``; pushed as the event ``session`` on open and on change."""
        return None

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions | None:
        """What a channel keeps: history, presence. ``None`` leaves it to other handlers.

        It must say the same on every process.
        """
        return None

    # --- what the browser's client calls by itself --------------------------------------------------------------------

    @rpc(name="sstream.subscribe")
    async def _subscribe(self, channel: str, since: "_Since | None" = None) -> dict[str, Any]:
        """Subscribe this socket to a channel, with what it missed ``since`` a position it remembers."""
        topic = _client_topic(channel)
        allowed = self.may_subscribe(channel)
        if not (allowed if isinstance(allowed, bool) else await allowed):
            raise RPCError(FORBIDDEN, f"the channel {channel!r} is not open to you")
        self._check_channels([topic])
        if not self._is_joined:
            raise RPCError(UNAVAILABLE, "the socket is closed")
        position = None if since is None else Position(since.offset, since.epoch)
        with self._claiming(topic):
            recovery = await self.application.hub.follow(self, topic, position)
        await self._enter(channel)
        if recovery.position is None:
            return {}
        # What was missed has left before this reply, as events.
        offset, epoch = recovery.position
        return {"offset": offset, "epoch": epoch, "recovered": recovery.recovered, "missed": []}

    @rpc(name="sstream.publish")
    async def _publish(self, channel: str, event: str, *args: Any) -> None:
        """Publish an event to a channel."""
        _client_topic(channel)
        allowed = self.may_publish(channel)
        if not (allowed if isinstance(allowed, bool) else await allowed):
            raise RPCError(FORBIDDEN, f"you may not publish to the channel {channel!r}")
        try:
            await self.publish.channel(channel, event, *args)
        except (TypeError, ValueError) as error:
            raise RPCError(INVALID_PARAMS, str(error)) from error

    @rpc(name="sstream.presence")
    async def _presence(self, channel: str) -> list[dict[str, Any]]:
        """Who is in a channel that this socket is subscribed to."""
        if _client_topic(channel) not in self.application.hub.topics_of(self):
            raise RPCError(FORBIDDEN, f"subscribe to the channel {channel!r} to see who is there")
        return [{"user": present.user, "about": present.about} for present in await self.presence(channel)]

    @rpc(name="sstream.unsubscribe")
    async def _unsubscribe(self, channel: str) -> None:
        """Unsubscribe this socket from a channel."""
        _client_topic(channel)
        await self.unsubscribe(channel)

    # --- the socket's life --------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        self.id = secrets.token_hex(8)
        if self.application.is_draining:
            raise HTTPError(503, reason="Going Down")
        self._check_origin()
        await super().prepare()
        # Tornado calls `open` when the handshake is done. A subclass need not call ours from its own.
        vars(self)["open"] = self._open_socket

    def _check_origin(self) -> None:
        """Refuse other origins, more strictly than Tornado, which does not compare the scheme.

        Who overrides ``check_origin``, or names ``trusted_origins``, has decided by himself.
        """
        headers = self.request.headers
        origin = headers.get("Origin", headers.get("Sec-Websocket-Origin"))
        if origin is None or is_same_origin(self._is_https(), self.request.host, headers):
            return
        is_decided = type(self).check_origin is not WebSocketHandler.check_origin
        if not is_origin(origin) or not (is_decided or origin in self.settings.get("trusted_origins", ())):
            raise HTTPError(403, reason="Cross-origin websocket refused")

    async def get(self, *args: Any, **kwargs: Any) -> None:
        await super().get(*args, **kwargs)
        if self._calls is None:
            self._close_session()  # the client left before it was answered: nobody else will tell

    def get_websocket_protocol(self) -> Connection | None:
        return websocket_protocol(self, self.application.limits)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        for name in subprotocols:
            if name in CODECS:
                self._codec = CODECS[name]
                return self._codec.subprotocol  # the same text for all sockets
        return None

    def _open_socket(self, *args: str, **kwargs: str) -> Awaitable[None] | None:
        application = self.application
        if application.clock is not None:
            self._clock = application.clock
        self._touch_at = self._clock() + application.sessions.options.touch_interval
        connection = self.ws_connection
        assert connection is not None
        if (session := self._connection_session) is not None:
            # Straight to where it is done: 0.1 us less for each call that reads its session.
            vars(self)["session_now"] = session.now
        self._send = send = connection.send
        self._calls = Calls(
            self,
            self.registry,
            self._codec,
            application.limits,
            send,
            reader=connection,
            counts=application.counters.calls,
        )
        application.counters.sockets.opened += 1
        self._shorten()
        application.sockets[self.id] = self
        application.watch_activity()
        self._bind_session()
        application.hub.join(self, ALL, socket_topic(self.id))
        for ticket in self._early_tickets:
            self.session_offered(ticket)
        if self._early_end is not None:
            self.session_ended(self._early_end)
        self._early_tickets, self._early_end = (), None
        self._forget_handshake()
        if application.is_draining:
            # Since `prepare`: the drain has not seen this socket, and would not wait for its calls.
            self.close(1012, "restart")
            return None
        if self._is_one_too_many():
            self.close(TOO_FAST, "too many sockets of one session")
            return None
        return self._after_open(self.open(*args, **kwargs))

    def _forget_handshake(self) -> None:
        """Drop what nobody needs from here on, and what is as the class says: 0.8 KB less for each socket."""
        of_class = vars(RPCHandler)
        # A new one: the old one has room for all that was in it.
        self.__dict__ = {
            name: value
            for name, value in vars(self).items()
            if name not in _HANDSHAKE_ONLY
            and (name not in of_class or not (value is of_class[name] or name in _EMPTY_IF_ABSENT and not value))
        }

    @cached_property
    def path_args(self) -> list[str]:  # type: ignore[override]  # Tornado sets it; what is empty is made when asked for
        return []

    @cached_property
    def path_kwargs(self) -> dict[str, str]:  # type: ignore[override]  # likewise
        return {}

    @cached_property
    def ui(self) -> ObjectDict:  # type: ignore[override]  # Tornado sets it when the request comes
        """What templates see of the application, made anew as Tornado 6.5 and 6.6.1 make it, when one is rendered."""
        methods, modules = self.application.ui_methods, self.application.ui_modules
        ui = ObjectDict({name: self._ui_method(method) for name, method in methods.items()})
        ui["modules"] = ui["_tt_modules"] = _UIModuleNamespace(self, modules)
        return ui

    async def _after_open(self, opened: Awaitable[None] | None) -> None:
        # Whatever is published when the browser hears from us reaches it. If the broker is away, the socket is told of
        # the gap later.
        with contextlib.suppress(BrokerError):
            await self.application.hub.acknowledged(self)
        if opened is not None:
            await opened
        self._push_view()

    def on_message(self, message: str | bytes) -> None:
        if self._calls is None:
            return
        if self._clock() >= self._touch_at and not _is_ping(message):
            self._touch_session()
            self._shorten()
        self._calls.receive(message)

    def _shorten(self) -> None:
        # Until the application asks whether anybody is there, straight to the dispatcher: 0.15 us less for each call.
        # Not where a subclass has a say, or a test turns the clock.
        if self._calls is None or self.ws_connection is None or self.application.clock is not None:
            return
        if type(self).on_message is RPCHandler.on_message:
            self.ws_connection.receiver = self._calls.receive

    def expect_activity(self) -> None:
        """The next call is activity of the session: its idle time begins anew."""
        self._touch_at = 0.0
        if self.ws_connection is not None:
            self.ws_connection.receiver = None

    def _touch_session(self) -> None:
        """A call is activity: the session's idle time begins anew, though not more often than matters."""
        self._touch_at = self._clock() + self._sessions.options.touch_interval
        connection = self._connection_session
        if connection is not None and connection.is_loaded and not connection.session.is_new:
            self.application.spawn(self._touch(connection.session))

    async def _touch(self, session: Session) -> None:
        # A store that is away is told so by whatever needs it; the next call touches again.
        with contextlib.suppress(StoreError, SessionGone):
            await session.touch()

    @property
    def calls_in_flight(self) -> int:
        """How many calls of this socket are not answered yet."""
        return self._calls.in_flight if self._calls is not None else 0

    async def retire(self) -> None:
        """Answer the calls in flight and close with 1012: the process restarts, the client comes back."""
        if self._calls is not None:
            self._calls.wind_down()
            await self._calls.drain()
        self.close(1012, "restart")

    def on_connection_close(self) -> None:
        if self._calls is not None:
            self._calls.close()
            self.application.presence.drop(self)
            self.application.hub.drop(self)
            self.application.sockets.pop(self.id, None)
            self.application.counters.sockets.close(self.close_code)
            # So they go at once: 16 objects of each socket waited for the garbage collector, whose passes take 0.1 s
            # when thousands are lost and come back.
            self._calls.release()
            self._send = _nowhere
        super().on_connection_close()

    # --- events -------------------------------------------------------------------------------------------------------

    def deliver(self, message: Message) -> None:
        """Send a finished event to the browser; called by the hub."""
        if not self._codec.binary:
            self._send(message.text)
            return
        if message.frame is None:
            message.frame = SharedFrame(message.payload)
        connection = self.ws_connection
        if connection is not None:  # else it is closed
            connection.send_shared(message.frame)

    def deliver_all(self, burst: Burst) -> None:
        """Send several finished events to the browser; called by the hub."""
        if not self._codec.binary or type(self).deliver is not RPCHandler.deliver:
            for message in burst.messages:
                self.deliver(message)
            return
        if burst.frame is None:
            burst.frame = SharedFrame(*(message.payload for message in burst.messages))
        connection = self.ws_connection
        if connection is not None:
            connection.send_shared(burst.frame)

    def _tell(self, event: str, *args: Any) -> None:
        self._send(self._codec.encode((2, event, args)))

    def _push_view(self) -> None:
        # A handler without a view has nothing to tell; one whose view is None tells that. Before the socket is open,
        # nobody would hear it.
        if self._calls is not None and type(self).session_view is not RPCHandler.session_view:
            self._run_hook(self._send_view)

    def _send_view(self) -> None:
        connection = self._connection_session
        if connection is None or not connection.is_loaded:
            return
        with connection.as_stored():
            payload = self._codec.encode((2, "session", (self.session_view(),)))
        if payload != self._sent_view:
            self._sent_view = payload
            self._send(payload)

    @property
    def _is_joined(self) -> bool:
        """Is it still the hub's and presence's? Who joins after the socket has closed would be there for ever."""
        return self.application.sockets.get(self.id) is self

    async def _bind(self, *topics: str) -> None:
        if self._is_joined:
            await self.application.hub.bind(self, *topics)

    @contextlib.contextmanager
    def _claiming(self, *topics: str) -> Iterator[None]:
        """Around what binds this socket to ``topics`` for its own sake: if it fails, its session keeps what it had."""
        had = self._own_topics
        self._own_topics |= {*topics}
        try:
            yield
        except BaseException:
            self._own_topics -= {*topics} - had
            if self._is_joined:
                self.application.hub.join(self, *(self._session_topics.intersection(topics)))
            raise

    def _bind_session(self) -> None:
        """Be in the topics of the session: its user's, its channels'."""
        connection = self._connection_session
        if connection is None or not connection.is_loaded or not self._is_joined:
            return
        wanted = _topics_of(connection.stored())
        hub = self.application.hub
        old, new = self._session_topics - wanted - self._own_topics, wanted - self._session_topics
        # At once: what is published, or subscribed to, when the save has ended must find it so.
        hub.leave(self, *old)
        for topic in new:
            try:
                hub.join(self, topic)
            except ConfigurationError:
                # The application's fault, and none of whoever has just written the session.
                _log.exception("a session's sockets do not hear of %s", topic)
                wanted -= {topic}
        self._session_topics = wanted
        if old or new:
            self.application.spawn(self._enter_anew(*old))

    async def _enter(self, *channels: str) -> None:
        """Be on the lists of those channels that keep presence, if the session has a user; off those of the others."""
        application, connection = self.application, self._connection_session
        for name in channels:
            if not application.channel_options(name).presence:
                continue
            # Looked at anew after each wait: the socket may have closed, or be somebody else's by now.
            user_id = None
            is_there = self._is_joined and channel_topic(name) in application.hub.topics_of(self)
            if is_there and connection is not None and connection.is_loaded:
                user_id = connection.stored().user_id
            if user_id is not None and is_user_id(user_id):
                await application.presence.enter(self, name, user_id, self.presence_about(name))
            else:
                await application.presence.leave(self, name)

    async def _enter_anew(self, *left: str) -> None:
        """The session, or who it belongs to, has changed, and the socket has left some topics."""
        topics = {*left, *self.application.hub.topics_of(self)}
        with contextlib.suppress(BrokerError):  # it is said again at the next change, or reconnect
            await self._enter(*(name for topic in topics if (name := channel_of(topic)) is not None))

    def _is_one_too_many(self) -> bool:
        most, connection = self.application.limits.sockets_per_session, self._connection_session
        if most is None or connection is None or not connection.is_loaded or connection.session.is_new:
            return False
        return self._sessions.count_sockets(connection.session.id) > most

    def _check_channels(self, topics: Sequence[str]) -> None:
        most = self.application.limits.channels
        bound = {topic for topic in self.application.hub.topics_of(self) if topic.startswith("channel:")}
        if most is not None and len(bound.union(topics)) > most:
            raise RPCError(TOO_MANY, f"a socket has at most {most} channels")

    # --- the session --------------------------------------------------------------------------------------------------

    def session_changed(self, keys: frozenset[str]) -> None:
        if self._calls is None:
            return  # `open` will see it
        if not keys.isdisjoint({USER_ID, CHANNELS}):
            self._bind_session()
        self._push_view()
        super().session_changed(keys)

    def session_saved(self, keys: frozenset[str]) -> Awaitable[None] | None:
        self._push_view()
        return None if keys.isdisjoint({USER_ID, CHANNELS}) else self._hear_session()

    async def _hear_session(self) -> None:
        # Whatever is published when the save has ended reaches this socket. If the broker is away, it is told of the
        # gap later: that is no reason for the save to fail.
        self._bind_session()
        with contextlib.suppress(BrokerError):
            await self._bind(*self._session_topics)

    def session_moved(self) -> None:
        self._push_view()  # it may show something of the id

    def session_offered(self, ticket: str) -> None:
        if self._calls is None:
            self._early_tickets += (ticket,)
        else:
            self._tell("sstream:ticket", ticket, self._sessions.options.ticket_path)

    def session_ended(self, reason: str) -> None:
        if self._calls is None:
            self._early_end = reason
        else:
            super().session_ended(reason)

    async def _end_session(self, reason: str) -> None:
        if self._calls is not None and self._calls.in_flight:
            # The call that ended its own session is still to be answered.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_REPLIES):
                    await self._calls.drain()
        try:
            await super()._end_session(reason)
        finally:
            # Also if the hook has failed: nobody's events go to whoever is nobody now.
            if not self.close_on_session_end:
                self._bind_session()
                self._push_view()


for _name in _PAGES_ONLY:
    setattr(RPCHandler, _name, _UntilOpen(getattr(RPCHandler, _name)))


def _nowhere(_: bytes | str) -> None:
    """Where events go when the socket is closed."""


class _Since(msgspec.Struct):
    offset: int
    epoch: str


def _is_ping(message: str | bytes) -> bool:
    # The client's heartbeat keeps the socket alive, not the session. Looked for only in the first message of a while.
    return ("sstream.ping" in message) if isinstance(message, str) else (b"sstream.ping" in message)


def _topics_of(session: Session) -> frozenset[str]:
    topics = set()
    if not session.is_gone:
        names: list[tuple[Callable[[Any], str], Any]] = [(channel_topic, name) for name in session.channels.list()]
        if (user_id := session.user_id) is not None:
            names.append((user_topic, user_id))
        for topic, name in names:
            # Express, or anybody, may have stored what is no name: then nobody can publish to it either.
            with contextlib.suppress(ValueError):
                topics.add(topic(name))
    return frozenset(topics) if topics else _NO_TOPICS


def _client_topic(channel: str) -> str:
    try:
        return channel_topic(channel)
    except ValueError as error:
        raise RPCError(INVALID_PARAMS, str(error)) from error
