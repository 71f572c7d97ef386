"""A session: a mapping of JSON values that knows what of it has changed."""

from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from sstream.errors import TOO_MANY, RPCError, SessionError, SessionGone
from sstream.session import express

__all__ = ["BOOKKEEPING", "CHANNELS", "USER_ID", "Channels", "Keeper", "Session", "is_user_id"]

USER_ID: Final = "userId"  # SocketStream's name; a page of Express reads req.session.userId
CHANNELS: Final = "channels"
BOOKKEEPING: Final = "_sstream"  # at the top level: Express drops what it does not know inside ``cookie``

_OWN: Final = {
    USER_ID: "use set_user_id(), which also renews the id",
    CHANNELS: "use channels.subscribe() and unsubscribe()",
    BOOKKEEPING: "sstream keeps its books there",
}
_NOTHING: Final[frozenset[str]] = frozenset()
# Of all sessions that have none; never written to.
_NO_PARTS: Final[Mapping[str, bytes]] = {}
_NO_VALUES: Final[dict[str, Any]] = {}
_NO_CHANGES: Final[Mapping[str, bytes | None]] = {}
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})

T = TypeVar("T")
_Names = list[str]  # `Channels` has a method of that name


def is_user_id(value: object) -> bool:
    """Can this stand for a user? ``True`` cannot, though it is an integer."""
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


class Keeper(Protocol):
    """What a session needs of the place it is kept in; see `Sessions`, whose methods of these names say more."""

    max_channels: int | None

    def new_cookie(self, session: "Session") -> dict[str, Any]: ...
    def lifetime(self, session: "Session") -> int: ...
    async def save(self, session: "Session") -> None: ...
    async def reload(self, session: "Session") -> None: ...
    async def touch(self, session: "Session") -> None: ...
    async def destroy(self, session: "Session") -> None: ...
    async def renew(self, session: "Session", *, empty: bool) -> None: ...
    async def transact(self, session: "Session", change: Callable[["Session"], T | Awaitable[T]]) -> T: ...


