"""A socket as the dispatcher sees it: what is handed in, and what came out, decoded by another implementation."""

import asyncio
import contextlib
import json
from typing import Any

import msgpack

from sstream.errors import SessionError, SessionGone
from sstream.limits import Limits
from sstream.rpc.codec import MSGPACK, Codec
from sstream.rpc.dispatch import Calls
from sstream.rpc.registry import Registry


class Socket:
    """One socket of a handler class; ``handler`` is the handler, ``sent`` what has been sent to the browser."""

    def __init__(self, handler_class: type, codec: Codec = MSGPACK, *, pauses: bool = False, **limits: Any) -> None:
        self.handler: Any = handler_class()
        self.handler.id = "socket-1"
        self.sent: list[Any] = []
        self.payloads: list[bytes | str] = []
        self.is_paused = False
        self._codec = codec
        self._news = asyncio.Event()
        self.calls = Calls(
            self.handler,
            Registry.of(handler_class),
            codec,
            Limits(**limits),
            self._send,
            reader=self if pauses else None,
        )
        self.handler.call = self.calls.call

    def _send(self, payload: bytes | str) -> None:
        self.payloads.append(payload)
        assert isinstance(payload, bytes) is self._codec.binary
        self.sent.append(msgpack.unpackb(payload) if self._codec.binary else json.loads(payload))
        self._news.set()

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def receive(self, *message: Any) -> None:
        """Hand in a message."""
        self.calls.receive(msgpack.packb(message) if self._codec.binary else json.dumps(message))

    def call(self, method: str, *params: Any, call_id: int | str = 1) -> Any:
        """Call a method that answers at once; get its reply as ``(error, result)``."""
        before = len(self.sent)
        self.receive(0, call_id, method, params)
        assert len(self.sent) == before + 1
        kind, replied, error, result = self.sent[-1]
        assert (kind, replied) == (1, call_id)
        return error, result

    async def wait_for(self, count: int) -> list[Any]:
        """Wait until ``count`` messages have been sent, and get them."""
        while len(self.sent) < count:
            self._news.clear()
            await self._news.wait()
        return self.sent


class StoredValues(dict[str, Any]):
    """A session that always has to be looked through."""

    touched = True


class SessionHandler:
    """The dispatcher's idea of a handler with a session: here a dict that is stored in another one."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}
        self.session = StoredValues()
        self.is_loaded = True
        self.is_gone = False
        self.fails: Exception | None = None  # what the next commit raises
        self.loads = 0
        self.commits = 0
        self.permits = asyncio.Semaphore(1000)  # one for each commit
        self.latest: SessionTurn | None = None
        self.lock = asyncio.Lock()

    def session_now(self) -> dict[str, Any] | None:
        return self.session if self.is_loaded and not self.lock.locked() else None

    def session_busy(self) -> bool:
        return self.lock.locked()

    def session_settled(self) -> bool:
        return self.session == self.stored

    def session_drop(self) -> None:
        self.session = StoredValues(self.stored)

    async def session_commit(self) -> None:
        async with self.lock:
            await self.commit()

    async def commit(self) -> None:
        await asyncio.sleep(0)
        try:
            await self.permits.acquire()
            if self.is_gone:
                raise SessionGone("the session was ended")
            if self.fails is not None:
                raise self.fails
        except BaseException:
            self.session_drop()
            raise
        self.commits += 1
        self.stored = dict(self.session)

    def session_turn(self) -> "SessionTurn":
        return SessionTurn(self)


class SessionTurn(contextlib.AbstractAsyncContextManager[dict[str, Any]]):
    """A turn with that session, for one call or several."""

    def __init__(self, handler: SessionHandler) -> None:
        self._handler = handler
        self._kept: dict[str, Any] = {}

    @property
    def is_latest(self) -> bool:
        return self._handler.latest is self

    @property
    def has_changes(self) -> bool:
        return self._kept != self._handler.stored

    def keep(self) -> None:
        if "unstorable" in self._handler.session:
            raise SessionError("this cannot be stored")
        self._kept = dict(self._handler.session)

    def drop(self) -> None:
        self._handler.session = StoredValues(self._kept)

    async def __aenter__(self) -> dict[str, Any]:
        handler = self._handler
        handler.latest = self
        await handler.lock.acquire()
        await asyncio.sleep(0)
        if handler.latest is self:
            handler.latest = None
        handler.loads += 1
        self._kept = handler.stored
        handler.session_drop()
        return handler.session

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self._handler.session_drop()
            elif not self._handler.session_settled():
                await self._handler.commit()
        finally:
            self._handler.lock.release()
