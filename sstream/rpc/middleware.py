"""What stands around a method: the request, and the middleware that is ready-made.

A middleware is ``async def name(request, call_next)``; it returns the result of the call, its own or that of
``await call_next(request)``, or raises ``RPCError``. One with options is a function that returns such a function:

    def at_most(seconds: float) -> Middleware:
        async def measure(request: Request, call_next: Next) -> Any:
            started = time.monotonic()
            result = await call_next(request)
            if time.monotonic() - started > seconds:
                log.warning("%s was slow", request.method)
            return result
        return measure

The order is that of the lists: those of the handler class, of the action groups from the outside in, of the method.
What stands in several of them runs once, at its first place.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from sstream.errors import FORBIDDEN, TOO_MANY, ConfigurationError, RPCError
from sstream.rpc.codec import Meta
from sstream.rpc.trace import trace_suffix

__all__ = ["Middleware", "Next", "Request", "debug", "load_session", "rate_limit", "require_user"]

_log = logging.getLogger("sstream.rpc")


class Request(msgspec.Struct, eq=False, weakref=True):
    """One call on its way through the middleware.

    Attributes:
        method: The dotted name that was called.
        params: The decoded arguments, to be read or changed.
        handler: The socket's ``RPCHandler``.
        id: The call's id; None for a call without reply.
        meta: What the call says about itself (``timeout``, ``traceparent``), or None.
        received_at: When it came, in seconds since the epoch.
        session: The session, behind ``load_session``; else None.
    """

    method: str
    params: list[Any]
    handler: Any
    id: int | str | None
    meta: Meta | None
    received_at: float
    # The dispatcher's own: the object that the method belongs to.
    target: Any
    session: Any = None
    # Likewise: the way to send a stream's items.
    stream: Any = None

    def __repr__(self) -> str:
        # No payload and no session: a request may end up in a log.
        return f"<Request {self.method} id={self.id!r}>"


Next = Callable[[Request], Awaitable[Any]]
Middleware = Callable[[Request, Next], Awaitable[Any]]


async def load_session(request: Request, call_next: Next) -> Any:
    """Load the caller's session, and store what the call changed in it before the reply leaves.

    Calls of one socket that load the session run one after another, in order of arrival; a stream is one until its
    end. If the call raises, its unsaved changes are dropped. Plain methods that have no other middleware share a turn,
    and a commit, where several of them wait (`sstream.rpc.group`).
    """
    async with request.handler.session_turn() as session:
        request.session = session
        return await call_next(request)


async def require_user(request: Request, call_next: Next) -> Any:
    """Refuse callers whose session has no user; stands behind ``load_session``."""
    if request.session is None or request.session.user_id is None:
        raise RPCError(FORBIDDEN, "forbidden: log in first")
    return await call_next(request)


async def debug(request: Request, call_next: Next) -> Any:
    """Log each call with its outcome and its time, at level DEBUG; never what it carries."""
    started = time.perf_counter()
    outcome = "failed"
    try:
        result = await call_next(request)
        outcome = "ok"
    except RPCError as error:
        outcome = f"refused with {error.code}"
        raise
    finally:
        milliseconds = (time.perf_counter() - started) * 1000
        _log.debug(
            "%s on socket %s: %s in %.1f ms%s",
            request.method,
            request.handler.id,
            outcome,
            milliseconds,
            trace_suffix(),
        )
    return result


def rate_limit(
    calls: int,
    seconds: float = 1.0,
    *,
    key: Callable[[Request], Hashable] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Middleware:
    """Make a middleware that lets ``calls`` through at once, and ``calls`` every ``seconds`` for long; else 4029.

    Counted are the calls of each socket through this middleware; or of each ``key(request)`` within this process, such
    as ``lambda request: request.session.user_id``. The refusal's data is ``{"retry_after": seconds}``.
    """
    if calls < 1 or not seconds > 0:
        raise ConfigurationError(f"rate_limit wants calls >= 1 and seconds > 0, not {calls!r} and {seconds!r}")
    # The generic cell rate algorithm: one number a key, the time at which its bucket will be empty again.
    interval = seconds / calls
    by_socket: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    by_key: dict[Hashable, float] = {}
    swept_at = 4096

    async def limit(request: Request, call_next: Next) -> Any:
        nonlocal swept_at
        now = clock()
        empty_at = by_socket.get(request.handler, now) if key is None else by_key.get(who := key(request), now)
        empty_at = max(empty_at, now) + interval
        # A hair of tolerance: the sum of the intervals is not exactly ``seconds``.
        if empty_at - now > seconds * (1 + 1e-9):
            raise RPCError(TOO_MANY, "too many calls", {"retry_after": empty_at - now - seconds})
        if key is None:
            by_socket[request.handler] = empty_at
        else:
            if len(by_key) >= swept_at:
                for old in [old for old, time_empty in by_key.items() if time_empty <= now]:
                    del by_key[old]
                swept_at = max(4096, 2 * len(by_key))
            by_key[who] = empty_at
        return await call_next(request)

    return limit