class Session(MutableMapping[str, Any]):
    """One visitor's data, the same on a page and on a websocket.

    Values are what JSON holds: text, numbers, booleans, ``None``, lists and dicts of them. A value is checked when it
    is set and again when it is saved, because lists and dicts may be changed in place; such a change is noticed.

    Saving stores only the top-level keys that changed. Another writer's changes to other keys stay; to the same key,
    the later save wins; `transact` is for reading, changing and writing as one step.
    """

    __slots__ = (
        "__weakref__",
        "_assigned",
        "_cookie",
        "_deleted",
        "_gone",
        "_keeper",
        "_parts",
        "_values",
        "is_https",
        "is_in_browser",
        "owner",
        "sid",
        "text",
        "touched",
    )

    def __init__(
        self, keeper: Keeper, sid: str, text: bytes | None = None, parts: Mapping[str, bytes] | None = None
    ) -> None:
        self._keeper = keeper
        self.sid = sid
        self.text = text  # as it was last seen in the store, to be read by our own rooms alone; None: never stored
        self._parts: Mapping[str, bytes] = parts if parts is not None else _NO_PARTS
        self._values: dict[str, Any] = _NO_VALUES  # decoded or assigned so far
        # Not sets of its own: each would cost 0.2 KB, and most sessions on sockets are read and left as they are.
        self._assigned: frozenset[str] = _NOTHING
        self._deleted: frozenset[str] = _NOTHING
        # Was anything assigned or removed since it was loaded or saved, or a list or a dict handed out, that may be
        # changed in place? If not, nothing is modified.
        self.touched = False
        self._cookie: dict[str, Any] | None = None  # as it was assigned
        self._gone = False
        # What the room above knows: does the browser's cookie carry this id, did it come by https, which socket has
        # this copy. None of it is stored.
        self.is_in_browser = False
        self.is_https = False
        self.owner: Any = None

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The session's id. It is a secret: who knows it, and the cookie's secret, is that visitor.

        After `renew_id` on a websocket it stays the old one until the browser has fetched its new cookie.
        """
        return self.sid

    @property
    def is_new(self) -> bool:
        """Is it not yet stored?"""
        return self.text is None

    @property
    def is_gone(self) -> bool:
        """Was it ended, as far as this copy has heard?"""
        return self._gone

    @property
    def user_id(self) -> Any:
        """Who is logged in, text or an integer, or ``None``; see `set_user_id`."""
        return self.get(USER_ID)

    @property
    def max_age(self) -> int:
        """Seconds it lives without being used.

        Setting it gives this session its own lifetime and makes its cookie persistent ("remember me"); ``None`` makes
        the cookie end with the browser again.
        """
        original = self.cookie.get("originalMaxAge")
        return original // 1000 if isinstance(original, int) else self._keeper.lifetime(self)

    @max_age.setter
    def max_age(self, seconds: int | None) -> None:
        if seconds is not None and seconds <= 0:
            raise SessionError(f"max_age={seconds!r}; legal are whole seconds above 0, or None")
        original = None if seconds is None else express.milliseconds(seconds)
        self._assign_cookie({**self.cookie, "originalMaxAge": original})

    def _assign_cookie(self, fields: dict[str, Any]) -> None:
        self._cookie = fields
        self._assigned |= {express.COOKIE}
        self.touched = True

    @property
    def channels(self) -> "Channels":
        """The channels that every socket of this session is subscribed to."""
        return Channels(self)

    @property
    def cookie(self) -> dict[str, Any]:
        """The stored ``cookie`` object, in Express's names and units."""
        if self._cookie is not None:
            return self._cookie
        raw = self._parts.get(express.COOKIE)
        return self._keeper.new_cookie(self) if raw is None else dict(express.decode_cookie(raw))

    @property
    def bookkeeping(self) -> dict[str, Any]:
        """What sstream notes beside the data: when it was born, to which id it is about to move."""
        raw = self._parts.get(BOOKKEEPING)
        value = express.decode_value(raw) if raw is not None else None
        return value if isinstance(value, dict) else {}

    # --- the mapping --------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        # Common case first: it has been read before.
        try:
            return self._values[key]
        except KeyError:
            pass
        if key in self._deleted or key == express.COOKIE or key == BOOKKEEPING:
            raise KeyError(key)
        value = express.decode_value(self._parts[key])
        self._keep(key, value)
        if type(value) not in _PLAIN:
            self.touched = True
        return value

    def get(self, key: str, default: Any = None) -> Any:
        # Mapping's own goes through an exception; this is most of what a call does with its session.
        if key in self._values:
            return self._values[key]
        if key not in self:
            return default
        return self[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._check_key(key)
        express.encode_value(key, value)
        self._assign(key, value)

    def _keep(self, key: str, value: Any) -> None:
        # 0.2 KB, which a session that is never looked into does without.
        if self._values is _NO_VALUES:
            self._values = {}
        self._values[key] = value

    def _assign(self, key: str, value: Any) -> None:
        self._keep(key, value)
        self._assigned |= {key}
        self._deleted -= {key}
        self.touched = True

    def __delitem__(self, key: str) -> None:
        if key in _OWN:
            raise SessionError(f"session key {key!r} is not removed by hand; {_OWN[key]}")
        if key not in self:
            raise KeyError(key)
        self._forget(key)

    def _forget(self, key: str) -> None:
        self._values.pop(key, None)
        self._assigned -= {key}
        if key in self._parts:
            self._deleted |= {key}
            self.touched = True

    def __contains__(self, key: object) -> bool:
        if key in self._values:
            return True
        return key in self._parts and key not in self._deleted and key != express.COOKIE and key != BOOKKEEPING

    def __iter__(self) -> Iterator[str]:
        for key in list(self._parts):
            if key not in self._deleted and key != express.COOKIE and key != BOOKKEEPING:
                yield key
        for key in list(self._values):
            if key not in self._parts:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Remove every value but the user's id and the channels."""
        for key in list(self):
            if key not in _OWN:
                self._forget(key)

    def __repr__(self) -> str:
        # No id and no value: a repr ends up in logs.
        state = "gone" if self._gone else "new" if self.is_new else "stored"
        return f"<Session {state}, keys {sorted(self)}>"

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def _check_key(self, key: object) -> None:
        if not isinstance(key, str):
            raise SessionError(f"session key {key!r} is a {type(key).__name__}; keys are text")
        if express.is_reserved(key):
            raise SessionError(f"session key {key!r} is reserved: Express loses a session value of that name")
        if key in _OWN:
            raise SessionError(f"session key {key!r} is not set by hand; {_OWN[key]}")
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise SessionError(f"session key {key!r} holds a lone surrogate, which no JSON survives") from error

    # --- what has changed ---------------------------------------------------------------------------------------------

    def changes(self) -> dict[str, bytes | None]:
        """The JSON of every top-level key that differs from what was loaded; ``None`` for a removed one.

        Raises:
            SessionError: A value that JSON cannot hold; every unsaved change is dropped.
        """
        changes: dict[str, bytes | None] = dict.fromkeys(self._deleted)
        for key, value in self._values.items():
            if type(value) in _PLAIN and key not in self._assigned:
                continue
            raw = self._parts.get(key)
            if raw is not None and express.is_written_as(value, raw):
                continue
            try:
                text = express.encode_value(key, value)
            except SessionError:
                self.rollback()
                raise
            # A text that is written differently (by other software) but means the same is no change.
            if raw is None or (
                text != raw
                and (express.is_canonical(raw) or text != express.encode_value(key, express.decode_value(raw)))
            ):
                changes[key] = text
        if express.COOKIE in self._assigned:
            changes[express.COOKIE] = msgspec.json.encode(self.cookie)
        return changes

    def is_modified(self) -> bool:
        """Has anything changed since it was loaded or saved?"""
        return self.touched and bool(self.changes())

    def rollback(self, kept: Mapping[str, bytes | None] = _NO_CHANGES) -> None:
        """Drop every unsaved change but those that are ``kept``, as `changes` gave them."""
        self._values = _NO_VALUES
        self._assigned = self._deleted = _NOTHING
        self.touched = False
        self._cookie = None
        for key, raw in kept.items():
            if raw is None:
                self._forget(key)
            elif key == express.COOKIE:
                self._assign_cookie(dict(express.decode_cookie(raw)))
            else:
                self._assign(key, express.decode_value(raw))

    def rebase(self, text: bytes, parts: Mapping[str, bytes], saved: Container[str] = ()) -> None:
        """Stand on newer stored data, of which ``saved`` came from here.

        Unsaved changes stay unsaved. Values that did not change keep their identity, the others are read anew.
        """
        cookie_pending = express.COOKIE in self._assigned and express.COOKIE not in saved
        # Common case first: it stands in the newer data as it stands here, because it came from here.
        differ = [
            key
            for key, value in self._values.items()
            if (raw := parts.get(key)) is None or not express.is_written_as(value, raw)
        ]
        assigned = set()
        if differ:
            pending = self.changes()
            for key in differ:
                if key not in pending:
                    if parts.get(key) != self._parts.get(key):
                        del self._values[key]
                elif pending[key] != parts.get(key):
                    assigned.add(key)
        self._deleted = self._deleted & parts.keys() or _NOTHING
        self._assigned = frozenset(assigned) if assigned else _NOTHING
        if cookie_pending:
            self._assigned |= {express.COOKIE}
        else:
            self._cookie = None
        self.touched = (
            bool(self._assigned)
            or bool(self._deleted)
            or any(type(value) not in _PLAIN for value in self._values.values())
        )
        self.text, self._parts = text, parts

    def follow(self, sid: str) -> None:
        """Go on under another id: the data has moved there."""
        self.sid = sid

    def mark_gone(self) -> None:
        """Note that it was ended; from now on saving raises `SessionGone`."""
        self._gone = True

    def snapshot(self) -> tuple[bytes | None, Mapping[str, bytes]]:
        """The stored text that this copy stands on, and the same cut by key."""
        return self.text, self._parts

    # --- the coroutines -----------------------------------------------------------------------------------------------

    async def save(self) -> None:
        """Store what has changed; when it returns, the store has acknowledged it.

        A page and a call do so by themselves before they answer.

        Raises:
            SessionGone: It was ended in the meantime; nothing is stored.
            SessionError: A value that cannot be stored, or too much; every unsaved change is dropped.
            StoreError: The store did not answer; whether it has the change is unknown.
        """
        self._alive()
        await self._keeper.save(self)

    async def reload(self) -> None:
        """Read the stored data anew; unsaved changes are dropped.

        Raises:
            SessionGone: It is not stored any more.
        """
        self._alive()
        await self._keeper.reload(self)

    async def touch(self) -> None:
        """Begin its idle time anew, changing nothing."""
        self._alive()
        await self._keeper.touch(self)

    async def destroy(self) -> None:
        """End it, everywhere: every open socket of it is closed, on every process."""
        await self._keeper.destroy(self)

    async def regenerate(self) -> None:
        """Go on under a new id with no data at all, as Express does; the old id is dead."""
        self._alive()
        await self._keeper.renew(self, empty=True)

    async def renew_id(self) -> None:
        """Go on under a new id with the same data; unsaved changes are saved.

        On a page the old id is dead when this returns. On a websocket it is dead as soon as the browser has fetched the
        new cookie, which its client does by itself, or after ``SessionOptions.renew_grace`` seconds.
        """
        self._alive()
        await self._keeper.renew(self, empty=False)

    async def set_user_id(self, user_id: str | int | None) -> None:
        """Note who is logged in, ``None`` for nobody, and renew the id: whoever knew it before knows it no more."""
        self._alive()
        if user_id is not None and not is_user_id(user_id):
            raise SessionError(f"user_id={user_id!r}; legal are text, integers and None")
        self.put_own(USER_ID, user_id)
        try:
            await self._keeper.renew(self, empty=False)
        except BaseException:
            # Whoever catches that goes on, and his next save must not log anybody in under the old id.
            self._values.pop(USER_ID, None)
            self._assigned -= {USER_ID}
            self._deleted -= {USER_ID}
            raise

    async def transact(self, change: Callable[["Session"], T | Awaitable[T]]) -> T:
        """Apply ``change(session)`` to the newest stored data and save it as one step; returns what it returned.

        ``change`` gets a session of its own, and is called again if another writer came between: it must change
        nothing else. If it raises, nothing is stored. Unsaved changes of this copy stay unsaved.
        """
        self._alive()
        return await self._keeper.transact(self, change)

    async def change_channels(self, change: Callable[["_Names"], "_Names"]) -> None:
        """Store what ``change`` makes of the channels; see `Channels`."""
        most = self._keeper.max_channels

        def apply(session: Session) -> None:
            names = change(session.channels.list())
            if most is not None and len(names) > most:
                raise RPCError(TOO_MANY, f"a session has at most {most} channels")
            session.put_own(CHANNELS, names or None)

        await self.transact(apply)

    def put_own(self, key: str, value: Any) -> None:
        """Set one of sstream's own keys, ``None`` to remove it."""
        if value is None:
            self._forget(key)
        else:
            express.encode_value(key, value)
            self._assign(key, value)

    def _alive(self) -> None:
        if self._gone:
            raise SessionGone("this session was ended; nothing can be stored in it")


class Channels:
    """A session's channels. They are stored with it, and every socket of the session follows a change at once."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> "_Names":
        """The names, in the order they were subscribed to."""
        stored = self._session.get(CHANNELS)
        # Express, or anybody, may have written anything.
        return (
            [name for name in stored if isinstance(name, str)]
            if isinstance(stored, Sequence) and not isinstance(stored, str)
            else []
        )

    async def subscribe(self, *names: str) -> None:
        """Add channels, and store that at once.

        Raises:
            RPCError: 4029, it would be more than ``Limits.channels``; nothing is stored.
        """
        await self._change(lambda old: [*old, *(name for name in dict.fromkeys(names) if name not in old)])

    async def unsubscribe(self, *names: str) -> None:
        """Remove channels, and store that at once; unknown ones are no error."""
        await self._change(lambda old: [name for name in old if name not in names])

    async def reset(self) -> None:
        """Remove all channels, and store that at once."""
        await self._change(lambda old: [])

    async def _change(self, change: Callable[[_Names], _Names]) -> None:
        await self._session.change_channels(change)
