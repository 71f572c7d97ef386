"""The session of one open socket: its turns, its copy, and the tickets that bring a cookie to the browser."""

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Protocol

from sstream.errors import SessionError, SessionGone, StoreError
from sstream.session.copies import Copy
from sstream.session.session import Session
from sstream.session.sessions import Sessions

__all__ = ["ConnectionSession", "SessionListener", "Turn"]

_FIRST_PAUSE: Final = 0.1  # seconds between two attempts at a store that is away, doubled up to the last
_LAST_PAUSE: Final = 2.0
_NO_CHANGES: Final[Mapping[str, bytes | None]] = {}


class SessionListener(Protocol):
    """The socket's handler, as far as its session concerns it; called from the event loop, must not block."""

    def session_changed(self, keys: frozenset[str]) -> None:
        """Somebody else changed these top-level keys."""

    def session_moved(self) -> None:
        """It has another id now."""

    def session_ended(self, reason: str) -> None:
        """It is over."""

    def session_saved(self, keys: frozenset[str]) -> Awaitable[None] | None:
        """This socket's own call has changed these top-level keys; they are stored. The save awaits what it returns."""

    def session_offered(self, ticket: str) -> None:
        """The browser is to trade ``ticket`` for its new cookie."""


class _Nobody:
    """Who listens when the socket is closed."""

    def session_changed(self, keys: frozenset[str]) -> None:
        pass

    def session_moved(self) -> None:
        pass

    def session_ended(self, reason: str) -> None:
        pass

    def session_saved(self, keys: frozenset[str]) -> None:
        pass

    def session_offered(self, ticket: str) -> None:
        pass


_NOBODY: Final = _Nobody()


