"""One channel as a client sees it: subscribed again after each reconnect, and with what was missed."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from sstream.client.events import ClosedError, Emitter, Inbox
from sstream.errors import CANCELLED, INTERNAL_ERROR, TIMEOUT, TOO_MANY, UNAVAILABLE, RPCError

__all__ = ["Channel", "Event"]

Event = tuple[str, list[Any], dict[str, Any]]  # name, arguments, meta

GAP: Final = "sstream:gap"  # the server's word that something was lost
_PASSING: Final = frozenset({INTERNAL_ERROR, TIMEOUT, TOO_MANY, UNAVAILABLE})


class _Socket(Protocol):
    @property
    def state(self) -> str: ...

    async def call(self, name: str, /, *params: Any) -> Any: ...

    def _emit(self, event: str, *args: Any) -> None: ...

    def _closed_error(self) -> ClosedError: ...


class Channel(Emitter):
    """A channel of the server's: ``on(event, listener)``, ``async for name, args, meta in channel``.

    Events of its own: ``gap`` (events were lost for good), ``unsubscribed`` (with the error that ended it) and ``*``
    (name, arguments and meta of every event).

    Attributes:
        name: The channel's name.
        position: ``{"offset": ..., "epoch": ...}`` of the last event, on a channel with history; else None.
    """

    def __init__(self, socket: _Socket, name: str, deliver: Callable[[Event], None], limit: int) -> None:
        super().__init__()
        self.name = name
        self.position: dict[str, Any] | None = None
        self._socket = socket
        self._deliver = deliver
        self._limit = limit
        self._is_wanted = False
        self._held: list[Event] | None = None  # events that came while the server was being asked
        self._turn = asyncio.Lock()  # it is asked for one thing after another
        self._waiting: list[asyncio.Future[dict[str, Any]]] = []
        self._inboxes: set[Inbox] = set()

    async def subscribe(self, since: dict[str, Any] | None = None) -> dict[str, Any]:
        """Subscribe, now and after each reconnect, and deliver what was missed since our position or ``since``.

        Returns ``{"offset", "epoch", "recovered"}`` for a channel with history, else ``{}``.

        Raises:
            RPCError: The server refused.
            ClosedError: The socket was closed for good.
        """
        if self._socket.state == "closed":
            raise self._socket._closed_error()
        if since is not None:
            self.position = since
        self._is_wanted = True
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._synchronize()
        return await waiting

    async def unsubscribe(self) -> None:
        """Take back ``subscribe``."""
        self._end(None)
        async with self._turn:
            if not self._is_wanted and self._socket.state == "connected":
                await self._socket.call("sstream.unsubscribe", self.name)

    async def publish(self, event: str, *args: Any) -> Any:
        """Publish in this channel, if the server lets us."""
        return await self._socket.call("sstream.publish", self.name, event, *args)

    async def presence(self) -> Any:
        """Get who is here."""
        return await self._socket.call("sstream.presence", self.name)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events from now on, until ``unsubscribe``; it does not subscribe."""
        inbox = Inbox(self._limit)
        self._inboxes.add(inbox)
        try:
            async for event in inbox:
                yield event
        finally:
            self._inboxes.discard(inbox)

    # For the socket

    def _synchronize(self) -> None:
        self._spawn(self._ask())

    async def _ask(self) -> None:
        """Subscribe, and get what was missed since our position. If the connection is lost, the next one does it."""
        async with self._turn:
            if not self._is_wanted or self._socket.state != "connected":
                return
            self._held = []
            reply: dict[str, Any] = {}
            failure: ClosedError | RPCError | None = None
            try:
                position = [] if self.position is None else [self.position]
                reply = await self._socket.call("sstream.subscribe", self.name, *position)
            except (ClosedError, RPCError) as error:
                failure = error
            held, self._held = self._held, None
            if reply.get("recovered") is False:
                self.position = None
                self._tell_gap()
            for _, event, args, *meta in reply.get("missed", ()):
                self._receive((event, args, meta[0] if meta else {}))
            for kept in held:
                self._receive(kept)
            if failure is not None:
                self._failed(failure)
                return
            offset, epoch = reply.get("offset"), reply.get("epoch")
            last = self.position
            is_new = last is None or last["epoch"] != epoch or offset is None or offset > last["offset"]
            if self._wants() and offset is not None and is_new:
                self.position = {"offset": offset, "epoch": epoch}
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result({key: value for key, value in reply.items() if key != "missed"})

    def _wants(self) -> bool:
        # Asked anew: it may have changed while the server was being asked.
        return self._is_wanted

    def _failed(self, error: ClosedError | RPCError) -> None:
        if isinstance(error, ClosedError):
            return
        if self._waiting or error.code not in _PASSING:
            self._end(error)
            return
        asyncio.get_running_loop().call_later(1 + 4 * random.random(), self._synchronize)

    def _receive(self, event: Event) -> None:
        name, _, meta = event
        offset, epoch = meta.get("offset"), meta.get("epoch")
        last = self.position if self._is_wanted else None
        if self._held is not None:
            self._held.append(event)
        elif name == GAP:
            if offset is not None:
                self.position = {"offset": offset, "epoch": epoch}
            self._tell_gap()
        elif last is None or offset is None:
            self._pass(event)
        elif epoch != last["epoch"] or offset > last["offset"] + 1:
            self._synchronize()  # it comes with what is missing
        elif offset > last["offset"]:
            self._pass(event)

    def _pass(self, event: Event) -> None:
        name, args, meta = event
        if "offset" in meta:
            self.position = {"offset": meta["offset"], "epoch": meta.get("epoch")}
        if name not in {"gap", "unsubscribed", "*"}:
            self._emit(name, *args)
        self._emit("*", name, args, meta)
        for inbox in self._inboxes:
            inbox.push(event)
        self._deliver(event)

    def _tell_gap(self) -> None:
        self._emit("gap")
        self._socket._emit("gap", self.name)

    def _end(self, error: ClosedError | RPCError | None) -> None:
        """The subscription is over: by our wish, or with an error."""
        was_wanted, self._is_wanted = self._is_wanted, False
        self.position = None
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_exception(error or RPCError(CANCELLED, "unsubscribed"))
        for inbox in self._inboxes:
            inbox.end(error)
        if was_wanted and error is not None:
            self._emit("unsubscribed", error)
