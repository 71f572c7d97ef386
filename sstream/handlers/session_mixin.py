"""The session of a page or a websocket: loaded before its method, saved before its reply."""

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar

from tornado.iostream import SSLIOStream, StreamClosedError
from tornado.web import Finish, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from sstream.errors import BrokerError, ConfigurationError, SessionError, SessionGone, StoreError
from sstream.session import cookie
from sstream.session.connection import ConnectionSession, Turn
from sstream.session.session import Session
from sstream.session.sessions import Sessions
from sstream.websocket import shares_answer

if TYPE_CHECKING:
    from sstream.application import Application

__all__ = ["SessionMixin"]

_log = logging.getLogger("sstream")

SESSION_ENDED = 4401
_RETRY_AFTER = "5"  # seconds until a page is asked for again whose store or broker is away
_EPOCH = {"expires": "1970-01-01T00:00:00+00:00"}


class SessionMixin(RequestHandler):
    """Gives a page or a websocket its visitor's session, as ``self.session``.

    It stands first among the bases: ``class Home(SessionMixin, RequestHandler)``. A subclass with a ``prepare`` of its
    own begins it with ``await super().prepare()``.

    On a page the session is loaded before the method runs and saved when the reply is finished, before its last byte
    leaves. If the method raises, its unsaved changes are dropped. On a websocket ``self.session`` is this connection's
    copy; ``async with self.session_turn()`` uses it alone, newest, and saves it.
    """

    application: "Application"

    _session: Session | None = None
    _connection_session: ConnectionSession | None = None
    _sent_sid: str | None = None  # the well signed id that came in the request's cookie
    _prepared = False
    _load_error: StoreError | None = None
    _is_away = False  # what this page needs: its reply says when to come again
    _client_left = False
    _is_unset = False
    _was_saved = False
    _cookie_left = False  # with headers that left before the session was stored
    _is_settled = False  # nothing of the session is left to be done before the last byte
    _finishing: "asyncio.Task[None] | None" = None

    # --- the session --------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """This visitor's session.

        Raises:
            SessionError: There is none here; the message says why.
            StoreError: On a websocket: the store has not answered since it was opened.
        """
        connection = self._connection_session
        if connection is not None:
            session = connection.current
            return connection.session if session is None else session
        if self._load_error is not None:
            raise StoreError("the session could not be loaded") from self._load_error
        if self._session is None:
            raise SessionError(self._why_no_session())
        return self._session

    @session.deleter
    def session(self) -> None:
        if self._session is None:
            raise SessionError(self._why_no_session())
        self._session.rollback()
        self._session = None
        self._is_unset = True

    @property
    def session_at_hand(self) -> Session | None:
        """The session if it is loaded, for who watches: nobody is asked, and nothing is raised."""
        connection = self._connection_session
        return self._session if connection is None else connection.current

    def _why_no_session(self) -> str:
        name = type(self).__name__
        if self._is_unset:
            return "the session was removed with `del self.session`"
        if not self._prepared:
            return f"no session is loaded yet: {name}.prepare() must begin with `await super().prepare()`"
        return f"no session at {self.request.path}: the session's cookie is for {self._sessions.options.path} alone"

    @property
    def _sessions(self) -> Sessions:
        sessions = getattr(self.application, "sessions", None)
        if not isinstance(sessions, Sessions):
            raise ConfigurationError(
                f"{type(self).__name__} needs a sstream.Application; this one is a {type(self.application).__name__}"
            )
        return sessions

    def _is_https(self) -> bool:
        proxy = self._sessions.options.proxy
        if proxy is None:
            return self.request.protocol == "https"
        if proxy and (forwarded := self.request.headers.get("X-Forwarded-Proto")):
            return forwarded.split(",")[0].strip().lower() == "https"
        if proxy:
            return self.request.protocol == "https"
        return isinstance(getattr(self.request.connection, "stream", None), SSLIOStream)

    # --- loading ------------------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Load the session; an overriding method awaits this one first."""
        above = super().prepare()
        if above is not None:
            await above
        sessions = self._sessions
        self._prepared = True
        if not self.request.path.startswith(sessions.options.path):
            return
        self._sent_sid = sessions.sid_of("; ".join(self.request.headers.get_list("Cookie")))
        is_https = self._is_https()
        if isinstance(self, WebSocketHandler):
            self._connection_session = ConnectionSession(sessions, self, is_https=is_https)
            await self._connection_session.open(self._sent_sid)
            if self._client_left:
                raise Finish
            return
        try:
            session = await sessions.get(self._sent_sid) if self._sent_sid is not None else None
        except StoreError as error:
            self._load_error = error
            self._is_away = True
            raise HTTPError(503, "the session could not be loaded: %s", error) from error
        if session is not None:
            session.is_in_browser = True
        self._session = session if session is not None else sessions.new(is_https=is_https)
        self._session.is_https = is_https

    # --- saving, on a page --------------------------------------------------------------------------------------------

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if "exc_info" in kwargs:
            # An exception ended the method: what it had changed and not saved is not kept.
            if self._session is not None:
                self._session.rollback()
            error = kwargs["exc_info"][1]
            if isinstance(error, SessionGone | StoreError | BrokerError):
                status_code = _status_of(error)
                self._is_settled = True
                self._is_away = status_code == 503
        super().send_error(status_code, **kwargs)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        # These are no mistake of the method's: a line, not a traceback.
        if isinstance(value, SessionGone | StoreError | BrokerError):
            _log.warning("%d %s: %s", _status_of(value), self._request_summary(), value)
        else:
            super().log_exception(typ, value, tb)

    @shares_answer
    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """Finish the reply, after the store has acknowledged what the session has changed."""
        if self._finished:
            raise RuntimeError("finish() called twice")
        if self.get_status() != 101:
            self._close_session()  # the handshake of a websocket was refused
        if not self._has_work():
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        # Tornado sees a finished handler from here on: no second reply, no write, no automatic finish.
        self._finished = True
        self._finishing = asyncio.get_running_loop().create_task(self._save_and_finish())
        return self._finishing

    def _has_work(self) -> bool:
        if self._is_settled or self._connection_session is not None:
            return False
        session = self._session
        if session is None:
            return self._is_unset and self._sent_sid is not None and self._sessions.options.unset == "destroy"
        if session.is_gone:
            return session.is_modified()
        return not session.is_new or session.is_modified() or self._sessions.options.save_uninitialized

    async def _save_and_finish(self) -> None:
        try:
            await self._save_session()
        except (SessionError, StoreError) as error:
            _log.log(
                logging.ERROR if _status_of(error) == 500 else logging.WARNING,
                "%d %s: the session could not be saved: %s",
                _status_of(error),
                self._request_summary(),
                error,
            )
            self._fail(_status_of(error))
            return
        except Exception:
            self.log_exception(*sys.exc_info())
            self._fail(500)
            return
        self._is_settled = True
        self._finished = False
        try:
            await super().finish()
        except StreamClosedError:
            pass  # the client went away; what it had asked for is stored
        except Exception:
            self.log_exception(*sys.exc_info())
            if not self._finished:
                self._fail(500)

    async def _save_session(self) -> None:
        session, sessions = self._session, self._sessions
        if session is None:
            if self._sent_sid is not None:
                await sessions.end(self._sent_sid, "destroyed")
        elif session.touched and (changes := session.changes()):
            if session.is_new and self._headers_written and not self._cookie_left:
                session.rollback()
                _log.error(
                    "%s: a new session was written to after the headers had left: its cookie cannot be sent any more, "
                    "so nothing was stored; write to it before the first flush()",
                    self._request_summary(),
                )
                return
            await sessions.commit(session, changes)
            self._was_saved = True
        elif session.is_new:
            if self._cookie_left or not self._headers_written:
                await sessions.store_new(session)
        elif not session.is_gone:
            await session.touch()

    def _fail(self, status: int) -> None:
        """End the reply with an error, or cut the connection if part of it has left."""
        if self._session is not None:
            self._session.rollback()
        self._finished = False
        self._is_settled = True
        self._is_away = status == 503
        if not self._headers_written:
            self.send_error(status)
            return
        # Ending it properly would be a false success.
        self._finished = True
        close = getattr(self.request.connection, "close", None)
        if close is not None:
            close()
        self._log()
        self.on_finish()

    # --- the cookie ---------------------------------------------------------------------------------------------------

    @shares_answer
    def flush(self, include_footers: bool = False) -> "asyncio.Future[None]":
        if not self._headers_written and self._prepared:
            self._send_cookie()
            if self._is_away and "Retry-After" not in self._headers:
                self.set_header("Retry-After", _RETRY_AFTER)
        return super().flush(include_footers)

    def _send_cookie(self) -> None:
        session, options = self._session, self._sessions.options
        if session is None:
            return
        if session.is_gone:
            # It was ended by somebody else while this page ran. (Who destroys it himself sends no cookie, as Express.)
            if self._is_settled and self._sent_sid is not None:
                fields = {**session.cookie, **_EPOCH}
                self.add_header("Set-Cookie", cookie.serialize(options.name, "", fields))
            return
        fields = self._sessions.cookie_fields(session)
        if fields.get("secure") and not self._is_https():
            return
        if session.is_new:
            # Streaming: the headers leave before the session is stored.
            # After a failed save (it is settled) nothing is modified any more, and there is nothing to name.
            wanted = self._cookie_left = session.is_modified() or (options.save_uninitialized and not self._is_settled)
        else:
            saved = self._was_saved or session.is_modified()
            wanted = not session.is_in_browser or options.rolling or (fields.get("expires") is not None and saved)
        if wanted:
            value = self._sessions.cookie_value(session)
            self.add_header("Set-Cookie", cookie.serialize(options.name, value, fields))

    # --- on a websocket -----------------------------------------------------------------------------------------------

    #: Does the socket close, with code 4401, when its session ends? If not, it goes on with a fresh session.
    close_on_session_end: ClassVar[bool] = True

    def session_turn(self) -> Turn:
        """A context with the newest session, used by nobody else of this socket, and saved at its end.

        Turns come in the order in which they are asked for. If the block raises, its unsaved changes are dropped.
        """
        return self._socket_session().turn()

    def session_now(self) -> Session | None:
        """The session, if it may be used this instant without waiting; see `ConnectionSession.now`."""
        return self._socket_session().now()

    def session_busy(self) -> bool:
        """Has a call of this socket its turn? Who asks for one now has to wait."""
        return self._socket_session().is_busy

    def session_settled(self) -> bool:
        """Was nothing changed since `session_now`? If something was, `session_commit` must follow."""
        return self._socket_session().settled()

    async def session_commit(self) -> None:
        """Store what was changed since `session_now`."""
        await self._socket_session().commit()

    def session_drop(self) -> None:
        """Drop what was changed since `session_now`."""
        self._socket_session().rollback()

    def _socket_session(self) -> ConnectionSession:
        if self._connection_session is None:
            raise SessionError(self._why_no_session())
        return self._connection_session

    def on_session_change(self, keys: frozenset[str]) -> Awaitable[None] | None:
        """Called after somebody else changed these top-level keys; may be a coroutine."""

    def on_session_end(self, reason: str) -> Awaitable[None] | None:
        """Called when the session is over, before the socket is closed with 4401; may be a coroutine.

        ``reason`` is "destroyed", "expired", "ended", "corrupt" (something else was stored in its place), or what
        `Sessions.end` was given.
        """

    def session_changed(self, keys: frozenset[str]) -> None:
        self._run_hook(self.on_session_change, keys)

    def session_saved(self, keys: frozenset[str]) -> Awaitable[None] | None:
        """This socket's own call has changed these top-level keys; they are stored. The save awaits what it returns."""
        return None

    def session_moved(self) -> None:
        """The session has another id now."""

    def session_ended(self, reason: str) -> None:
        self._run_hook(self._end_session, reason)

    def session_offered(self, ticket: str) -> None:
        """The browser is to trade ``ticket`` for its new cookie; only a client of sstream knows how."""

    async def _end_session(self, reason: str) -> None:
        try:
            result = self.on_session_end(reason)
            if result is not None:
                await result
        finally:
            if not self.close_on_session_end:
                self._socket_session().restart()
            elif isinstance(self, WebSocketHandler):
                self.close(SESSION_ENDED, "session ended")

    def _run_hook(self, hook: Any, *args: Any) -> None:
        """Call a hook of the user's; what it raises is logged and hurts nobody else."""
        what = f"{type(self).__name__}.{hook.__name__}"
        try:
            result = hook(*args)
        except Exception:
            _log.exception("%s failed", what)
            return
        if inspect.isawaitable(result):
            self.application.spawn(result, what)

    def on_connection_close(self) -> None:
        self._client_left = True
        self._close_session()
        super().on_connection_close()

    def _close_session(self) -> None:
        if self._connection_session is not None:
            self._connection_session.close()


def _status_of(error: SessionError | StoreError | BrokerError) -> int:
    return 503 if isinstance(error, StoreError | BrokerError) else 409 if isinstance(error, SessionGone) else 500
