"""Reading one session and writing it: the newest text, what changed of it, and compare-and-set until it is stored."""

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from sstream.counters import SessionCounts
from sstream.errors import SessionError, SessionGone, StoreError
from sstream.session import express
from sstream.session.copies import Copies, SessionSocket
from sstream.session.options import SessionOptions
from sstream.session.records import Records
from sstream.session.session import BOOKKEEPING, USER_ID, Session, is_user_id
from sstream.session.store import SessionStore

__all__ = ["Commits", "announced_move", "log_name"]

_log = logging.getLogger("sstream.session")

_LONGEST: Final = 100 * 365 * 86400  # seconds, a hundred years: Express's maxAge may be any number
_LOGGED: Final = 1000  # corrupt sessions that are remembered, so that each is logged once


def log_name(sid: str) -> str:
    """What stands in logs for a session: eight hex digits that do not lead back to its id."""
    return hashlib.sha256(sid.encode()).hexdigest()[:8]


def announced_move(books: Mapping[str, Any]) -> tuple[str, float] | None:
    """The id that a session is to move to, and the Unix time at which it does so by itself.

    Anybody may have written anything there: what is not as we write it, is nothing.
    """
    moves = books.get("moves")
    if not isinstance(moves, dict):
        return None
    to, by = moves.get("to"), moves.get("by")
    return (to, float(by)) if isinstance(to, str) and isinstance(by, int | float) else None


class _Turn:
    """Lets the commits of this process to one session queue instead of racing each other at the store.

    It is in ``turns`` for as long as anybody has it or waits for it. (A weak dict costs 3 us more for each commit.)
    """

    __slots__ = ("_lock", "_sid", "_turns", "_users", "parts", "text")

    def __init__(self, turns: dict[str, "_Turn"], sid: str) -> None:
        self._turns = turns
        self._sid = sid
        self._lock = asyncio.Lock()
        self._users = 0
        self.text: bytes | None = None  # what the last commit stored
        self.parts: Mapping[str, bytes] = {}

    async def __aenter__(self) -> None:
        self._turns[self._sid] = self
        self._users += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            del self._turns[self._sid]


