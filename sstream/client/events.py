"""Who listens to what: callbacks by event name, and what has arrived as an async iterator."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from sstream.errors import TOO_MANY, RPCError, SStreamError

__all__ = ["ClosedError", "Emitter", "Inbox", "Listener"]

_log = logging.getLogger("sstream.client")

Listener = Callable[..., Any]


class ClosedError(SStreamError):
    """There is no connection (any more); whether a call that was under way has run is unknown.

    Attributes:
        code: The close code: 1006 lost or not made, 4401 the session was ended, ...
        reason: Why, in words.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (code {self.code})"


class Emitter:
    """Callbacks by event name. One that raises is logged, and does no harm to the others."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[Listener, bool]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, event: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the arguments of each such event, awaiting what it returns; gives what ends this."""
        self._listeners.setdefault(event, {})[listener] = False
        return lambda: self.off(event, listener)

    def once(self, event: str, listener: Listener) -> Callable[[], None]:
        """As ``on``, for the next such event alone."""
        self._listeners.setdefault(event, {})[listener] = True
        return lambda: self.off(event, listener)

    def off(self, event: str, listener: Listener) -> None:
        """Take back ``on``."""
        self._listeners.get(event, {}).pop(listener, None)

    def _emit(self, event: str, *args: Any) -> None:
        for listener, once in list(self._listeners.get(event, {}).items()):
            if once:
                self.off(event, listener)
            try:
                result = listener(*args)
            except Exception:
                _log.exception("a listener of %r raised", event)
                continue
            if inspect.isawaitable(result):
                self._spawn(_watch(event, result))

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end_tasks(self) -> None:
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _watch(event: str, result: Any) -> None:
    try:
        await result
    except Exception:
        _log.exception("a listener of %r raised", event)


class Inbox:
    """What has arrived and was not taken yet; iterate it once."""

    def __init__(self, limit: int | None = None) -> None:
        self._items: deque[Any] = deque()
        self._limit = limit
        self._ended = False
        self._error: BaseException | None = None
        self._news = asyncio.Event()

    def push(self, item: Any) -> None:
        """Add an item; one past the limit ends it with an error."""
        if self._ended:
            return
        self._items.append(item)
        if self._limit is not None and len(self._items) > self._limit:
            self.end(RPCError(TOO_MANY, f"more than {self._limit} items wait to be taken"))
        self._news.set()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; ``error`` is raised behind the last item."""
        if not self._ended:
            self._ended, self._error = True, error
            self._news.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()
