"""A socket as the dispatcher sees it: what is handed in, and what came out, decoded by another implementation."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack

from sstream.errors import SessionGone
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
        self.loads = 0
        self.commits = 0
        self._turn = asyncio.Lock()

    def session_now(self) -> dict[str, Any] | None:
        return self.session if self.is_loaded and not self._turn.locked() else None

    def session_settled(self) -> bool:
        return self.session == self.stored

    def session_drop(self) -> None:
        self.session = StoredValues(self.stored)

    async def session_commit(self) -> None:
        async with self._turn:
            await asyncio.sleep(0)
            if self.is_gone:
                raise SessionGone("the session was ended")
            self.commits += 1
            self.stored = dict(self.session)

    @contextlib.asynccontextmanager
    async def session_turn(self) -> AsyncIterator[dict[str, Any]]:
        async with self._turn:
            await asyncio.sleep(0)
            self.loads += 1
            self.session = StoredValues(self.stored)
            try:
                yield self.session
            except BaseException:
                self.session_drop()
                raise
            if not self.session_settled():
                self.commits += 1
                self.stored = dict(self.session)
