"""Lets go of what an upgraded connection needs no more: 10 KB become 4."""

from sys import intern
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.websocket import WebSocketHandler

__all__ = ["release"]

_NOBODY: frozenset[str] = frozenset()
# Of a request: what most sockets of a server have in common, each its own copy; and what is empty in most handshakes.
_COMMON = ("method", "version", "protocol", "host", "host_name", "path", "uri")
_CONTAINERS = ("arguments", "query_arguments", "body_arguments", "files")


class _Upgraded:
    """What is left of ``request.connection``."""

    __slots__ = ("context",)

    def __init__(self, context: Any) -> None:
        self.context = context


class _PackedHeaders(HTTPHeaders):
    """Headers as their text, a sixth of the size; whoever looks at them gets them unpacked."""

    def __init__(self, headers: HTTPHeaders) -> None:
        # Not HTTPHeaders.__init__: what that makes, `__getattr__` makes when it is asked for.
        self._packed = "\r\n".join(f"{name}: {value}" for name, value in headers.get_all())

    def __getattr__(self, name: str) -> Any:
        packed = self.__dict__.pop("_packed", None)
        if packed is None:
            raise AttributeError(name)
        HTTPHeaders.__init__(self)
        for line in packed.split("\r\n"):
            self.parse_line(line)
        return getattr(self, name)


class _UpgradedRequest(HTTPServerRequest):
    """A request whose empty containers are made when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name not in _CONTAINERS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        made: dict[str, Any] = {}
        setattr(self, name, made)
        return made


def release(handler: WebSocketHandler) -> None:
    """Drop what the handshake alone needed, in the handler and its request. What is public stays.

    Read in Tornado 6.5 and 6.6.1: with ``HTTP1ServerConnection`` go the server's task and the emptied ``IOStream``;
    cookies are parsed again when they are asked for.
    """
    request = handler.request
    request.headers = _PackedHeaders(request.headers)
    # The client's address and port are found there: `request.connection.context.address`.
    context: Any = getattr(request.connection, "context", None)
    if getattr(context, "trusted_downstream", None) == set():
        context.trusted_downstream = _NOBODY
    request.connection = _Upgraded(context)  # type: ignore[assignment]  # as said
    request.server_connection = None
    kept = vars(request)
    kept.pop("_cookies", None)
    for name in _COMMON:
        if type(kept[name]) is str:
            kept[name] = intern(kept[name])
    if type(request) is HTTPServerRequest:
        for name in _CONTAINERS:
            if not kept[name]:
                del kept[name]
        request.__class__ = _UpgradedRequest
    for response in ("_headers", "_write_buffer", "_transforms"):
        vars(handler).pop(response, None)
