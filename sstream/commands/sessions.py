"""Looks at stored sessions, ours and those that Express wrote, and ends them."""

import argparse
import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sstream.backend.connection import Refusal
from sstream.commands.servers import add_url, ask, connections_to, store_url
from sstream.errors import ConfigurationError, StoreError
from sstream.session import express
from sstream.session.options import SessionOptions
from sstream.session.redis import RedisStore
from sstream.session.session import BOOKKEEPING, CHANNELS, USER_ID
from sstream.session.sessions import Sessions
from sstream.settings import fill

__all__ = ["add_command"]

_PAGE: Final = 500  # keys that are asked for at once
_SHOWN: Final = 6  # characters of an id; what is left, 156 bits, nobody guesses
_OURS: Final = (express.COOKIE, USER_ID, CHANNELS, BOOKKEEPING)
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_GLOB: Final = re.compile(r"[][*?\\^]")


def add_command(commands: Any) -> None:
    """Add ``sessions``."""
    parser = commands.add_parser(
        "sessions",
        help="list, show and end stored sessions",
        description="Look at the sessions in a Redis, and end them. An id is a password: it is shown shortened, and a "
        "shortened one may be given wherever it is the only one of its kind.",
    )
    actions = parser.add_subparsers(metavar="action", required=True)

    listing = actions.add_parser("list", help="list them", description="List the stored sessions.")
    listing.add_argument("--user", metavar="ID", help="those of this user alone")
    listing.add_argument("--limit", type=limit, default=100, metavar="N", help="so many at most (100); 0 for all")
    listing.set_defaults(run=lambda options: asyncio.run(list_sessions(options)))

    show = actions.add_parser("show", help="show one", description="Show one session, without its values.")
    show.add_argument("id", help="its id, or the beginning of it")
    show.set_defaults(run=lambda options: asyncio.run(show_session(options)))

    end = actions.add_parser(
        "end", help="end some", description="End sessions: every socket of theirs is closed, on every process."
    )
    end.add_argument("ids", nargs="*", metavar="id", help="an id, or the beginning of one")
    end.add_argument("--user", metavar="ID", help="all of this user")
    end.set_defaults(run=lambda options: asyncio.run(end_sessions(options)))

    for action in (listing, show, end):
        add_url(action)
        action.add_argument("--prefix", help="what stands before an id; else SSTREAM_SESSION_PREFIX, else sess:")
    for action, text in ((listing, "show whole ids"), (show, "show the whole id, and all values")):
        action.add_argument("--full", action="store_true", help=f"{text}; they are secrets")


