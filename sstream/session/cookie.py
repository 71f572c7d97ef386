"""Signed cookie values, byte for byte as express-session writes them.

Source: cookie-signature 1.2 (index.js), cookie 0.7.2 (index.js), express-session 1.19 (``getcookie``, ``setcookie``).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

__all__ = ["decode", "encode", "find", "is_sid", "serialize", "sign", "unsign"]

# encodeURIComponent leaves these alone, besides letters and digits (ECMA-262, 19.2.6.5).
_UNRESERVED = "-_.!~*'()"

# What cookie 0.7.2 takes off at both ends.
_BLANKS = " \t"

# Browsers keep no cookie above 4 KiB (RFC 6265bis, 5.5), so a longer one was not ours.
_MAX_VALUE = 4096

# What an id may look like. Express lets ``genid`` return anything; pattern signs, blanks and control bytes stay out of
# keys, logs and commands.
_SID = re.compile(r"[A-Za-z0-9_.~:+/=@,-]{1,256}")

# What encodeURIComponent never writes: half an escape, or one in small letters. A cookie has one spelling, so no bit of
# it can be changed unnoticed. (Express reads the small letters too.)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-F]{2})")

# cookie 0.7.2: domainValueRegExp, pathValueRegExp.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"\.?{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE | re.ASCII)
_PATH = re.compile(r"[ -:=-~]+")

_PRIORITIES = {"low": "Low", "medium": "Medium", "high": "High"}
_SAME_SITES = {"strict": "Strict", "lax": "Lax", "none": "None"}


def sign(sid: str, secret: str) -> str:
    """``sid``, a dot, and its HMAC-SHA256 in base64 without padding."""
    digest = hmac.digest(secret.encode(), sid.encode(), hashlib.sha256)
    return f"{sid}.{base64.b64encode(digest).rstrip(b'=').decode()}"


def unsign(signed: str, secrets: Sequence[str]) -> str | None:
    """The id that one of ``secrets`` has signed, or ``None``."""
    sid, dot, _ = signed.rpartition(".")
    if not dot:
        return None
    given = signed.encode("utf-8", "surrogatepass")
    try:
        # Every secret is tried, the comparison is constant in time: what is learnt is that none, or one, fits.
        matches = [hmac.compare_digest(sign(sid, secret).encode(), given) for secret in secrets]
    except UnicodeEncodeError:
        return None
    return sid if any(matches) else None


def encode(sid: str, secrets: Sequence[str]) -> str:
    """The cookie's value for ``sid``, signed by the first of ``secrets``."""
    return quote("s:" + sign(sid, secrets[0]), safe=_UNRESERVED)


def decode(value: str, secrets: Sequence[str]) -> str | None:
    """The id in a cookie's value, or ``None`` where it is unsigned, badly signed or no id of any use."""
    if len(value) > _MAX_VALUE:
        return None
    if "%" in value:
        if _BAD_ESCAPE.search(value):
            return None
        try:
            value = unquote_to_bytes(value).decode()
        except UnicodeError:
            return None
    if not value.startswith("s:"):
        return None
    sid = unsign(value[2:], secrets)
    return sid if sid is not None and is_sid(sid) else None


def is_sid(sid: str) -> bool:
    """Does it look like an id?"""
    return _SID.fullmatch(sid) is not None


def find(header: str, name: str) -> list[str]:
    """Every value that a Cookie header gives to ``name``, in order, quotes stripped; cookie 0.7.2 takes the first."""
    values = []
    for pair in header.split(";"):
        key, equals, value = pair.partition("=")
        if equals and key.strip(_BLANKS) == name:
            value = value.strip(_BLANKS)
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = value[1:-1]
            values.append(value)
    return values


def serialize(name: str, value: str, fields: Mapping[str, Any]) -> str:
    """A Set-Cookie header's value, attributes in the order of cookie 0.7.2, never with Max-Age.

    ``fields`` is the ``cookie`` object of a stored session, in Express's names; what no cookie can hold is left out.
    """
    parts = [f"{name}={value}"]
    domain, path = fields.get("domain"), fields.get("path")
    if isinstance(domain, str) and _DOMAIN.fullmatch(domain):
        parts.append(f"Domain={domain}")
    if isinstance(path, str) and _PATH.fullmatch(path):
        parts.append(f"Path={path}")
    if expires := _http_date(fields.get("expires")):
        parts.append(f"Expires={expires}")
    if fields.get("httpOnly"):
        parts.append("HttpOnly")
    if fields.get("secure"):
        parts.append("Secure")
    if fields.get("partitioned"):
        parts.append("Partitioned")
    priority, same_site = fields.get("priority"), fields.get("sameSite")
    if isinstance(priority, str) and priority.lower() in _PRIORITIES:
        parts.append(f"Priority={_PRIORITIES[priority.lower()]}")
    if same_site is True:
        parts.append("SameSite=Strict")
    elif isinstance(same_site, str) and same_site.lower() in _SAME_SITES:
        parts.append(f"SameSite={_SAME_SITES[same_site.lower()]}")
    return "; ".join(parts)


def _http_date(expires: object) -> str | None:
    # Other software wrote it, perhaps: a date that is none makes a cookie that ends with the browser.
    if not isinstance(expires, str):
        return None
    try:
        return format_datetime(datetime.fromisoformat(expires).astimezone(UTC), usegmt=True)
    except (ValueError, OverflowError):
        return None
