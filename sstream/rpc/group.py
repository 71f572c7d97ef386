"""Plain calls of one socket that wait for its session: they take one turn, and one commit stores what they changed.

While a call has the session, those that come after it wait. The ``def`` methods among them, which cannot wait for
anything themselves, run one after another in one turn, on one copy of the session, and the store is asked once for all
of them. With 16 writes in flight on a socket a write takes 119,000 instructions instead of 306,000, by callgrind on
CPython 3.11 without Redis and the wire; with both, in one run by turns, 40 us of CPU instead of 160.
"""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from msgspec import Raw

from sstream.errors import RPCError
from sstream.rpc.codec import ENCODE_ERRORS
from sstream.rpc.registry import Entry

__all__ = ["Group", "GroupedCall", "SharedTurn"]

_MOST: Final = 64  # calls that run without a turn of the loop in between
_UNCHANGEABLE: Final = frozenset({str, int, float, bool, type(None)})


class SharedTurn(AbstractAsyncContextManager[Any], Protocol):
    """A turn with the session that several calls use, one after another; at its end all is stored that was kept."""

    @property
    def is_latest(self) -> bool:
        """Is it still waited for, and has nobody asked for a turn after it?"""

    @property
    def has_changes(self) -> bool:
        """Is there anything to be stored at its end?"""

    def keep(self) -> None:
        """Let what a call changed stay; raises what says that it cannot be stored."""

    def drop(self) -> None:
        """Forget what was changed since `keep`."""


class GroupedCall(Protocol):
    """A call in flight, which hears how it went."""

    entry: Entry

    def returned(self, result: Any) -> None:
        """The method returned, and all that it saw is stored."""

    def raised(self, error: BaseException) -> None:
        """The method raised, or it did not run, or what it saw could not be stored."""


class Group:
    """Calls that take one turn together; the job of the task that ``run`` is run by.

    A call that raises loses its own changes alone. No reply leaves before everything that its call saw is stored: if
    that fails, all hear so whose calls saw any of it.

    Attributes:
        task: Set by who runs it.
    """

    __slots__ = ("_done", "_encode", "_turn", "_waiting", "_wanted", "task")

    task: "asyncio.Task[None]"

    def __init__(self, turn: SharedTurn, encode: Callable[[Any], bytes | str]) -> None:
        self._turn = turn
        self._encode = encode
        # Invariant: a call is in one of these two, in order of arrival, from `add` until it has heard its outcome.
        self._waiting: dict[GroupedCall, tuple[contextvars.Context, Any, Any]] = {}
        self._done: list[tuple[GroupedCall, contextvars.Context, Any, BaseException | None]] = []
        self._wanted: set[GroupedCall] = set()

    @property
    def is_open(self) -> bool:
        """May a call that comes now be added? Not if another call asked for a turn meanwhile, which comes first."""
        return bool(self._wanted) and len(self._waiting) < _MOST and self._turn.is_latest

    def add(self, call: GroupedCall, target: Any, arguments: Any) -> None:
        """Let ``call`` run in this turn, in the context that it came in."""
        self._waiting[call] = contextvars.copy_context(), target, arguments
        self._wanted.add(call)

    def cancel(self, call: GroupedCall) -> None:
        """Nobody wants this call any more: if it has not run it will not, else it is stored with the others."""
        if call not in self._wanted:
            return
        self._wanted.discard(call)
        if not self._wanted:
            self.task.cancel()
        elif (work := self._waiting.pop(call, None)) is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(call.raised, asyncio.CancelledError(), context=work[0])

    async def run(self) -> None:
        """Wait for the turn, run the calls, and store what they have changed."""
        async with self._turn:
            while self._waiting:
                call = next(iter(self._waiting))
                self._run_one(call, *self._waiting.pop(call))

    def _run_one(self, call: GroupedCall, context: contextvars.Context, target: Any, arguments: Any) -> None:
        result, failure = None, None
        try:
            result = context.run(call.entry.invoke, target, arguments)
            self._turn.keep()
        except (Exception, asyncio.CancelledError) as error:
            # Anything at all: the method is the user's.
            self._turn.drop()
            failure = error
        if self._turn.has_changes:
            self._done.append((call, context, self._as_it_is(result), failure))
        else:
            # Nothing that it saw has still to be stored.
            _tell(call, context, result, failure)

    def _as_it_is(self, result: Any) -> Any:
        """What a later call does not change, if this is part of the session."""
        if type(result) in _UNCHANGEABLE:
            return result
        try:
            return Raw(self._encode(result))
        except ENCODE_ERRORS:
            return result  # it is found out again when the reply is made

    def returned(self, result: None) -> None:
        """All is stored."""
        for call, context, value, failure in self._done:
            _tell(call, context, value, failure)

    def raised(self, error: BaseException) -> None:
        """It is not stored, or that is unknown; or the turn never came."""
        for call, context, _, failure in self._done:
            # A refusal may have told of what is not stored. A mistake of the method's tells nothing, and is logged.
            is_refusal = failure is None or isinstance(failure, RPCError)
            _tell(call, context, None, error if is_refusal else failure)
        for call, (context, _, _) in self._waiting.items():
            _tell(call, context, None, error)


def _tell(call: GroupedCall, context: contextvars.Context, result: Any, failure: BaseException | None) -> None:
    if failure is None:
        context.run(call.returned, result)
    else:
        context.run(call.raised, failure)
