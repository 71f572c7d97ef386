"""Log lines that say of which socket, call, session and trace they are; never an id of a session, nor a payload.

handler = logging.StreamHandler()
handler.addFilter(Fields())
handler.setFormatter(JSONFormatter())
app = Application(…, watch=Watch(log_fields=True))
"""

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from sstream.rpc.trace import traceparent
from sstream.session.commits import log_name

__all__ = ["Fields", "JSONFormatter", "Scope", "scope", "session_name"]

FIELDS: Final = ("socket", "method", "session", "trace")


class Scope:
    """The call, or the page, that is running: which handler's, and its method or ``GET``, ``POST``."""

    __slots__ = ("handler", "method", "trace")

    def __init__(self, handler: Callable[[], Any], method: str, trace: str | None = None) -> None:
        self.handler = handler  # asked when a line is written: a page's handler is made after its scope
        self.method = method
        self.trace = trace  # of a page; a call has its traceparent


scope: ContextVar[Scope | None] = ContextVar("sstream_scope", default=None)


def session_name(handler: Any) -> str | None:
    """What stands in logs for the session of a handler: eight hex digits that do not lead back to its id."""
    session = getattr(handler, "session_at_hand", None)
    return log_name(session.id) if session is not None and not session.is_new else None


class Fields(logging.Filter):
    """Gives each record the fields ``socket``, ``method``, ``session`` and ``trace``, ``None`` where there is none.

    ``socket`` is the id of the websocket, which is no secret; ``session`` is eight hex digits made of the session's id,
    the same in every line; ``trace`` is the id of the trace. It lets every record through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        running = scope.get()
        fields: dict[str, str | None] = dict.fromkeys(FIELDS)
        if running is not None:
            handler = running.handler()
            fields["socket"] = getattr(handler, "id", None)
            fields["method"] = running.method
            fields["session"] = session_name(handler)
        fields["trace"] = _trace(record) or (running.trace if running is not None else None)
        for name, value in fields.items():
            if value is not None or not hasattr(record, name):
                setattr(record, name, value)
        return True


def _trace(record: logging.LogRecord) -> str | None:
    # What a method raised is logged after its end; it says itself where it was.
    error = record.exc_info[1] if record.exc_info else None
    raised = getattr(error, "sstream_trace", None)
    if isinstance(raised, str):
        return raised
    parent = traceparent.get()
    return parent.split("-")[1] if parent else None


class JSONFormatter(logging.Formatter):
    """A line of JSON for each record: time, level, logger, message, and the fields of `Fields` that are there.

    An exception stands under ``exception``, and what ``stack_info=True`` asks for under ``stack``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False, default=str)
