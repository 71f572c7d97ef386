"""What this process knows of the sessions that its sockets hold open, and how it stays true."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

from sstream.counters import SessionCounts
from sstream.errors import SessionGone, StoreError
from sstream.session import express
from sstream.session.records import Records
from sstream.session.session import BOOKKEEPING, Session
from sstream.session.store import SessionStore

__all__ = ["Copies", "Copy", "SessionSocket"]

_FIRST_PAUSE: Final = 0.05  # seconds between two attempts at a store that is away, doubled up to the last
_LAST_PAUSE: Final = 1.0

Split = Callable[[str, bytes], Mapping[str, bytes] | None]


class SessionSocket(Protocol):
    """What an open socket hears of its session; called from the event loop, must not block."""

    @property
    def session(self) -> Session:
        """Its copy."""

    def session_changed(self, keys: frozenset[str]) -> None:
        """Somebody else changed these top-level keys."""

    def session_saved(self, keys: frozenset[str]) -> Awaitable[None] | None:
        """This socket's own copy has changed these top-level keys, and they are stored.

        The save awaits what it returns.
        """

    def session_moved(self, sid: str) -> None:
        """It has another id now."""

    def session_ended(self, reason: str) -> None:
        """It is over."""

    def session_offered(self, ticket: str) -> None:
        """Let the browser trade ``ticket`` for its new cookie."""


class Copy:
    """One session as it was last seen in the store, and the sockets that have it open."""

    __slots__ = ("fresh", "generation", "joining", "parts", "sid", "sockets", "text")

    def __init__(self, sid: str) -> None:
        self.sid = sid
        self.text: bytes | None = None
        self.parts: Mapping[str, bytes] = {}
        self.sockets: tuple[SessionSocket, ...] = ()  # few, each once; a set takes 0.17 KB more
        self.joining = 0
        # Invariant: fresh says that the store will report the next change of ``text`` by anybody else; whenever it may
        # not any more, it says so, and no copy is fresh.
        self.fresh = False
        # Counts the reports and our own writes. One that arrives while a read is under way may speak of a later text
        # than the one that was read, so a read makes the copy fresh only if the count stood still.
        self.generation = 0


class Copies:
    """The copies of one process, by session id.

    Whoever changes a session, one read for all its sockets follows, and they hear what changed. Of a session that is
    not there any more they hear that it ended, or they follow it to its new id.

    Args:
        store: Where sessions are.
        prefix: In front of a session's id in the store's keys.
        split: Cuts a text of the store; ``None`` for one that cannot be read.
        records: Tell where a session went.
        counts: Where loads are counted.
    """

    def __init__(self, store: SessionStore, prefix: str, split: Split, records: Records, counts: SessionCounts) -> None:
        self._store = store
        self._counts = counts
        self._prefix = prefix
        self._split = split
        self._records = records
        self._copies: dict[str, Copy] = {}
        self._stale: set[str] = set()  # those that the refresher has still to read
        self._refresher: asyncio.Task[None] | None = None
        self._closed = False
        store.watch(self._on_report)

    # --- sockets ------------------------------------------------------------------------------------------------------

    async def join(self, socket: SessionSocket, sid: str) -> Copy | None:
        """Let ``socket`` hear of a stored session from now on; ``None`` if it is not stored.

        Raises:
            StoreError: The store did not answer; the socket has not joined.
        """
        copy = self._copies.setdefault(sid, Copy(sid))
        copy.joining += 1
        try:
            if not copy.fresh:
                await self._read(copy)
            if copy.text is None or self._copies.get(sid) is not copy:
                return None
            copy.sockets += (socket,)
            return copy
        finally:
            copy.joining -= 1
            self._drop_unused(copy)

    def adopt(self, socket: SessionSocket, session: Session) -> None:
        """Let ``socket`` hear from now on of a session that it has stored itself.

        Nothing is asked before: should the store go away now, the socket still hears of the session's end. What came
        between the write and now was reported to nobody, so the session is read once more.
        """
        copy = self._copies.get(session.id)
        if copy is None:
            copy = self._copies[session.id] = Copy(session.id)
        elif socket in copy.sockets:
            return
        if copy.text is None:
            copy.text, copy.parts = session.snapshot()
        copy.sockets += (socket,)
        self._mark_stale(copy)

    def leave(self, socket: SessionSocket, sid: str) -> None:
        """Forget ``socket``."""
        copy = self._copies.get(sid)
        if copy is not None:
            copy.sockets = tuple(other for other in copy.sockets if other is not socket)
            self._drop_unused(copy)

    def count(self, sid: str) -> int:
        """How many sockets have a session open."""
        copy = self._copies.get(sid)
        return len(copy.sockets) if copy is not None else 0

    def _drop_unused(self, copy: Copy) -> None:
        if not copy.sockets and not copy.joining and self._copies.get(copy.sid) is copy:
            copy.fresh = False
            del self._copies[copy.sid]

    # --- using a copy -------------------------------------------------------------------------------------------------

    def get(self, sid: str) -> Copy | None:
        """The copy of a session, if a socket of this process has it open."""
        return self._copies.get(sid)

    def catch_up(self, session: Session) -> None:
        """Bring a socket's session to what this process knows."""
        copy = self._copies.get(session.id)
        if copy is not None and copy.text is not None and copy.text is not session.snapshot()[0]:
            session.rebase(copy.text, copy.parts)

    async def refresh(self, session: Session) -> None:
        """Make a socket's session the newest there is, reading only if it may be stale.

        Raises:
            SessionGone: It was ended.
            StoreError: It may be stale, and the store does not answer.
        """
        while True:
            copy = self._copies.get(session.id)
            if session.is_gone or copy is None:
                raise SessionGone("this session was ended")
            if copy.fresh:
                break
            await self._read(copy)
            if self._copies.get(session.id) is copy:
                break
        self.catch_up(session)

    # --- what changed -------------------------------------------------------------------------------------------------

    def begin_write(self, sid: str) -> tuple[Copy, int] | None:
        """To be called before this process writes a session, and what it returns given to `end_write`."""
        copy = self._copies.get(sid)
        if copy is None:
            return None
        copy.generation += 1
        return copy, copy.generation

    def end_write(
        self,
        write: tuple[Copy, int] | None,
        text: bytes,
        parts: Mapping[str, bytes],
        by: SessionSocket | None,
    ) -> None:
        """This process has written a session; every socket of it but ``by`` hears what changed."""
        if write is not None and self._copies.get(write[0].sid) is write[0]:
            self._learn(*write, text, parts, by)

    def doubting(self, sid: str) -> AbstractContextManager[None]:
        """Around a write of this process: if it fails, what is stored is unknown, and the copy is read anew."""
        return _Doubt(self, sid)

    def doubt(self, sid: str) -> None:
        """What is stored of a session is unknown: its copy, if there is one, is read anew."""
        copy = self._copies.get(sid)
        if copy is not None:
            self._mark_stale(copy)

    def end(self, sid: str, reason: str) -> None:
        """A session is over: its sockets hear so."""
        copy = self._copies.pop(sid, None)
        if copy is not None:
            copy.fresh = False
            for socket in copy.sockets:
                socket.session_ended(reason)

    def move(
        self,
        old: str,
        new: str,
        stored: tuple[bytes, Mapping[str, bytes]] | None = None,
        by: SessionSocket | None = None,
    ) -> None:
        """A session has moved to another id: its sockets follow.

        If this process moved it, they hear what changed in what was ``stored`` there, except ``by``, who changed it.
        """
        copy = self._copies.pop(old, None)
        if copy is None:
            return
        copy.fresh = False
        if not copy.sockets:
            return  # somebody only looked for it
        target = self._copies.setdefault(new, Copy(new))
        missed: frozenset[str] = frozenset()
        if target.text is None:
            target.text, target.parts = copy.text, copy.parts
        elif copy.text is not None:
            # Some of its sockets were there before: what they have heard of, these have not.
            missed = frozenset(express.changed_keys(copy.parts, target.parts) - {BOOKKEEPING})
        for socket in copy.sockets:
            socket.session_moved(new)
            if socket not in target.sockets:
                target.sockets += (socket,)
                if missed and socket is not by:
                    socket.session_changed(missed)
        if stored is not None:
            self._learn(target, target.generation, *stored, by)
        # What came between that write and now was reported to nobody.
        self._mark_stale(target)

    async def _read(self, copy: Copy) -> None:
        generation = copy.generation
        text = await self._store.get(self._prefix + copy.sid)
        parts = self._split(copy.sid, text) if text is not None else None
        if self._copies.get(copy.sid) is not copy:
            return
        if text is not None and parts is not None:
            self._counts.loads += 1
            if self._counts.watcher is not None and copy.text is not None:
                changed = frozenset(express.changed_keys(copy.parts, parts) - {BOOKKEEPING, express.COOKIE})
                if changed:
                    self._counts.watcher(copy.sid, changed, "elsewhere", None)
            self._learn(copy, generation, text, parts, None)
            return
        if text is not None:
            self.end(copy.sid, "corrupt")
            return
        fate = await self._records.fate(copy.sid)
        if self._copies.get(copy.sid) is not copy:
            return
        if fate.moved_to is not None:
            self.move(copy.sid, fate.moved_to)
        else:
            self.end(copy.sid, fate.reason)

    def _learn(
        self, copy: Copy, generation: int, text: bytes, parts: Mapping[str, bytes], by: SessionSocket | None
    ) -> None:
        others = [socket for socket in copy.sockets if socket is not by]
        # Common case first: nobody else is there to hear of it, and 5 us are spared.
        changed: frozenset[str] = frozenset()
        if others and copy.text is not None:
            changed = frozenset(express.changed_keys(copy.parts, parts) - {BOOKKEEPING})
        if text != copy.text:
            copy.text, copy.parts = text, parts
        is_newest = copy.generation == generation
        # A store that reports nothing keeps no copy fresh: every call reads.
        copy.fresh = is_newest and self._store.coherent
        if not is_newest:
            self._mark_stale(copy)
        if by is not None:
            self.catch_up(by.session)
        if changed:
            for socket in others:
                socket.session_changed(changed)

    # --- what the store reports ---------------------------------------------------------------------------------------

    def _on_report(self, key: str | None) -> None:
        if key is None:
            for copy in self._copies.values():
                self._mark_stale(copy)
        elif key.startswith(self._prefix):
            found = self._copies.get(key[len(self._prefix) :])
            if found is not None:
                self._mark_stale(found)

    def _mark_stale(self, copy: Copy) -> None:
        copy.fresh = False
        copy.generation += 1
        if self._closed:
            return
        self._stale.add(copy.sid)
        if self._refresher is None or self._refresher.done():
            self._refresher = asyncio.get_running_loop().create_task(self._refresh_stale())

    async def _refresh_stale(self) -> None:
        """Read every stale copy, so that sockets hear of changes and ends without asking."""
        pause = _FIRST_PAUSE
        while self._stale:
            copies = [self._copies[sid] for sid in self._stale if sid in self._copies]
            self._stale.clear()
            failed = [sid for sid in await asyncio.gather(*map(self._try_read, copies)) if sid is not None]
            if not failed:
                pause = _FIRST_PAUSE
                continue
            # The store is away: ask again, more and more rarely, until it is back.
            self._stale.update(failed)
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, _LAST_PAUSE)

    async def _try_read(self, copy: Copy) -> str | None:
        try:
            await self._read(copy)
        except StoreError:
            return copy.sid
        return None

    async def close(self) -> None:
        """Stop reading."""
        self._closed = True
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)


class _Doubt(AbstractContextManager[None]):
    """What `Copies.doubting` gives; a class, because a generator's context costs 1 us more."""

    __slots__ = ("_copies", "_sid")

    def __init__(self, copies: Copies, sid: str) -> None:
        self._copies = copies
        self._sid = sid

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None:
            self._copies.doubt(self._sid)
