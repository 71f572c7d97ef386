"""Keeps upgraded sockets among the connections of Tornado's ``HTTPServer``."""

import asyncio
from typing import TYPE_CHECKING, Any, Optional

from tornado.httputil import HTTPServerRequest

if TYPE_CHECKING:
    from sstream.websocket.connection import Connection

__all__ = ["Registration"]


class Registration:
    """Stands for one socket in ``HTTPServer._connections``, so that ``close_all_connections`` closes it.

    Tornado itself forgets a connection when it is upgraded.
    """

    __slots__ = ("_connection", "_registry")

    def __init__(self, connection: "Connection", registry: set[Any]) -> None:
        self._connection = connection
        self._registry = registry
        registry.add(self)

    @classmethod
    def of(cls, connection: "Connection", request: HTTPServerRequest) -> Optional["Registration"]:
        """Register a socket with the server that took it; None where that cannot be found."""
        # Tornado 6.5 and 6.6.1: the server is known to nobody but the coroutine that serves the connection.
        serving = getattr(request.server_connection, "_serving_future", None)
        frame = getattr(serving.get_coro(), "cr_frame", None) if isinstance(serving, asyncio.Task) else None
        server = frame.f_locals.get("delegate") if frame is not None else None
        registry = getattr(server, "_connections", None)
        return cls(connection, registry) if isinstance(registry, set) else None

    async def close(self) -> None:
        """Say 1001 and hang up, as the server closes its other connections: at once."""
        self.forget()
        self._connection.hang_up(1001, "going away")

    def forget(self) -> None:
        """The socket is closed."""
        self._registry.discard(self)
