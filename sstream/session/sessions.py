"""All sessions of an application: find, renew and end them."""

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from sstream.counters import SessionCounts
from sstream.errors import ConfigurationError, SessionGone, StoreError
from sstream.session import cookie, express
from sstream.session.commits import Commits, announced_move, log_name
from sstream.session.copies import Copy, SessionSocket
from sstream.session.options import SessionOptions
from sstream.session.records import BadTicket, Ticket
from sstream.session.session import BOOKKEEPING, USER_ID, Session
from sstream.session.store import SessionStore

__all__ = ["Sessions"]

T = TypeVar("T")

_log = logging.getLogger("sstream.session")

_PLACED_TTL: Final = 60  # seconds
_SETTLE_PAUSE: Final = 0.1  # seconds between two attempts at a store that is away
_REMEMBERED: Final = 1024  # cookies that were verified, 0.3 KB each


class Sessions:
    """The session registry of one process.

    Args:
        store: Where the texts are.
        options: How sessions live.
        deadline: Seconds that a save may take with all its retries; ``None`` for no bound.
        max_channels: Channels one session may be subscribed to; ``None`` for no bound.
        clock: Unix time in seconds.
        counts: Where loads and saves are counted.
    """

    def __init__(
        self,
        store: SessionStore,
        options: SessionOptions,
        *,
        deadline: float | None = 1.0,
        max_channels: int | None = 128,
        clock: Callable[[], float] = time.time,
        counts: SessionCounts | None = None,
    ) -> None:
        self.store = store
        self.options = options
        self.max_channels = max_channels
        self._clock = clock
        self.counts = counts if counts is not None else SessionCounts()
        self._commits = Commits(store, options, deadline, clock, self.counts)
        self._records = self._commits.records
        self._copies = self._commits.copies
        self._handovers: dict[str, asyncio.Task[None]] = {}  # sid -> ends its grace time
        self._moving: set[asyncio.Task[None]] = set()  # those of them whose grace time is over
        self._is_closing = False
        self._settling: set[asyncio.Task[None]] = set()  # what goes on where the store went away during a move
        self._verified: dict[str, str] = {}  # a cookie's value -> the id in it

    # --- getting sessions ---------------------------------------------------------------------------------------------

    def new(self, *, is_https: bool = False) -> Session:
        """A session with a fresh id and nothing in it; nothing is stored until it is saved."""
        session = Session(self, self._new_sid())
        session.is_https = is_https
        return session

    def _new_sid(self) -> str:
        sid = self.options.genid()
        if not cookie.is_sid(sid):
            raise ConfigurationError(
                f"genid gave {sid!r}, which is no session id; legal are 1 to 256 letters, digits and _.~:+/=@,-"
            )
        return sid

    async def create(self, data: Mapping[str, Any] | None = None, *, user_id: str | int | None = None) -> Session:
        """A stored session with ``data`` in it, for scripts and tests; `cookie_value` gives it to a browser."""
        session = self.new()
        session.update(data or {})
        session.put_own(USER_ID, user_id)
        await self._commits.commit(session, session.changes())
        return session

    async def get(self, sid: str) -> Session | None:
        """The stored session of this id, or ``None`` if there is none, or none that can be read.

        Raises:
            StoreError: The store did not answer.
        """
        text = await self.store.get(self._commits.key_of(sid))
        parts = self._commits.split(sid, text) if text is not None else None
        if text is None or parts is None:
            return None
        self.counts.loads += 1
        session = Session(self, sid, text, parts)
        return session if await self._admit(session) else None

    async def _admit(self, session: Session) -> bool:
        announced = announced_move(session.bookkeeping)
        if announced is not None and announced[1] <= self._clock():
            # Its grace time is over, and the process that was to end it did not live to do it.
            await self._hand_over(session.id)
            return False
        if self._commits.ttl(session) <= 0:
            await self.end(session.id, "expired")  # Express has let it live longer than it may
            return False
        await self._commits.index(session)
        return True

    def sid_of(self, cookie_header: str) -> str | None:
        """The id that a Cookie header carries under our signature, else ``None``.

        Two different cookies of our name are as good as none: a neighbouring host may have planted one of them, and
        which comes first is its choice (RFC 6265, 8.6).
        """
        values = set(cookie.find(cookie_header, self.options.name))
        if len(values) != 1:
            return None
        value = values.pop()
        # A visitor's next page carries the same cookie: 1.5 us instead of 9. Of ours alone, so that nobody can fill it.
        sid = self._verified.get(value)
        if sid is None:
            sid = cookie.decode(value, self.options.secrets)
            if sid is not None:
                if len(self._verified) >= _REMEMBERED:
                    self._verified.clear()
                self._verified[value] = sid
        return sid

    def cookie_fields(self, session: Session) -> dict[str, Any]:
        """The attributes of the cookie that a page sends now, in Express's names; its time begins now."""
        return self._commits.renew_expiry(session.cookie)

    def cookie_value(self, session: Session) -> str:
        """What the session's cookie has as its value, signed and encoded."""
        return cookie.encode(session.id, self.options.secrets)

    # --- the keeper of a session --------------------------------------------------------------------------------------

    def new_cookie(self, session: Session) -> dict[str, Any]:
        """The ``cookie`` object of a session that has none yet."""
        return self._commits.new_cookie(session)

    def lifetime(self, session: Session) -> int:
        """Seconds the session may lie idle where it has no lifetime of its own."""
        return self.options.max_age

    async def save(self, session: Session) -> None:
        """Store what has changed in ``session``; see `Session.save`."""
        changes = session.changes()
        if changes:
            await self._commits.commit(session, changes)

    async def commit(self, session: Session, changes: Mapping[str, bytes | None]) -> None:
        """Store ``changes``, which are those of ``session`` at this moment; raises like `Session.save`."""
        if session.is_gone:
            raise SessionGone("this session was ended; nothing can be stored in it")
        await self._commits.commit(session, changes)

    def check_size(self, session: Session, changes: Mapping[str, bytes | None]) -> None:
        """Raise the `SessionError` that `commit` would, if the session would grow too big by ``changes``."""
        self._commits.check_size(session, changes)

    async def store_new(self, session: Session) -> None:
        """Store a session that nothing was written to."""
        await self._commits.commit(session, session.changes())

    async def reload(self, session: Session) -> None:
        """Read ``session`` anew; see `Session.reload`."""
        session.rollback()
        if session.is_new:
            return
        await self._commits.read_into(session)

    async def touch(self, session: Session) -> None:
        """Let ``session`` begin its idle time anew."""
        if session.is_new:
            return
        ttl = self._commits.ttl(session)
        if ttl > 0:
            await self.store.touch(self._commits.key_of(session.id), ttl)
        else:
            await self.end(session.id, "expired")  # its whole life was over while it was used

    async def destroy(self, session: Session) -> None:
        """End ``session``; see `Session.destroy`."""
        session.rollback()
        if not session.is_new:
            await self.end(session.id, "destroyed")
            session.mark_gone()

    async def transact(self, session: Session, change: Callable[[Session], T | Awaitable[T]]) -> T:
        """Read, change and write as one step; see `Session.transact`."""
        end = self._commits.time_limit()
        is_stored = not session.is_new
        while True:
            scratch = Session(self, session.id, *session.snapshot())
            scratch.is_https = session.is_https
            if is_stored:
                await self._commits.read_into(scratch)
            result = change(scratch)
            value: T = await result if inspect.isawaitable(result) else result
            changes = scratch.changes()
            if not changes:
                text, parts = scratch.snapshot()
                if text is not None:
                    session.follow(scratch.id)
                    session.rebase(text, parts)
                return value
            if await self._commits.commit(scratch, changes, retry=False, original=session):
                return value
            self._commits.check_time(end)
            is_stored = True  # by whoever was faster; of a new session, by us, and the acknowledgement was lost

    # --- open sockets -------------------------------------------------------------------------------------------------

    async def open(self, socket: SessionSocket, sid: str) -> Session | None:
        """The stored session of this id as ``socket``'s own copy, kept coherent from now on; ``None`` if unknown.

        Raises:
            StoreError: The store did not answer.
        """
        copy = await self._copies.join(socket, sid)
        if copy is None:
            return None
        session = Session(self, sid, copy.text, copy.parts)
        session.owner = socket
        is_admitted = False
        try:
            # It may have ended or moved while the index was written.
            is_admitted = await self._admit(session) and self._copies.get(sid) is copy
        finally:
            if not is_admitted:
                self._copies.leave(socket, sid)
        return session if is_admitted else None

    def attach(self, socket: SessionSocket, session: Session) -> None:
        """Keep the copy of a ``session`` coherent that was first stored on ``socket``; once is enough."""
        self._copies.adopt(socket, session)

    def detach(self, socket: SessionSocket) -> None:
        """Forget ``socket``; nothing is stored."""
        self._copies.leave(socket, socket.session.id)

    def count_sockets(self, sid: str) -> int:
        """How many sockets of this process have the session of this id."""
        return self._copies.count(sid)

    def snapshot_of(self, session: Session) -> Session:
        """A session like the one a socket has, as it is stored."""
        copy = self._copies.get(session.id)
        text, parts = session.snapshot() if copy is None else (copy.text, copy.parts)
        return Session(self, session.id, text, parts)

    def copy_of(self, session: Session) -> Copy | None:
        """What this process knows of a session that a socket has open."""
        return self._copies.get(session.id)

    def catch_up(self, session: Session) -> None:
        """Bring a socket's copy to what this process knows, without asking the store."""
        self._copies.catch_up(session)

    async def refresh(self, session: Session) -> None:
        """Make a socket's copy the newest there is; see `Copies.refresh`."""
        await self._copies.refresh(session)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def end(self, sid: str, reason: str = "ended") -> bool:
        """End the session of this id and close every socket of it, on every process; was there one?

        Raises:
            StoreError: The store did not answer.
        """
        with self._copies.doubting(sid):
            # In one pipeline, in this order: the note tells the other processes the reason when they find nothing.
            noted, removed = await asyncio.gather(
                self._records.note_ending(sid, reason),
                self.store.delete(self._commits.key_of(sid)),
                return_exceptions=True,
            )
            if isinstance(removed, BaseException):
                raise removed
        if isinstance(noted, BaseException) and not isinstance(noted, StoreError):
            raise noted  # a full store may refuse the note; the other processes then call the session expired
        if not removed:
            fate = await self._records.fate(sid)
            return fate.moved_to is not None and await self.end(fate.moved_to, reason)
        # Whoever was moving it finds that there is nothing to move. Should he have moved it nevertheless, as far as he
        # knows, it ends there.
        new = await self._records.note_ended(sid, reason) if noted is False else None
        if new is None or not await self.end(new, reason):
            self.counts.ended += 1
        self._copies.end(sid, reason)
        return True

    async def of_user(self, user_id: str | int) -> list[Session]:
        """The stored sessions of a user who logged in by `Session.set_user_id`.

        A login by Express counts from the first time that sstream has seen the session.
        """
        sids = await self._records.sessions_of(user_id)
        found = await asyncio.gather(*map(self._get_moved, sids))
        # By id: one that is just moving may stand in the index under both of its ids.
        sessions = {session.id: session for session in found if session is not None}
        sessions = {sid: session for sid, session in sessions.items() if str(session.user_id) == str(user_id)}
        if dead := [sid for sid in sids if sid not in sessions]:
            await self._records.remove_sessions(user_id, dead)
        return list(sessions.values())

    async def _get_moved(self, sid: str) -> Session | None:
        """Like `get`, of a session that may be moving to another id at this moment."""
        session = await self.get(sid)
        if session is None and (fate := await self._records.fate(sid)).moved_to is not None:
            return await self.get(fate.moved_to)
        return session

    async def end_all(self, user_id: str | int, keep: Session | str | None = None) -> int:
        """End every session of a user but ``keep`` (a session or its id); returns how many."""
        kept = keep.id if isinstance(keep, Session) else keep
        sids = {session.id for session in await self.of_user(user_id)}
        ended = [self.end(sid) for sid in sids - {kept}]
        return sum(await asyncio.gather(*ended))

    # --- renewing the id ----------------------------------------------------------------------------------------------

    async def renew(self, session: Session, *, empty: bool) -> None:
        """Give ``session`` a new id, with its data or ``empty``; see `Session.renew_id`."""
        if empty:
            session.rollback()
            for key in list(session):
                session.put_own(key, None)
        changes = session.changes()
        if empty and self.options.absolute_max_age is not None:
            changes[BOOKKEEPING] = self._commits.birth()
        if session.is_new:
            # Nobody has seen this id: there is nothing to renew.
            if changes:
                await self._commits.commit(session, changes)
            return
        if session.owner is None or not session.is_in_browser:
            # The changes go along: should the store go away, nobody is logged in under an id that others may know.
            await self._move(session, self._new_sid(), changes)
            return
        await self._announce(session, changes)

    async def _announce(self, session: Session, changes: Mapping[str, bytes | None]) -> None:
        """Save ``changes``, and let the browser of a socket fetch a new id; then, or after the grace time, it moves."""
        new = self._new_sid()
        ticket = await self._records.issue(Ticket(session.id, new))
        books = express.decode_value(changes.get(BOOKKEEPING) or b"null") or session.bookkeeping
        books = {**books, "moves": {"to": new, "by": self._clock() + self.options.renew_grace}}
        try:
            await self._commits.commit(session, {**changes, BOOKKEEPING: express.encode_value(BOOKKEEPING, books)})
        except (StoreError, asyncio.CancelledError):
            # It may be stored nevertheless, and then it moves: the browser must hear where. If not, the ticket is for
            # nothing.
            self._offer(session, ticket)
            raise
        self._offer(session, ticket)

    def _offer(self, session: Session, ticket: str) -> None:
        session.owner.session_offered(ticket)
        self._await_handover(session.id)

    def _await_handover(self, sid: str) -> None:
        async def wait() -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                await asyncio.sleep(self.options.renew_grace)
                while True:
                    self._moving.add(task)
                    with suppress(StoreError):
                        await self._hand_over(sid)
                        return
                    self._moving.discard(task)
                    if self._is_closing:
                        return
                    # Else the store ends the old id soon, with all that the open sockets have under it.
                    await asyncio.sleep(_SETTLE_PAUSE)
            except SessionGone:
                pass  # it ended first
            finally:
                self._moving.discard(task)
                # Not the one that has taken its place.
                if self._handovers.get(sid) is task:
                    del self._handovers[sid]

        if (pending := self._handovers.pop(sid, None)) is not None:
            pending.cancel()
        self._handovers[sid] = asyncio.get_running_loop().create_task(wait())

    async def introduce(self, session: Session) -> str:
        """A ticket for a session that was first stored on a socket and that no browser's cookie knows yet."""
        return await self._records.issue(Ticket(None, session.id))

    async def trade(self, ticket: str, sid: str | None) -> Session | None:
        """The session whose cookie the browser gets for ``ticket``.

        ``None`` if there is nothing to get any more: the session has ended, or a later renewal, which has a ticket of
        its own, took this one's place.

        Args:
            ticket: What the socket was given.
            sid: The id in the browser's present cookie.

        Raises:
            BadTicket: It is none, was used before, is too old, or belongs to another session than the browser.
        """
        found = await self._records.ticket(ticket)
        if found is None:
            raise BadTicket
        # A ticket belongs to its session. One for a socket that came without a session is good only for a browser
        # that still has none: else a stranger's page could plant a session of its own choice.
        if found.old is not None:
            if found.old != sid:
                raise BadTicket
        elif sid is not None and sid != found.new and await self.get(sid) is not None:
            raise BadTicket
        try:
            at_hand = found.old is None or await self._hand_over(found.old, found.new)
        except SessionGone:
            at_hand = False
        session = await self.get(found.new) if at_hand else None
        # Used up when nothing can go wrong any more: a second try after an error must still find it.
        try:
            is_first = await self._records.use(ticket)
        except StoreError:
            if session is None:
                raise
            is_first = True  # perhaps it is used up, and then a second try would find nothing
        if not is_first:
            raise BadTicket
        return session

    async def _hand_over(self, old: str, new: str | None = None) -> bool:
        """Move a session to the id that was announced for it, if that is ``new``; is it there now?"""
        text = await self.store.get(self._commits.key_of(old))
        if text is None:
            return new is not None and (await self._records.fate(old)).moved_to == new
        session = Session(self, old, text, self._commits.split_or_raise(old, text))
        announced = announced_move(session.bookkeeping)
        if announced is None or new not in {None, announced[0]}:
            return False
        if announced[1] + self.options.renew_grace <= self._clock() or await self._records.is_past(old):
            # Express had read it before it moved, and has written it since. To move it once more would undo what was
            # done at its new id, or bring it back there if it was ended.
            await self._records.note_ended(old, "expired")
            with self._copies.doubting(old):
                await self.store.delete(self._commits.key_of(old))
            self._copies.end(old, "expired")
            return False
        await self._move(session, announced[0], {})
        return True

    async def _move(self, session: Session, new: str, changes: Mapping[str, bytes | None]) -> None:
        """Move a stored session to the id ``new``, with ``changes``; the old one is dead afterwards, everywhere.

        It takes no more of the store than compare-and-set of single keys, so it works on a cluster. Should this process
        die in between, the session is whole under one of the two ids.
        """
        end = self._commits.time_limit()
        while True:
            old = session.id
            # One at a time: of two who move the same session, the later finds it gone and follows it.
            async with self._records.moving(old, end):
                text = await self.store.get(self._commits.key_of(old))
                if text is not None:
                    await self._move_text(session, text, new, changes, end)
                    return
            await self._commits.follow(session, old)
            if session.id == new:
                return
            self._commits.check_time(end)

    async def _move_text(
        self, session: Session, text: bytes, new: str, changes: Mapping[str, bytes | None], end: float
    ) -> None:
        old = session.id
        new_key = self._commits.key_of(new)
        placed: bytes | None = None
        ending = False
        while True:
            parts = _without_move(self._commits.split_or_raise(old, text))
            moved = express.join(parts)
            if changes:
                moved, parts = self._commits.apply(session, changes, text, parts)
            ttl = self._commits.ttl_of(parts)
            if ttl <= 0:
                await self.end(old, "expired")
                session.mark_gone()
                raise SessionGone("this session has lived as long as it may")
            # For a minute only: should this process die now, nobody knows this id, and nothing may live on under it.
            made, stored = await self.store.swap(new_key, placed, moved, _PLACED_TTL)
            if not made:
                placed = stored  # left by a process that died while it moved this session
                self._commits.check_time(end)
                continue
            placed = moved
            ending |= await self._records.note_moving(old, new)
            made, stored = await self._remove(old, text, new, end, ending)
            if made:
                break
            if stored is None:
                await self.store.delete(new_key)
                await self._records.note_ended(old, "ended")
                session.mark_gone()
                self._copies.end(old, "ended")
                raise SessionGone("this session was ended while its id was renewed")
            text = stored
            self._commits.check_time(end)
        # It is there now, whatever becomes of the rest: should the store go away, an error page has its new cookie.
        session.follow(new)
        session.rebase(moved, parts, changes.keys())
        session.is_in_browser = False
        if (pending := self._handovers.get(old)) is not None and pending is not asyncio.current_task():
            del self._handovers[old]
            pending.cancel()
        self._copies.move(old, new, (moved, parts), session.owner)
        heard = self._commits.tell(session, changes, session.owner) if changes else None
        try:
            await self._settle_at_last(old, new, ttl)
            await self._commits.index(session)
        finally:
            if heard is not None:
                await heard

    async def _remove(self, old: str, text: bytes, new: str, end: float, ending: bool) -> tuple[bool, bytes | None]:
        """Remove a session's ``text`` from the id ``old``; gives what `SessionStore.swap` gives.

        An answer that got lost is asked for again, until ``end``. That nothing is there then is our own doing:
        whoever ends a session of which a move is noted notes that, or ends it at ``new`` too. It is not where somebody
        was ``ending`` it before the move was noted.
        """
        key = self._commits.key_of(old)
        with self._copies.doubting(old):
            try:
                return await self.store.swap(key, text, None, 1)
            except StoreError as error:
                lost = error
            try:
                async with asyncio.timeout_at(None if math.isinf(end) else end):
                    while True:
                        await asyncio.sleep(_SETTLE_PAUSE)
                        with suppress(StoreError):  # told below, if it is so until the end
                            made, stored = await self.store.swap(key, text, None, 1)
                            if made or stored is not None or ending:
                                return made, stored
                            return await self._records.is_moving(old, new), None
            except TimeoutError:
                raise lost from None

    async def _settle_at_last(self, old: str, new: str, ttl: int) -> None:
        try:
            await self._settle(old, new, ttl)
        except (StoreError, asyncio.CancelledError):
            task = asyncio.get_running_loop().create_task(self._keep_settling(old, new, ttl))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            raise

    async def _settle(self, old: str, new: str, ttl: int) -> None:
        """Let everybody find a session that has moved, and let it live for longer than it takes to move."""
        await self._records.note_moved(old, new)
        await self.store.touch(self._commits.key_of(new), ttl)

    async def _keep_settling(self, old: str, new: str, ttl: int) -> None:
        try:
            async with asyncio.timeout(_PLACED_TTL):
                while True:
                    await asyncio.sleep(_SETTLE_PAUSE)
                    with suppress(StoreError):  # whoever moved it was told; only this process knows where it is
                        await self._settle(old, new, ttl)
                        return
        except TimeoutError:
            _log.warning("session %s is lost: the store went away while its id was renewed", log_name(old))

    # --- life ---------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop what runs in the background; the store is not closed."""
        self._is_closing = True
        handovers = {*self._handovers.values(), *self._moving}
        # No move is broken off: half of one leaves a session that lives for a minute. The store's deadline bounds it.
        for task in handovers - self._moving:
            task.cancel()
        await asyncio.gather(*handovers, return_exceptions=True)
        settling = list(self._settling)
        for task in settling:
            task.cancel()
        await asyncio.gather(*settling, return_exceptions=True)
        await self._copies.close()


def _without_move(parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """The parts of a session that has moved: of the bookkeeping, its birth alone."""
    kept = dict(parts)
    books = express.decode_value(kept.pop(BOOKKEEPING, b"{}"))
    if isinstance(books, dict) and "born" in books:
        kept[BOOKKEEPING] = express.encode_value(BOOKKEEPING, {"born": books["born"]})
    return kept