# --- what is stored ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it lies in Redis.

    Attributes:
        sid: Its id.
        size: Bytes of its text.
        ttl: Seconds that it has left; ``None`` if it never ends.
        parts: Its text by top-level key; empty if it is no session's.
        problem: Why not.
    """

    sid: str
    size: int
    ttl: int | None
    parts: dict[str, bytes] = field(repr=False)
    problem: str = ""

    @property
    def user_id(self) -> str:
        """Who is logged in, as text; empty if nobody is."""
        user_id = self.value(USER_ID)
        return "" if user_id is None else str(user_id)

    @property
    def keys(self) -> list[str]:
        """What the application has stored in it."""
        return [key for key in self.parts if key not in _OURS]

    def value(self, key: str) -> Any:
        return express.decode_value(self.parts[key]) if key in self.parts else None


class Shelf:
    """The sessions of one Redis."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix

    async def all(self, pattern: str = "*") -> AsyncGenerator[Stored, None]:
        """Every session whose id fits a glob, in no order."""
        seen = set()  # Redis may name a key twice while its table grows
        match = _GLOB.sub(r"\\\g<0>", self.prefix) + pattern
        async with connections_to(self.url) as connections:
            for connection in connections:
                cursor: Any = b"0"
                while True:
                    (page,) = await ask(connection, ("SCAN", cursor, "MATCH", match, "COUNT", _PAGE))
                    if isinstance(page, Refusal):
                        raise StoreError(f"Redis refused SCAN: {page}")
                    cursor, keys = page
                    new = [key for key in keys if key not in seen]
                    seen.update(new)
                    asked = [command for key in new for command in (("GET", key), ("PTTL", key))]
                    answers = await ask(connection, *asked)
                    for key, text, left in zip(new, answers[::2], answers[1::2], strict=True):
                        if text is not None:  # it ended meanwhile
                            yield self._read(key, text, left)
                    if cursor == b"0":
                        break

    def _read(self, key: bytes, text: Any, left: Any) -> Stored:
        sid = key.decode("utf-8", "surrogateescape").removeprefix(self.prefix)
        ttl = -(-left // 1000) if isinstance(left, int) and left >= 0 else None
        if isinstance(text, Refusal):
            return Stored(sid, 0, ttl, {}, "it is no text")
        try:
            return Stored(sid, len(text), ttl, express.split(text))
        except express.CorruptText as error:
            return Stored(sid, len(text), ttl, {}, str(error))

    async def find(self, beginning: str) -> Stored:
        """The one session whose id begins like this.

        Raises:
            ConfigurationError: There is none, or more than one.
        """
        beginning = beginning.removesuffix("…")
        if not beginning:
            raise ConfigurationError("an empty text is no id")
        pattern = _GLOB.sub(r"\\\g<0>", beginning) + "*"
        found = []
        async with contextlib.aclosing(self.all(pattern)) as sessions:
            async for stored in sessions:
                if stored.sid == beginning:
                    return stored
                found.append(stored)
        if len(found) != 1:
            what = f"{len(found)} sessions" if found else "no session"
            raise ConfigurationError(f"there is {what} whose id begins with {shortened(beginning)}")
        return found[0]


def shelf_of(options: argparse.Namespace) -> Shelf:
    """The sessions that the command line and the environment speak of."""
    prefix = options.prefix
    return Shelf(store_url(options.redis), prefix if prefix is not None else _session_options().prefix)


def _session_options() -> SessionOptions:
    return fill(SessionOptions(), "SSTREAM_SESSION_")


def limit(text: str) -> int:
    """A number of lines; 0 for all."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


# --- the actions ------------------------------------------------------------------------------------------------------


async def list_sessions(options: argparse.Namespace) -> int:
    """Print a line for each session."""
    rows = [("id", "user", "left", "bytes", "keys")]
    more = False
    async with contextlib.aclosing(shelf_of(options).all()) as sessions:
        async for stored in sessions:
            if options.user is not None and stored.user_id != options.user:
                continue
            if options.limit and len(rows) > options.limit:
                more = True
                break
            keys = f"({stored.problem})" if stored.problem else ", ".join(stored.keys)
            sid = stored.sid if options.full else shortened(stored.sid)
            rows.append((sid, stored.user_id, duration(stored.ttl), str(stored.size), keys))
    write(*columns([tuple(map(printable, row)) for row in rows]))
    if more:
        print(f"there are more than {options.limit}: --limit 0 shows all", file=sys.stderr)  # noqa: T201
    return 0


async def show_session(options: argparse.Namespace) -> int:
    """Print what is known of one session, and its values where ``--full`` says so."""
    stored = await shelf_of(options).find(options.id)
    channels = stored.value(CHANNELS)
    rows = [
        ("id", stored.sid if options.full else shortened(stored.sid)),
        ("user", stored.user_id or "nobody"),
        ("left", duration(stored.ttl)),
        ("bytes", str(stored.size)),
        ("channels", ", ".join(map(str, channels)) if isinstance(channels, list) and channels else "none"),
    ]
    if stored.problem:
        rows.append(("problem", stored.problem))
    for key in stored.parts if options.full else stored.keys:
        raw = stored.parts[key]
        rows.append((f"[{key}]", raw.decode() if options.full else f"{kind(raw)}, {len(raw)} bytes"))
    write(*columns([tuple(map(printable, row)) for row in rows]))
    return 0


async def end_sessions(options: argparse.Namespace) -> int:
    """End some sessions."""
    if bool(options.ids) == (options.user is not None):
        raise ConfigurationError("which? Give ids, or --user, and not both")
    shelf = shelf_of(options)
    if options.user is not None:
        sids = [stored.sid async for stored in shelf.all() if stored.user_id == options.user]
    else:
        sids = [(await shelf.find(beginning)).sid for beginning in options.ids]
    store = RedisStore(shelf.url, deadline=5.0)
    sessions = Sessions(store, _session_options().but(prefix=shelf.prefix), deadline=5.0)
    try:
        ended = [sid for sid in sids if await sessions.end(sid)]
    finally:
        await sessions.close()
        await store.close()
    write(f"ended {len(ended)} session{'' if len(ended) == 1 else 's'}")
    return 0 if ended else 1


# --- how it is shown --------------------------------------------------------------------------------------------------


def shortened(sid: str) -> str:
    """An id that cannot be used."""
    return sid[:_SHOWN] + "…"


def duration(seconds: int | None) -> str:
    """Seconds in the two largest units that fit."""
    if seconds is None:
        return "for ever"
    words = []
    for unit, size in _UNITS:
        if seconds >= size or unit == "s":
            words.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(word for word in words[:2] if not word.startswith("0 ")) or "0 s"


def kind(raw: bytes) -> str:
    """What kind of value a JSON text is."""
    return {b"{": "object", b"[": "array", b'"': "text", b"t": "boolean", b"f": "boolean", b"n": "null"}.get(
        raw[:1], "number"
    )


def printable(text: str) -> str:
    """``text`` without anything that a terminal might obey: visitors may have written it."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines, column under column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def write(*lines: str) -> None:
    """Print, also where the terminal cannot show every character."""
    for line in lines:
        encoding = sys.stdout.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding))  # noqa: T201, this is a program
