"""A browser's cookies."""

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from math import inf
from typing import NamedTuple

from tornado.httputil import HTTPHeaders

__all__ = ["CookieJar"]


class _Cookie(NamedTuple):
    value: str
    is_secure: bool = False
    expires: float = inf


class CookieJar:
    """The cookies of one host, as a browser keeps them (RFC 6265, 5.3 and 5.4): by name and path, until they expire.

    Args:
        cookies: What is in it, for all paths.
        clock: Unix time in seconds.
    """

    def __init__(self, cookies: Mapping[str, str] | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._cookies: dict[tuple[str, str], _Cookie] = {}  # by name and path
        for name, value in (cookies or {}).items():
            self[name] = value

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self._cookies[name, "/"] = _Cookie(value)

    def __delitem__(self, name: str) -> None:
        for key in [key for key in self._cookies if key[0] == name]:
            del self._cookies[key]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __repr__(self) -> str:
        return f"CookieJar({sorted({name for (name, _), _ in self._living()})})"

    def get(self, name: str) -> str | None:
        """The value of a cookie, ``None`` if there is none of that name."""
        return next((cookie.value for (known, _), cookie in self._living() if known == name), None)

    def copy(self) -> "CookieJar":
        """Another jar with the same cookies."""
        twin = CookieJar(clock=self._clock)
        twin._cookies.update(self._cookies)
        return twin

    def take(self, headers: HTTPHeaders, path: str = "/") -> None:
        """Keep, replace and remove cookies as the Set-Cookie headers of a reply to a request for ``path`` say."""
        for line in headers.get_list("Set-Cookie"):
            pair, *attributes = line.split(";")
            name, _, value = pair.strip().partition("=")
            fields = {}
            for attribute in attributes:
                key, _, text = attribute.strip().partition("=")
                fields[key.lower()] = text
            expires = inf
            if "max-age" in fields:
                expires = self._clock() + float(fields["max-age"])
            elif "expires" in fields:
                expires = parsedate_to_datetime(fields["expires"]).timestamp()
            scope = fields.get("path") or path.rpartition("/")[0] or "/"
            self._cookies[name, scope] = _Cookie(value, "secure" in fields, expires)
        self._cookies = dict(self._living())

    def header(self, path: str, *, is_https: bool = False) -> str:
        """The Cookie header of a request, empty if there is none to send."""
        pairs = []
        for (name, scope), cookie in self._living():
            inside = path == scope or path.startswith(scope.removesuffix("/") + "/")
            if inside and (is_https or not cookie.is_secure):
                pairs.append(f"{name}={cookie.value}")
        return "; ".join(pairs)

    def _living(self) -> list[tuple[tuple[str, str], _Cookie]]:
        now = self._clock()
        return [(key, cookie) for key, cookie in self._cookies.items() if cookie.expires > now]