class ConnectionSession:
    """Keeps a socket's `Session` between its calls and lets one call at a time use it.

    Calls that load the session run one after another, in the order in which they asked for their turn. The copy is read
    from the store only if somebody else may have changed it.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_copy",
        "_ended",
        "_holder",
        "_is_https",
        "_listener",
        "_sessions",
        "_task",
        "_turns",
        "_waiting",
        "current",
        "latest",
    )

    def __init__(self, sessions: Sessions, listener: SessionListener, *, is_https: bool) -> None:
        self._sessions = sessions
        self._listener = listener
        self._is_https = is_https
        self.current: Session | None = None  # None: not loaded yet
        # Invariant: one turn is running if _turns > 0, and the other _turns - 1 are in _waiting.
        self._turns = 0
        self._holder: asyncio.Task[Any] | None = None  # who has the turn, if it may wait in it
        self._waiting: list[asyncio.Future[None]] | None = None  # few, and rarely any
        self.latest: Turn | None = None  # that is waited for, and was asked for after all others
        self._task: asyncio.Task[None] | None = None  # what is tried again until the store answers
        # The process' own, of the current session, once `now` has looked it up. Invariant: it is fresh only if this
        # socket is open and the session has not ended; one that was let go of is never fresh again.
        self._copy: Copy | None = None
        self._ended = False
        self._closed = False

    @property
    def session(self) -> Session:
        """This socket's copy.

        Raises:
            StoreError: The store has not answered since the socket was opened.
        """
        if self.current is None:
            raise StoreError("the session of this socket could not be loaded yet")
        return self.current

    @property
    def is_loaded(self) -> bool:
        """Has the store answered since the socket was opened?"""
        return self.current is not None

    async def open(self, sid: str | None) -> None:
        """Begin with the stored session of this id, or a fresh one.

        A store that is down is asked again until it is up.
        """
        try:
            await self._load(sid)
        except StoreError:
            self._task = asyncio.get_running_loop().create_task(self._keep_loading(sid))

    async def _load(self, sid: str | None) -> None:
        session = await self._sessions.open(self, sid) if sid is not None else None
        if session is None:
            self.restart()
            return
        session.is_in_browser = True
        self.current = session
        if self._closed:
            self._sessions.detach(self)  # the client left while the store was asked

    async def _keep_loading(self, sid: str | None) -> None:
        delay = _FIRST_PAUSE
        while True:
            await asyncio.sleep(delay)
            try:
                await self._load(sid)
            except StoreError:
                delay = min(delay * 2, _LAST_PAUSE)
            else:
                self._listener.session_changed(frozenset(self.session))
                return

    @property
    def is_busy(self) -> bool:
        """Has somebody the turn? Who asks for it now has to wait."""
        return self._turns > 0

    @property
    def listener(self) -> SessionListener:
        """The socket's handler, as long as it is open."""
        return self._listener

    def stored(self) -> Session:
        """The session as it is stored, without what a call that is running has changed in it."""
        return self._sessions.snapshot_of(self.session) if self._turns else self.session

    @contextmanager
    def as_stored(self) -> Iterator[None]:
        """Let ``session`` be what `stored` gives, for code that does not await."""
        live = self.current
        self.current = self.stored()
        try:
            yield
        finally:
            self.current = live

    def close(self) -> None:
        """Let go; nothing is stored."""
        self._ended = self._closed = True
        self._copy = None
        self._listener = _NOBODY  # the handler holds this: both would wait for the garbage collector
        if self._task is not None:
            self._task.cancel()
        if self.current is not None:
            self._sessions.detach(self)

    def restart(self) -> None:
        """Go on with a fresh session that nobody has stored."""
        self.current = self._sessions.new(is_https=self._is_https)
        self.current.owner = self
        self._ended = False

    # --- using it -----------------------------------------------------------------------------------------------------

    def now(self) -> Session | None:
        """The session, if it may be used this instant: the newest there is, and nobody has the turn."""
        # Few attributes and no call: 60 ns, of the 1.3 us that a call may cost.
        copy = self._copy
        if copy is not None and copy.fresh and not self._turns:
            session = self.current
            if session is not None and session.text is copy.text:
                return session
        return self._look_up()

    def _look_up(self) -> Session | None:
        session = self.current
        if session is None or self._turns or self._ended:
            return None
        if session.text is None:
            return session  # new
        copy = self._copy = self._sessions.copy_of(session)
        return session if copy is not None and copy.fresh and copy.text is session.text else None

    def settled(self) -> bool:
        """Was nothing changed since `now`? If something was, the turn is taken until `commit` ends."""
        session = self.current
        if session is None or not session.is_modified():
            return True
        self._turns += 1
        return False

    async def commit(self) -> None:
        """Store what was changed since `now`, and give the turn back."""
        await self.end_turn(self.session, succeeded=True)

    def rollback(self) -> None:
        """Drop what was changed since `now`."""
        self.session.rollback()

    def turn(self) -> "Turn":
        """A context that waits for the turn, reads the session if it must be read, and stores what the block changes.

        If the block raises, its unsaved changes are dropped.
        """
        return Turn(self)

    async def begin_turn(self) -> Session:
        """Wait for the turn and read the session; `end_turn` must follow, unless this raises."""
        session = self.now()
        task = asyncio.current_task()
        if session is not None:
            self._turns = 1
            self._holder = task
            return session
        if self._turns and self._holder is task:
            raise SessionError("this call has its turn already and would wait for itself; use self.session")
        await self._wait_turn()
        self._holder = task
        try:
            if self._ended:
                raise SessionGone("this session was ended")
            session = self.session
            if not session.is_new:
                await self._sessions.refresh(session)
            return session
        except BaseException:
            self._end_turn()
            raise

    async def end_turn(self, session: Session, *, succeeded: bool) -> None:
        """Store what was changed in ``session``, or drop it, and let the next one begin."""
        try:
            if not succeeded:
                session.rollback()
            elif session.touched and (changes := session.changes()):
                try:
                    await self._sessions.commit(session, changes)
                except BaseException:
                    session.rollback()
                    raise
            if succeeded and self._lacks_cookie(session):
                # What the call has changed is stored, so this is no reason for it to fail.
                with suppress(StoreError):
                    await self._introduce(session)
        finally:
            self._end_turn()
            if self._lacks_cookie(session) and (self._task is None or self._task.done()):
                self._task = asyncio.get_running_loop().create_task(self._keep_introducing(session))

    def check_size(self, session: Session, changes: Mapping[str, bytes | None]) -> None:
        """Raise the `SessionError` that the end of the turn would, if the session grows too big by ``changes``."""
        self._sessions.check_size(session, changes)

    async def _wait_turn(self) -> None:
        self._turns += 1
        if self._turns == 1:
            return
        turn = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        waiting = self._waiting
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                waiting.remove(turn)
                self._turns -= 1
            else:
                self._end_turn()  # it was ours already
            raise

    def _end_turn(self) -> None:
        self._turns -= 1
        self._holder = None
        # One that was cancelled in this very pass of the loop is still here; it takes itself out.
        for turn in self._waiting or ():
            if not turn.done() and self._waiting is not None:
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        if self.current is not None and not self._turns:
            self._sessions.catch_up(self.current)  # what others changed meanwhile

    def _lacks_cookie(self, session: Session) -> bool:
        """Was it first stored on this socket, so that no browser knows it yet?"""
        return not (session.is_new or session.is_in_browser or session.is_gone or self._closed)

    async def _introduce(self, session: Session) -> None:
        """Bring the cookie of a session that was first stored on this socket to the browser."""
        ticket = await self._sessions.introduce(session)
        session.is_in_browser = True
        self._listener.session_offered(ticket)

    async def _keep_introducing(self, session: Session) -> None:
        delay = _FIRST_PAUSE
        while self._lacks_cookie(session):
            try:
                await self._introduce(session)
            except StoreError:
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LAST_PAUSE)

    # --- what the registry tells --------------------------------------------------------------------------------------

    # It may be heard of before `open` has ended: then there is nothing yet that could change.

    def session_changed(self, keys: frozenset[str]) -> None:
        if self.current is None:
            return
        if not self._turns:
            self._sessions.catch_up(self.current)
        self._listener.session_changed(keys)

    def session_saved(self, keys: frozenset[str]) -> Awaitable[None] | None:
        if not self._closed:
            self._sessions.attach(self, self.session)
        return self._listener.session_saved(keys)

    def session_moved(self, sid: str) -> None:
        if self.current is not None:
            self.current.follow(sid)
            self._listener.session_moved()

    def session_ended(self, reason: str) -> None:
        if self.current is None:
            return
        self.current.mark_gone()
        self._ended = True
        self._copy = None
        self._listener.session_ended(reason)

    def session_offered(self, ticket: str) -> None:
        self._listener.session_offered(ticket)


