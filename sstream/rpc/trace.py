"""The W3C trace context of the call that is running."""

import contextvars
import re
from typing import Final

__all__ = ["is_traceparent", "trace_suffix", "traceparent"]

# What came with the call, or None.
traceparent: contextvars.ContextVar[str | None] = contextvars.ContextVar("traceparent", default=None)

# W3C Trace Context, 3.2: version, trace id, parent id, flags.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def is_traceparent(text: str) -> bool:
    """May this stand in a log? It came from a client."""
    return _TRACEPARENT.fullmatch(text) is not None


def trace_suffix() -> str:
    """The end of a log line about the call that is running: which trace it belongs to, if it says so."""
    trace = traceparent.get()
    return f", traceparent {trace}" if trace else ""
