"""The JSON text of a session, as express-session and connect-redis write it.

A text is kept cut by top-level key, each value as the JSON it came in: what nobody touched is stored again byte for
byte, and comparing two texts needs no decoding. Express's milliseconds live here and nowhere else.

Source: express-session 1.19 (session/cookie.js, session/session.js), connect-redis 9.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Any, Final

import msgspec

from sstream.errors import SessionError

__all__ = [
    "COOKIE",
    "MAX_DEPTH",
    "MAX_SAFE_INTEGER",
    "MAX_TEXT",
    "CorruptText",
    "changed_keys",
    "decode_cookie",
    "decode_value",
    "encode_value",
    "format_date",
    "is_canonical",
    "is_reserved",
    "is_written_as",
    "join",
    "milliseconds",
    "split",
]

COOKIE: Final = "cookie"
MAX_SAFE_INTEGER: Final = 2**53  # beyond it JavaScript loses digits
MAX_DEPTH: Final = 64
MAX_TEXT: Final = 1024 * 1024  # bytes; nobody's session, whatever wrote it

_FIRST_DATE: Final = datetime.min.replace(tzinfo=UTC).timestamp()
_LAST_DATE: Final = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()
_BLANKS: Final = (" ", "\t", "\n", "\r")  # RFC 8259, 2
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_WORDS: Final = frozenset({b"true", b"false", b"null"})
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

# Express keeps these on its Session object or finds them on Object.prototype, drops them when it loads, and so erases
# them from the store when it saves.
_RESERVED: Final = frozenset(
    """
    cookie id req save reload touch destroy regenerate resetMaxAge
    constructor hasOwnProperty isPrototypeOf propertyIsEnumerable toLocaleString toString valueOf __proto__
    __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__
    """.split()
)


class CorruptText(ValueError):
    """A stored text that is no session."""


def is_reserved(key: str) -> bool:
    """Would Express lose a top-level value of this name?"""
    return key in _RESERVED


# --- texts ------------------------------------------------------------------------------------------------------------

_split = msgspec.json.Decoder(dict[str, msgspec.Raw])


def split(text: bytes) -> dict[str, bytes]:
    """A session's text cut by top-level key, in its order; ``cookie`` is one of them.

    Raises:
        CorruptText: Not UTF-8, not a JSON object, no ``cookie`` object in it, nested too deeply or over 1 MiB.
    """
    if len(text) > MAX_TEXT:
        raise CorruptText(f"{len(text)} bytes, at most {MAX_TEXT}")
    try:
        whole = text.decode()
        # Cheap bound first: many sessions have fewer brackets than the limit has levels.
        if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _is_too_deep(text):
            raise CorruptText(f"nested more than {MAX_DEPTH} deep")
        try:
            parts = {key: bytes(raw).strip() for key, raw in _split.decode(text).items()}
        except msgspec.DecodeError:
            parts = _split_by_hand(whole)
    except CorruptText:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptText(f"not a session's JSON: {error}") from error
    if not parts.get(COOKIE, b"").startswith(b"{"):
        raise CorruptText("it has no cookie object")
    parts[COOKIE] = _same(parts[COOKIE])
    return parts


@lru_cache(maxsize=256)
def _same(part: bytes) -> bytes:
    # Sessions without an expiry have equal ones: kept once for all, they take 0.1 KB less each.
    return part


def _split_by_hand(whole: str) -> dict[str, bytes]:
    # JSON.stringify escapes half of a cut emoji as a lone surrogate, which msgspec refuses and Python's json takes.
    parts = {}
    at = _skip_blanks(whole, 0)
    separator = whole[at : at + 1]
    if separator != "{":
        raise CorruptText("not a JSON object")
    while separator in ("{", ","):
        key, at = _decoder.raw_decode(whole, _skip_blanks(whole, at + 1))
        at = _skip_blanks(whole, at)
        if not isinstance(key, str) or whole[at : at + 1] != ":":
            raise CorruptText(f"no key and colon before character {at}")
        start = _skip_blanks(whole, at + 1)
        _, end = _decoder.raw_decode(whole, start)
        parts[key] = whole[start:end].encode()
        at = _skip_blanks(whole, end)
        separator = whole[at : at + 1]
    if separator != "}" or _skip_blanks(whole, at + 1) != len(whole):
        raise CorruptText(f"not the end of an object at character {at}")
    return parts


def _skip_blanks(whole: str, at: int) -> int:
    while whole[at : at + 1] in _BLANKS:
        at += 1
    return at


def _is_too_deep(text: bytes) -> bool:
    depth = -1  # the outermost brackets are the text's own
    for bracket in _STRING.sub(b"", text).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def join(parts: Mapping[str, bytes]) -> bytes:
    """The text of the given parts; the opposite of `split`."""
    # What backslashreplace writes for a lone surrogate is JSON's escape for it.
    pairs = [encode_basestring(key).encode("utf-8", "backslashreplace") + b":" + raw for key, raw in parts.items()]
    return b"{" + b",".join(pairs) + b"}"


def changed_keys(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    """The top-level keys, ``cookie`` aside, whose value differs."""
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return {key for key in differ - {COOKIE} if not _means_same(before.get(key), after.get(key))}


def _means_same(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None or (is_canonical(one) and is_canonical(other)):
        return False
    # Other software may write the same with blanks in it. Not `==` of the values: to Python 1 and true are equal.
    return repr(decode_value(one)) == repr(decode_value(other))


def is_canonical(raw: bytes) -> bool:
    """Is ``raw`` for certain what JSON.stringify writes of its value? A quick look; ``False`` may be wrong.

    It knows numbers and names, which most values are: 0.2 us instead of the 6 of decoding and encoding.
    """
    if raw.isdigit():
        return len(raw) < 16
    return (raw[:1] == b'"' and b"\\" not in raw) or raw in _WORDS


# --- values -----------------------------------------------------------------------------------------------------------


# Invariant: `encode_value` takes whatever `decode_value` gives, whoever stored it.


def _integer(digits: str) -> int | float | None:
    if len(digits) < 16:
        return int(digits)
    # What JSON.parse makes of it: past 2**53 a double.
    number = _float(digits)
    return int(number) if number is not None and abs(number) <= MAX_SAFE_INTEGER else number


def _float(digits: str) -> float | None:
    # JSON.parse makes Infinity of 1e400, and JSON.stringify makes null of that.
    number = float(digits)
    return number if math.isfinite(number) else None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant)


def decode_value(raw: bytes) -> Any:
    """The value of one part of `split`, read as JSON.parse reads it, but for lone surrogates, which become U+FFFD."""
    # Common case first, a counter: 0.2 us instead of 3.
    if raw.isdigit() and len(raw) < 16:
        return int(raw)
    value = _decoder.decode(raw.decode())
    return _without_surrogates(value) if _SURROGATE.search(raw) else value


@lru_cache(maxsize=256)
def decode_cookie(raw: bytes) -> Mapping[str, Any]:
    """The ``cookie`` object of a text, not to be changed.

    Remembered: where a cookie ends with the browser, it is the same in all sessions; else a page asks three times.
    """
    fields: Mapping[str, Any] = MappingProxyType(decode_value(raw))
    return fields


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def encode_value(key: str, value: Any) -> bytes:
    """``value`` as JSON.stringify writes it.

    Raises:
        SessionError: JSON, or Express's JavaScript, cannot hold it; the message names ``key`` and the path inside.
    """
    # Common case first: no list for a number or a name, 0.3 us instead of 1.
    if type(value) is int and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        return b"%d" % value
    out: list[str] = []
    _write(value, out, key, 0)
    try:
        return "".join(out).encode()
    except UnicodeEncodeError as error:
        raise SessionError(f"session key {key!r} holds text with a lone surrogate, which no JSON survives") from error


def is_written_as(value: Any, raw: bytes) -> bool:
    """Is ``raw`` for certain how ``value`` is written? A quick look; ``False`` may be wrong.

    It spares the unchanged cart of every call: 0.3 us instead of 4 for `encode_value` of a small dict.
    """
    try:
        return _encode_quickly(value) == raw
    except (msgspec.EncodeError, TypeError, ValueError, OverflowError, RecursionError):
        return False  # `encode_value` finds the words for it


_encode_quickly = msgspec.json.Encoder().encode


def _write(value: Any, out: list[str], path: str, depth: int) -> None:
    if isinstance(value, str):
        out.append(encode_basestring(value))
    elif value is None:
        out.append("null")
    elif value is True:
        out.append("true")
    elif value is False:
        out.append("false")
    elif isinstance(value, int):
        if abs(value) > MAX_SAFE_INTEGER:
            raise SessionError(
                f"session key {path!r}: the integer {_shown(value)} is past 2**53 and loses digits in JavaScript; "
                "store it as text"
            )
        out.append(int.__repr__(value))
    elif isinstance(value, float):
        out.append(_number(value, path))
    elif depth >= MAX_DEPTH:
        raise SessionError(f"session key {path!r} is nested more than {MAX_DEPTH} deep, or contains itself")
    elif isinstance(value, dict):
        comma = "{"
        for key, item in value.items():
            if not isinstance(key, str):
                raise SessionError(f"session key {path!r} holds a dict with the key {key!r}; JSON's keys are text")
            out.append(f"{comma}{encode_basestring(key)}:")
            comma = ","
            _write(item, out, f"{path}.{key}", depth + 1)
        out.append("}" if value else "{}")
    elif isinstance(value, list | tuple):
        comma = "["
        for index, item in enumerate(value):
            out.append(comma)
            comma = ","
            _write(item, out, f"{path}[{index}]", depth + 1)
        out.append("]" if value else "[]")
    else:
        raise SessionError(
            f"session key {path!r} holds a {type(value).__name__}; legal are str, int, float, bool, None, list and dict"
        )


def _shown(value: int) -> str:
    return str(value) if value.bit_length() <= 128 else f"of {value.bit_length()} bits"


def _number(value: float, path: str) -> str:
    """A finite double as ECMA-262, 6.1.6.1.20 (Number::toString) writes it."""
    if not math.isfinite(value):
        raise SessionError(f"session key {path!r} holds {value}, which is no JSON")
    if value.is_integer() and abs(value) <= MAX_SAFE_INTEGER:
        return str(int(value))
    text = float.__repr__(value)
    mantissa, e, exponent = text.partition("e")
    if e and not -7 < int(exponent) < 21:
        return f"{mantissa}e{int(exponent):+d}"
    if e or text.endswith(".0"):
        return format(Decimal(text.removesuffix(".0")), "f")
    return text


# --- dates ------------------------------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> int:
    """Express's unit for a lifetime of ``seconds``."""
    return round(seconds * 1000)


def format_date(timestamp: float) -> str:
    """A Unix time as ``Date.prototype.toISOString`` writes it: UTC, three fraction digits, ``Z``.

    What lies beyond the calendar, before year 1 or after 9999, is moved to its end.
    """
    timestamp = min(max(round(timestamp, 3), _FIRST_DATE), _LAST_DATE)
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