class Turn:
    """One turn of `ConnectionSession.turn`; a class, because a generator's context costs 2 us more.

    Several calls may use it one after another, and after each of them `keep` or `drop` what it has changed. What was
    kept is stored at the end.
    """

    __slots__ = ("_connection", "_kept", "_session")

    _session: Session

    def __init__(self, connection: ConnectionSession) -> None:
        self._connection = connection
        self._kept: Mapping[str, bytes | None] = _NO_CHANGES

    @property
    def is_latest(self) -> bool:
        """Is it still waited for, and has nobody asked for a turn after it?"""
        return self._connection.latest is self

    @property
    def has_changes(self) -> bool:
        """Was anything kept that is to be stored at its end?"""
        return bool(self._kept)

    def keep(self) -> None:
        """Let what was changed so far stay, whatever is dropped later.

        Raises:
            SessionError: It cannot be stored; `drop` must follow.
        """
        session = self._session
        if session.touched:
            changes = session.changes()
            self._connection.check_size(session, changes)
            self._kept = changes

    def drop(self) -> None:
        """Drop what was changed since `keep`."""
        self._session.rollback(self._kept)

    async def __aenter__(self) -> Session:
        connection = self._connection
        connection.latest = self
        try:
            self._session = await connection.begin_turn()
        finally:
            if connection.latest is self:
                connection.latest = None
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The session that was given out: the socket may go on with another one by now.
        await self._connection.end_turn(self._session, succeeded=error is None)
