"""What is stored beside the sessions: where one went, tickets for new cookies, which sessions a user has.

All of it lies outside ``SessionOptions.prefix``, because connect-redis takes everything below that for sessions.
"""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sstream.errors import StoreError
from sstream.session.options import SessionOptions
from sstream.session.store import SessionStore

__all__ = ["BadTicket", "Fate", "Records", "Ticket"]

_FATE: Final = "sstream:fate:"  # + sid -> {"moving": sid}, {"moved": sid} or {"ended": reason}
_MOVING: Final = "sstream:moving:"  # + sid -> whoever moves it
_TICKET: Final = "sstream:ticket:"  # + SHA-256 of a ticket -> {"from": sid | null, "to": sid}
_USER: Final = "sstream:user:"  # + user's id -> a JSON list of that user's session ids

_FATE_TTL: Final = 60  # seconds; every process asks within moments
_PAUSE: Final = 0.02  # seconds between two looks at a move that is under way
_MOVE_TIME: Final = 0.8  # seconds that a move may take, as seen by those who wait for it
_MOVING_TTL: Final = 5  # seconds; a process that dies meanwhile blocks nobody for longer
_MOST_SESSIONS: Final = 1000  # of one user in the index; the oldest, most likely dead, go first
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Fate:
    """Where a session went that is not stored any more: to another id, or to its end, for ``reason``."""

    moved_to: str | None = None
    reason: str = "expired"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The browser whose cookie has the id ``old`` (``None``: that has none) may have one with the id ``new``."""

    old: str | None
    new: str


class BadTicket(Exception):
    """A ticket is good for nothing, or not for the browser that came with it."""


class Records:
    """Reads and writes them. Every method raises `StoreError` where the store does not answer."""

    def __init__(self, store: SessionStore, options: SessionOptions, clock: Callable[[], float]) -> None:
        self._store = store
        self._options = options
        self._clock = clock
        self._indexed: dict[tuple[str, str], float] = {}  # (user's key, sid) -> when it was last put into the index

    # --- fates --------------------------------------------------------------------------------------------------------

    async def fate(self, sid: str) -> Fate:
        """What became of a session; one of which nothing was noted has expired, or was removed by hand.

        While it is being moved, the end of that is waited for. A move that does not come to an end, because its process
        died, is none: what is left of it at the new id has a minute to live and was told to nobody.
        """
        end = asyncio.get_running_loop().time() + _MOVE_TIME
        while True:
            text = await self._store.get(_FATE + sid)
            fields = json.loads(text) if text is not None else {}
            if "moving" not in fields:
                return Fate(moved_to=fields.get("moved"), reason=fields.get("ended", "expired"))
            if asyncio.get_running_loop().time() > end:
                return Fate()
            await asyncio.sleep(_PAUSE)

    async def note_moving(self, sid: str, new: str) -> bool:
        """A session is about to move; see `fate`. Had its end been noted before?"""
        before = await self._note(sid, {"moving": new})
        return "ended" in before

    async def note_moved(self, sid: str, new: str) -> None:
        """A session has moved; its old key is gone."""
        await self._note(sid, {"moved": new})

    async def is_moving(self, sid: str, new: str) -> bool:
        """Is a session about to move to ``new``, by what was noted last?"""
        text = await self._store.get(_FATE + sid)
        return text is not None and json.loads(text).get("moving") == new

    async def is_past(self, sid: str) -> bool:
        """Has a session moved or ended, by what was noted last? If it is stored, somebody wrote it again since."""
        text = await self._store.get(_FATE + sid)
        return text is not None and "moving" not in json.loads(text)

    async def note_ended(self, sid: str, reason: str) -> str | None:
        """A session has ended; its key is gone. Gives the id to which it was moving, or had moved before."""
        before = await self._note(sid, {"ended": reason})
        return before.get("moving") or before.get("moved")

    async def note_ending(self, sid: str, reason: str) -> bool:
        """A session is about to end; ``False``, and nothing noted, where something else was noted of it before."""
        made, _ = await self._store.swap(_FATE + sid, None, json.dumps({"ended": reason}).encode(), _FATE_TTL)
        return made

    async def _note(self, sid: str, fields: Mapping[str, str]) -> dict[str, str]:
        """Note it in place of what was noted before, and give that."""
        text = json.dumps(fields).encode()
        before: bytes | None = None
        made, stored = await self._store.swap(_FATE + sid, None, text, _FATE_TTL)
        while not made:
            before = stored
            made, stored = await self._store.swap(_FATE + sid, before, text, _FATE_TTL)
        return json.loads(before) if before is not None else {}

    @asynccontextmanager
    async def moving(self, sid: str, end: float) -> AsyncIterator[None]:
        """Be the only one, of all processes, who moves a session to another id.

        ``end`` is when to give up, on the loop's clock, with `StoreError`.
        """
        key, token = _MOVING + sid, secrets.token_bytes(8)
        while not (await self._store.swap(key, None, token, _MOVING_TTL))[0]:
            if asyncio.get_running_loop().time() > end:
                raise StoreError("this session is being moved by another process, which does not come to an end")
            await asyncio.sleep(_PAUSE)
        try:
            yield
        finally:
            await self._store.swap(key, token, None, 1)

    # --- tickets ------------------------------------------------------------------------------------------------------

    async def issue(self, ticket: Ticket) -> str:
        """The text of a ticket, good once and for ``SessionOptions.renew_grace`` seconds."""
        text = secrets.token_urlsafe(24)
        record = json.dumps({"from": ticket.old, "to": ticket.new}).encode()
        await self._store.swap(self._ticket_key(text), None, record, self._options.renew_grace)
        return text

    async def ticket(self, text: str) -> Ticket | None:
        """What a ticket is good for, or ``None`` if it is for nothing; it is not used up."""
        record = await self._store.get(self._ticket_key(text))
        if record is None:
            return None
        fields = json.loads(record)
        return Ticket(fields["from"], fields["to"])

    async def use(self, text: str) -> bool:
        """Use a ticket up; of several who try at the same time, one hears ``True``."""
        return await self._store.delete(self._ticket_key(text))

    @staticmethod
    def _ticket_key(text: str) -> str:
        # Whoever sees the store's keys learns no ticket.
        return _TICKET + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    # --- a user's sessions --------------------------------------------------------------------------------------------

    async def add_session(self, user_id: str | int, sid: str) -> None:
        """Put a session into the index of its user, unless this process has done so lately."""
        key, now = _USER + str(user_id), self._clock()
        if self._indexed.get((key, sid), 0) > now - self._options.max_age / 2:
            return
        text = await self._store.get(key)
        made = False
        while not made:
            sids = [*(known for known in self._sids(text) if known != sid), sid][-_MOST_SESSIONS:]
            made, text = await self._store.swap(key, text, json.dumps(sids).encode(), self._index_ttl())
        while len(self._indexed) >= _REMEMBERED:
            del self._indexed[next(iter(self._indexed))]
        self._indexed[key, sid] = now

    async def sessions_of(self, user_id: str | int) -> list[str]:
        """The ids in a user's index; some of them may be dead."""
        return self._sids(await self._store.get(_USER + str(user_id)))

    async def remove_sessions(self, user_id: str | int, dead: Sequence[str]) -> None:
        """Take dead ids out of a user's index."""
        key = _USER + str(user_id)
        text = await self._store.get(key)
        made = False
        while not made:
            kept = [sid for sid in self._sids(text) if sid not in dead]
            new = json.dumps(kept).encode() if kept else None
            made, text = await self._store.swap(key, text, new, self._index_ttl())

    def _index_ttl(self) -> int:
        # Longer than any session that is in it and not seen again: an entry is renewed at half of max_age.
        return 2 * self._options.max_age

    @staticmethod
    def _sids(text: bytes | None) -> list[str]:
        sids = json.loads(text) if text is not None else []
        return [sid for sid in sids if isinstance(sid, str)]
