"""What the browser may see of a session: the page shows it, and the websocket pushes it."""

from typing import Any

from sstream import Session

__all__ = ["view"]


def view(session: Session) -> dict[str, Any] | None:
    """A shortened id, never the whole, how long it lives, who it is, its data; ``None`` while nothing is stored."""
    if not session:
        return None
    return {"id": session.id[:8], "ttl": session.max_age, "user": session.user_id, "data": dict(session)}
