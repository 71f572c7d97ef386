"""Lets go of what an upgraded connection needs no more: 10 KB become 4."""

from functools import lru_cache
from typing import Any, Final

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.websocket import WebSocketHandler

__all__ = ["release"]

# Of what clients send, texts up to this size are kept once for all sockets; so many of them at most, as a client may
# send what no other does. (`sys.intern` forgets nothing on Python 3.12.)
_SHARED_SIZE: Final = 1024
_SHARED_TEXTS: Final = 1024

_NOBODY: frozenset[str] = frozenset()
# Of a request: what most sockets of a server have in common, each its own copy; and what is empty in most handshakes.
_COMMON = ("method", "version", "protocol", "host", "host_name", "path", "uri")
_CONTAINERS = ("arguments", "query_arguments", "body_arguments", "files")
# Headers by which the clients of a server do not differ much.
_ALIKE: Final = frozenset(
    {
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "Cache-Control",
        "Connection",
        "Host",
        "Origin",
        "Pragma",
        "Sec-Fetch-Dest",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Site",
        "Sec-Websocket-Extensions",
        "Sec-Websocket-Protocol",
        "Sec-Websocket-Version",
        "Upgrade",
        "User-Agent",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Proto",
    }
)


@lru_cache(_SHARED_TEXTS)
def _first(text: str) -> str:
    return text


def _shared(text: str) -> str:
    """The same text, as the first socket had it."""
    return _first(text) if len(text) <= _SHARED_SIZE else text


class _Upgraded:
    """What is left of ``request.connection``."""

    __slots__ = ("context",)

    def __init__(self, context: Any) -> None:
        self.context = context


class _PackedHeaders(HTTPHeaders):
    """Headers as their text, a tenth of the size; whoever looks at them gets them unpacked."""

    def __init__(self, headers: HTTPHeaders) -> None:
        # Not HTTPHeaders.__init__: what that makes, `__getattr__` makes when it is asked for.
        lines, values = [], []
        for name, value in headers.get_all():
            if name in _ALIKE:
                lines.append(f"{name}: {value}")
            else:
                lines.append(name)
                values.append(value)
        self._lines = _shared("\r\n".join(lines))  # of other clients, too: without the values that are this one's own
        self._values = "\r\n".join(values)

    def __getattr__(self, name: str) -> Any:
        lines = self.__dict__.pop("_lines", None)
        if lines is None:
            raise AttributeError(name)
        values = iter(self.__dict__.pop("_values").split("\r\n"))
        HTTPHeaders.__init__(self)
        for line in lines.split("\r\n"):
            self.parse_line(line if ":" in line else f"{line}: {next(values)}")
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
            kept[name] = _shared(kept[name])
    if type(request) is HTTPServerRequest:
        for name in _CONTAINERS:
            if not kept[name]:
                del kept[name]
        request.__class__ = _UpgradedRequest
    for response in ("_headers", "_write_buffer", "_transforms"):
        vars(handler).pop(response, None)