class Commits:
    """How one process reads and writes sessions.

    Args:
        store: Where the texts are.
        options: How sessions live.
        deadline: Seconds that a write may take with all its retries; ``None`` for no bound.
        clock: Unix time in seconds.
        counts: Where loads and saves are counted.
    """

    def __init__(
        self,
        store: SessionStore,
        options: SessionOptions,
        deadline: float | None,
        clock: Callable[[], float],
        counts: SessionCounts,
    ) -> None:
        self.store = store
        self.counts = counts
        self.options = options
        self.records = Records(store, options, clock)
        self.copies = Copies(store, options.prefix, self.split, self.records, counts)
        self._deadline = deadline
        self._clock = clock
        self._turns: dict[str, _Turn] = {}
        self._corrupt: dict[str, None] = {}  # already logged

    # --- reading ------------------------------------------------------------------------------------------------------

    def key_of(self, sid: str) -> str:
        """The store's key for a session."""
        return self.options.prefix + sid

    def split(self, sid: str, text: bytes) -> dict[str, bytes] | None:
        """A stored text cut by key; ``None``, and one log line, for one that is no session."""
        try:
            return express.split(text)
        except express.CorruptText as error:
            if sid not in self._corrupt:
                if len(self._corrupt) >= _LOGGED:
                    self._corrupt.clear()
                self._corrupt[sid] = None
                _log.error("session %s cannot be read and is left alone: %s", log_name(sid), error)
            return None

    def split_or_raise(self, sid: str, text: bytes) -> dict[str, bytes]:
        """The same; `SessionGone` for one that is no session any more."""
        parts = self.split(sid, text)
        if parts is None:
            raise SessionGone("somebody has overwritten this session with something else; nothing was stored")
        return parts

    async def read_into(self, session: Session) -> None:
        """Bring ``session`` to the newest text; raises `SessionGone`."""
        while True:
            sid = session.id
            text = await self.store.get(self.key_of(sid))
            if text is not None:
                session.rebase(text, self.split_or_raise(sid, text))
                self.counts.loads += 1
                return
            await self.follow(session, sid)

    async def follow(self, session: Session, sid: str) -> None:
        """Go where a session went that is not stored under ``sid`` any more; `SessionGone` if that was its end."""
        fate = await self.records.fate(sid)
        if session.id != sid:
            return  # it was led to its new id meanwhile
        if fate.moved_to is not None:
            session.follow(fate.moved_to)
            return
        session.mark_gone()
        self.copies.end(sid, fate.reason)
        raise SessionGone("this session was ended in the meantime")

    def new_cookie(self, session: Session) -> dict[str, Any]:
        """The ``cookie`` object of a session that has none yet."""
        fields = self.options.cookie(session.is_https)
        if self.options.persistent:
            fields["originalMaxAge"] = express.milliseconds(self.options.max_age)
            fields["expires"] = express.format_date(self._clock() + self.options.max_age)
        return fields

    def ttl(self, session: Session) -> int:
        """Seconds that the store shall keep the session from now; not above 0 if its whole life is over."""
        return self._ttl(session.cookie, session.bookkeeping)

    def _ttl(self, cookie_fields: Mapping[str, Any], books: Mapping[str, Any]) -> int:
        original = cookie_fields.get("originalMaxAge")
        ttl = original / 1000 if isinstance(original, int | float) else self.options.max_age
        now = self._clock()
        if self.options.absolute_max_age is not None and isinstance(books.get("born"), int | float):
            ttl = min(ttl, books["born"] + self.options.absolute_max_age - now)
        move = announced_move(books)
        if move is not None:
            # Should nobody live to end the grace time, the store does, a little later.
            ttl = min(ttl, max(move[1] - now, 0) + self.options.renew_grace)
        return math.ceil(min(ttl, _LONGEST))

    # --- committing ---------------------------------------------------------------------------------------------------

    async def commit(
        self,
        session: Session,
        changes: Mapping[str, bytes | None],
        *,
        retry: bool = True,
        original: Session | None = None,
    ) -> bool:
        """Store ``changes`` on top of the newest text. False if somebody was faster and ``retry`` is off.

        Where ``session`` is a scratch copy, ``original`` is what it is a copy of, and is brought to the same text.

        Raises:
            SessionGone: It was ended.
            SessionError: It would grow too big; every unsaved change is dropped.
            StoreError: The store did not answer, or others were faster for the whole deadline.
        """
        end = self.time_limit()
        turn = self._turns.get(session.id) or _Turn(self._turns, session.id)
        async with turn:
            text, parts = session.snapshot()
            if retry and text is not None and turn.text is not None:
                text, parts = turn.text, turn.parts
            while True:
                sid = session.id
                new, merged = self.apply(session, changes, text, parts)
                ttl = self.ttl_of(merged)
                if ttl <= 0:
                    with self.copies.doubting(sid):
                        await self.store.delete(self.key_of(sid))
                    session.mark_gone()
                    self.copies.end(sid, "expired")
                    raise SessionGone("this session has lived as long as it may")
                write = self.copies.begin_write(sid)
                with self.copies.doubting(sid):
                    made, stored = await self.store.swap(self.key_of(sid), text, new, ttl)
                if made:
                    break
                self.counts.conflicts += 1
                self.check_time(end)
                if stored is None:
                    if text is None:
                        continue  # it was there and is gone again: the id is free
                    await self.follow(session, sid)
                    stored = await self.store.get(self.key_of(session.id))
                    if stored is None:
                        continue
                self.counts.retries += 1
                if not retry:
                    return False
                text, parts = stored, self.split_or_raise(session.id, stored)
            turn.text, turn.parts = new, merged
            session.rebase(new, merged, changes.keys())
            if original is not None:
                original.follow(session.id)
                original.rebase(new, merged)
        socket: SessionSocket | None = session.owner if original is None else original.owner
        self.copies.end_write(write, new, merged, socket)
        heard = self.tell(session, changes, socket)
        try:
            if USER_ID in changes:
                await self.index(session)
        finally:
            # It is stored, whatever becomes of the index.
            if heard is not None:
                await heard
        return True

    def tell(
        self, session: Session, changes: Mapping[str, bytes | None], socket: SessionSocket | None
    ) -> Awaitable[None] | None:
        """Count ``changes`` that are stored, and tell the ``socket`` that made them; gives what is to be awaited."""
        self.counts.saves += 1
        changed = frozenset(changes) - {BOOKKEEPING, express.COOKIE}
        if self.counts.watcher is not None:
            self.counts.watcher(session.id, changed, "page" if socket is None else "socket", socket)
        return None if socket is None else socket.session_saved(changed)

    def apply(
        self, session: Session, changes: Mapping[str, bytes | None], text: bytes | None, parts: Mapping[str, bytes]
    ) -> tuple[bytes, dict[str, bytes]]:
        """What ``changes`` make of a stored ``text``, whose ``parts`` these are: a text and its parts.

        Raises:
            SessionError: It would grow too big; every unsaved change is dropped.
        """
        merged = self._merge(session, parts, changes)
        new = express.join(merged)
        # Express knows no limit: what it made too big may be made smaller.
        if len(new) > self.options.max_size and len(new) >= len(text or b""):
            raise self._too_big(session, changes, len(new))
        return new, merged

    def check_size(self, session: Session, changes: Mapping[str, bytes | None]) -> None:
        """Raise what `commit` would if ``changes`` made ``session`` too big; every unsaved change is dropped then."""
        text, parts = session.snapshot()
        # Common case first: far from it, whatever is replaced. A key is written in up to six times its length.
        added = sum(6 * len(key) + len(raw or b"") + 4 for key, raw in changes.items())
        if text is None or len(text) + added > self.options.max_size:
            self.apply(session, changes, text, parts)

    def _too_big(self, session: Session, changes: Mapping[str, bytes | None], size: int) -> SessionError:
        session.rollback()
        key = max(changes, key=lambda key: len(changes[key] or b""))
        return SessionError(
            f"session key {key!r} makes the session {size} bytes; at most {self.options.max_size} are legal"
        )

    def _merge(
        self, session: Session, parts: Mapping[str, bytes], changes: Mapping[str, bytes | None]
    ) -> dict[str, bytes]:
        merged = {express.COOKIE: b"", **parts}  # where it stood, or first
        merged[express.COOKIE] = self._merge_cookie(session, parts.get(express.COOKIE), changes.get(express.COOKIE))
        if not parts and self.options.absolute_max_age is not None:
            merged[BOOKKEEPING] = self.birth()
        for key, value in changes.items():
            if value is None:
                merged.pop(key, None)
            elif key != express.COOKIE:
                merged[key] = value
        return merged

    def _merge_cookie(self, session: Session, stored: bytes | None, changed: bytes | None) -> bytes:
        raw = changed if changed is not None else stored
        fields = self.new_cookie(session) if raw is None else express.decode_cookie(raw)
        renewed = self.renew_expiry(fields)
        # What is as it was keeps its bytes.
        return raw if raw is not None and renewed == fields else msgspec.json.encode(renewed)

    def renew_expiry(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A ``cookie`` object whose time begins now, if it has one; as Express's ``resetMaxAge``."""
        original = fields.get("originalMaxAge")
        if not isinstance(original, int | float):
            return {**fields, "expires": None}
        return {**fields, "expires": express.format_date(self._clock() + original / 1000)}

    def ttl_of(self, parts: Mapping[str, bytes]) -> int:
        """Like `ttl`, of a text that is cut by key."""
        books = express.decode_value(parts[BOOKKEEPING]) if BOOKKEEPING in parts else {}
        return self._ttl(express.decode_cookie(parts[express.COOKIE]), books if isinstance(books, dict) else {})

    def birth(self) -> bytes:
        """The bookkeeping of a session that is born now."""
        return express.encode_value(BOOKKEEPING, {"born": math.floor(self._clock())})

    async def index(self, session: Session) -> None:
        """Note whose session it is, if it is anybody's."""
        if is_user_id(session.user_id):
            await self.records.add_session(session.user_id, session.id)

    def time_limit(self) -> float:
        """When a write that begins now must have ended, on the loop's clock."""
        return math.inf if self._deadline is None else asyncio.get_running_loop().time() + self._deadline

    def check_time(self, end: float) -> None:
        """Raise `StoreError` if it is later than that."""
        if asyncio.get_running_loop().time() > end:
            raise StoreError(f"others kept writing this session for {self._deadline} s; nothing was stored")
