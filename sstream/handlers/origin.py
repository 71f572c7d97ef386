"""Where a request comes from, by the browser's own word."""

from functools import lru_cache
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders

__all__ = ["is_origin", "is_same_origin"]

_LONGEST_ORIGIN = 512  # a name has 253 characters at most


def is_same_origin(is_https: bool, host: str, headers: HTTPHeaders) -> bool:
    """Does a request come from a page of this very origin, by the browser's own word?

    ``Sec-Fetch-Site`` decides where it is sent, else ``Origin`` by scheme, host and port.
    Source: Fetch Metadata Request Headers, 2.3; RFC 6454, 4 and 7.
    """
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("Origin", headers.get("Sec-Websocket-Origin", ""))
    own = f"{'https' if is_https else 'http'}://{host}"
    wanted = _origin(own)
    return wanted is not None and wanted == _origin(origin)


# There are few that are right: 2 us for two of them instead of 25.
@lru_cache(256)
def _origin(text: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; ``None`` if it is no origin."""
    if len(text) > _LONGEST_ORIGIN:
        return None
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or port == 0:
        return None
    return parts.scheme, host, port or {"http": 80, "https": 443}.get(parts.scheme)


def is_origin(text: str) -> bool:
    """Is it written as an origin, with a host?"""
    return _origin(text) is not None
