"""What of an application may be watched, and by whom."""

import hmac
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sstream.errors import ConfigurationError
from sstream.options import Options

__all__ = ["Access", "Guard", "Watch", "access_of", "has_token"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What somebody may do who looks through the inspector.

    Attributes:
        act: Close sockets and end sessions.
        values: See the values in sessions; else only their keys.
    """

    act: bool = True
    values: bool = False


Guard = Callable[[Any], bool | Access | Awaitable[bool | Access]]  # takes the handler of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch(Options):
    """How an application is watched; nothing of it is on unless it is asked for.

    A guard is a function that gets the handler of the request (``handler.request``, and for the inspector
    ``handler.session``) and says yes or no; it may be a coroutine function. Who is refused gets 404.

    Attributes:
        metrics: A guard: who may read ``/_sstream/metrics``.
        metrics_token: Whoever sends ``Authorization: Bearer <token>`` may read ``/_sstream/metrics``.
        metrics_port: A port of 127.0.0.1 where ``/_sstream/metrics`` is served to everybody on this machine; of several
            processes each takes the next one that is free.
        inspector: A guard: who may use ``/_sstream/inspector``; it may return an `Access` instead of ``True``. Without
            one there is an inspector in debug mode alone, for this very machine.
        tracing: Make spans of pages, calls and store operations, where the package ``opentelemetry-api`` is.
        log_fields: Let `sstream.logs.Fields` know of which socket, method and session a log line is.

    Raises:
        ConfigurationError: The token is short enough to be guessed.
    """

    metrics: Guard | None = None
    metrics_token: str | None = field(default=None, repr=False)
    metrics_port: int | None = None
    inspector: Guard | None = None
    tracing: bool = False
    log_fields: bool = False

    def __post_init__(self) -> None:
        if self.metrics_token is not None and len(self.metrics_token) < 16:
            raise ConfigurationError(
                "metrics_token has less than 16 characters; secrets.token_urlsafe() makes a good one"
            )

    @property
    def serves_metrics(self) -> bool:
        """May anybody read the metrics at the application's own port?"""
        return self.metrics is not None or self.metrics_token is not None


def has_token(header: str, token: str | None) -> bool:
    """Is this ``Authorization`` header the bearer of the token?"""
    scheme, _, value = header.partition(" ")
    is_bearer = token is not None and scheme.lower() == "bearer"
    return is_bearer and hmac.compare_digest(value.strip().encode(), (token or "").encode())


async def access_of(guard: Guard, handler: Any) -> Access | None:
    """What a guard lets the visitor of ``handler`` do; ``None`` for nothing."""
    answer = guard(handler)
    allowed = await answer if inspect.isawaitable(answer) else answer
    if isinstance(allowed, Access):
        return allowed
    return Access() if allowed is True else None
