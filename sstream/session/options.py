"""How an application's sessions live and what their cookie looks like."""

import re
import secrets as random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from sstream.errors import ConfigurationError
from sstream.options import Options
from sstream.session.express import MAX_TEXT

__all__ = ["DEFAULT_SECRET", "SessionOptions"]

DEFAULT_SECRET = "SocketStream"  # noqa: S105 - public on purpose: the original's own; refused in production

# RFC 6265, 4.1.1: a cookie's name is a token.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _new_sid() -> str:
    return random.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions(Options):
    """What express-session takes as its options, in seconds and under Python's names.

    Attributes:
        secret: What signs the cookie; of several the first signs and all verify, so that a secret can be replaced
            without logging anybody out.
        name: The cookie's name.
        max_age: Seconds a session lives without being used.
        absolute_max_age: Seconds a session lives at most, however much it is used; ``None`` for no such bound.
        persistent: Should the cookie outlive the browser, until ``max_age``?
        rolling: Send the cookie with every page, so that a persistent one counts from the last visit.
        save_uninitialized: Store a session, and set its cookie, on a first visit that wrote nothing.
        unset: What ``del self.session`` does to the stored session: ``"keep"`` or ``"destroy"`` it.
        path, domain, http_only, partitioned, priority: The cookie's attributes of these names (RFC 6265bis, 4.1.2).
        secure: ``True`` sends the cookie over https alone, ``"auto"`` marks it so where the request came by https.
        same_site: ``"strict"``, ``"lax"``, ``"none"``, ``True`` (strict), ``False`` (left out) or ``"auto"`` (none over
            https, lax over http).
        proxy: Trust the first value of ``X-Forwarded-Proto`` to say that a request came by https. ``None`` leaves it to
            Tornado's ``xheaders``.
        genid: Makes a new session's id.
        prefix: Stands before the id in the store's key, as connect-redis has it.
        renew_grace: Seconds an id stays good after a login on a websocket whose client does not fetch the new cookie;
            a ticket for a cookie is good as long.
        max_size: Bytes one session's stored text may have.
    """

    secret: str | Sequence[str] = field(default=DEFAULT_SECRET, repr=False)
    name: str = "connect.sid"
    max_age: int = 30 * 86400  # 30 days
    absolute_max_age: int | None = None
    persistent: bool = False
    rolling: bool = False
    save_uninitialized: bool = False
    unset: Literal["keep", "destroy"] = "keep"
    path: str = "/"
    domain: str | None = None
    http_only: bool = True
    secure: bool | Literal["auto"] = "auto"
    same_site: bool | Literal["strict", "lax", "none", "auto"] = "lax"
    partitioned: bool = False
    priority: Literal["low", "medium", "high"] | None = None
    proxy: bool | None = None
    genid: Callable[[], str] = _new_sid
    prefix: str = "sess:"
    renew_grace: int = 30
    max_size: int = 64 * 1024  # 64 KiB

    def __post_init__(self) -> None:
        secrets: tuple[Any, ...] = self.secrets  # Any: bytes are a likely mistake
        if not secrets or not all(isinstance(secret, str) and secret for secret in secrets):
            raise ConfigurationError(
                "secret is empty or no text; give a text, or a list of texts of which the first signs"
            )
        try:
            "".join(secrets).encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError("secret holds a lone surrogate; give a text that UTF-8 can hold") from error
        if not _TOKEN.fullmatch(self.name):
            raise ConfigurationError(f"name={self.name!r} is no cookie name; letters, digits and !#$%&'*+-.^_`|~ are")
        for option in ("max_age", "absolute_max_age"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise ConfigurationError(f"{option}={value} ends every session at once; give seconds above 0")
        if self.renew_grace < 1:
            raise ConfigurationError(
                f"renew_grace={self.renew_grace} is too short to fetch a cookie in; at least 1 second"
            )
        if not 0 < self.max_size <= MAX_TEXT:
            raise ConfigurationError(f"max_size={self.max_size}; legal are 1 to {MAX_TEXT} bytes")
        for option, text in (("path", self.path), ("domain", self.domain or "")):
            if not text.isascii() or not text.isprintable() or ";" in text:
                raise ConfigurationError(f"{option}={text!r} cannot stand in a cookie")
        if not self.path.startswith("/"):
            raise ConfigurationError(f"path={self.path!r} must start with a slash")
        self._legal("secure", (True, False, "auto"))
        self._legal("same_site", (True, False, "strict", "lax", "none", "auto"))
        self._legal("priority", (None, "low", "medium", "high"))
        self._legal("unset", ("keep", "destroy"))
        if self.same_site == "none" and self.secure is False:
            raise ConfigurationError('same_site="none" needs secure=True or "auto": browsers drop such a cookie')
        if self.partitioned and self.secure is False:
            raise ConfigurationError('partitioned needs secure=True or "auto": browsers drop such a cookie')
        if self.name.startswith("__Host-") and (self.secure is not True or self.path != "/" or self.domain):
            raise ConfigurationError(f'name={self.name!r} needs secure=True, path="/" and no domain')
        if self.name.startswith("__Secure-") and self.secure is not True:
            raise ConfigurationError(f"name={self.name!r} needs secure=True")

    def _legal(self, option: str, values: tuple[Any, ...]) -> None:
        if getattr(self, option) not in values:
            raise ConfigurationError(f"{option}={getattr(self, option)!r}; legal are {', '.join(map(repr, values))}")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets, the signing one first."""
        return (self.secret,) if isinstance(self.secret, str) else tuple(self.secret)

    @property
    def touch_interval(self) -> float:
        """Seconds between two touches of a session by its sockets; 1 % of its idle time, at most a minute."""
        return min(self.max_age / 100, 60.0)

    @property
    def ticket_path(self) -> str:
        """Where a browser trades a ticket for its new cookie: below ``path``, or it would not send its old one."""
        return self.path.rstrip("/") + "/_sstream/session"

    def host_only(self) -> Self:
        """These options with the strictest cookie there is: ``__Host-``, https alone, this host alone."""
        return self.but(name="__Host-" + self.name, secure=True, path="/", domain=None)

    def cookie(self, is_https: bool) -> dict[str, Any]:
        """The ``cookie`` object of a new session, its keys in Express's order, its lifetime not yet set."""
        secure = is_https if self.secure == "auto" else self.secure
        same_site: Any = self.same_site
        if same_site == "auto":
            same_site = "none" if is_https else "lax"
        fields = {
            "partitioned": self.partitioned or None,
            "priority": self.priority,
            "secure": secure or None,
            "httpOnly": self.http_only,
            "domain": self.domain,
            "path": self.path,
            "sameSite": same_site or None,
        }
        order = (
            "originalMaxAge",
            "partitioned",
            "priority",
            "expires",
            "secure",
            "httpOnly",
            "domain",
            "path",
            "sameSite",
        )
        lifetime = {"originalMaxAge": None, "expires": None}
        return {key: fields.get(key) for key in order if key in lifetime or fields[key] is not None}
