"""What may be true: every order with the time it took, and what follows for the sessions.

A *lineage* is one session through all its ids, known by the mark that its first writer left in it. An order is known by
when it was sent and when its outcome was heard. One that is still running, or whose outcome is unknown (503, code 4050,
a broken connection), may have happened at any time since it was sent, may happen yet, or never.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["STALENESS", "Lineage", "Model", "Outcome", "Record", "Violation"]

# Seconds that a websocket's copy may be behind what another process wrote: so long may the silent loss of the
# connection that listens go unnoticed (a ping each second, a ping's deadline, and a busy machine).
STALENESS = 2.5

# Seconds that a copy may lie about which a move has left that was broken off, under an id that nobody was told.

WRITES = frozenset({"put", "drop", "count", "add", "fail", "login"})
ENDS = frozenset({"logout", "end_all", "del", "flush"})
MOVES = frozenset({"login", "trade"})


class Violation(AssertionError):
    """Something is true that must not be."""


class Outcome(Enum):
    """What the one who sent an order heard."""

    UNKNOWN = "unknown"
    DONE = "done"
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class Record:
    """An order, or anything else that changes sessions, and what came of it.

    Attributes:
        number: Counts all records; what a ``put`` writes.
        visitor: Who sent it, ``None`` for somebody with a hand in Redis.
        shown: The id in the cookie that was sent with it; ``None`` for none, and for websockets.
        connection: The websocket's number, ``None`` for a page.
        user: Whom ``login`` and ``end_all`` concern.
        mark: Of the lineage that it was done on, if it is done.
        made: The sid that its visitor's browser has been given.
        ended: The marks of the lineages that it ended for certain.
    """

    number: int
    kind: str
    start: float
    visitor: int | None = None
    process: int = 0
    connection: int | None = None
    shown: str | None = None
    key: str = ""
    user: str = ""
    end: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    before: str | None = None
    mark: str | None = None
    made: str | None = None
    result: Any = None
    ended: frozenset[str] = frozenset()
    note: str = ""

    def __str__(self) -> str:
        where = "Redis" if self.visitor is None else f"visitor {self.visitor}, process {self.process}, "
        if self.visitor is not None:
            where += f"page, cookie {_short(self.shown)}" if self.connection is None else f"socket {self.connection}"
        times = f"{self.start * 1000:8.1f} to {self.end * 1000:8.1f} ms"
        marks = f"{self.before} -> {self.mark}" if self.before != self.mark else str(self.mark)
        made = f", given {_short(self.made)}" if self.made else ""
        result = f", result {self.result}" if self.result is not None else ""
        ended = f", ended {sorted(self.ended)}" if self.ended else ""
        return (
            f"{times}  #{self.number} {self.kind} {self.key}{self.user}, {where}: {self.outcome.value} on {marks}"
            f"{made}{result}{ended} {self.note}"
        )


@dataclass(slots=True, eq=False)
class Lineage:
    """A session through all its ids."""

    mark: str
    visitor: int
    first_seen: float
    sids: dict[str, None] = field(default_factory=dict)
    ends: list[Record] = field(default_factory=list)  # those that ended it for certain

    @property
    def ended_at(self) -> float:
        """When its first certain end was heard of."""
        return min((record.end for record in self.ends), default=math.inf)


class Model:
    """Takes what happened, in the order in which it was heard, and raises `Violation` where it must not have."""

    def __init__(self, users: Sequence[str]) -> None:
        self._users = users  # whom each visitor logs in as
        self.records: list[Record] = []
        self.lineages: dict[str, Lineage] = {}
        self._where: dict[str, str] = {}  # sid -> mark
        self._dead: dict[str, float] = {}  # sid -> since when no cookie with it may be good for anything
        self._homes: list[tuple[Record, str]] = []  # who heard when that a session is at an id

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self, kind: str, start: float, **fields: Any) -> Record:
        """Something is sent."""
        record = Record(len(self.records) + 1, kind, start, **fields)
        self.records.append(record)
        return record

    def refused(self, record: Record, end: float) -> None:
        """It was refused, because the session is gone, or because the method raised: it has changed nothing."""
        record.end, record.outcome = end, Outcome.REFUSED
        if record.kind == "fail":
            return
        mark = self._expected(record)
        if mark is not None and not self._may_have_ended(mark, end):
            raise Violation(f"{record}: refused, though nobody has ended {mark}")

    def done_by_hand(self, record: Record, end: float, ended: Iterable[str]) -> None:
        """Somebody removed sessions in Redis."""
        record.end, record.outcome = end, Outcome.DONE
        self._note_end(record, ended)

    def done(self, record: Record, end: float, seen: Mapping[str, Any]) -> None:
        """It was acknowledged; ``seen`` is what the method told."""
        record.end, record.outcome = end, Outcome.DONE
        record.before, record.mark, record.result = seen["before"], seen["mark"], seen["result"]
        self._check_owner(record)
        self._check_ids(record, seen)
        self._check_alive(record)
        if record.before is not None:
            self._check_data(self.lineages[record.before], seen["data"], record)
        if record.kind in {"count", "add"}:
            self._check_result(record)
        match record.kind:
            case "logout":
                self._note_end(record, [record.before] if record.before is not None else [])
            case "end_all":
                self._note_end(record, self._logged_in(record.user, record.start))

    def traded(self, record: Record, end: float, made: str) -> None:
        """A browser has got a new cookie for a ticket."""
        record.end, record.outcome, record.made = end, Outcome.DONE, made
        if record.shown is not None and record.shown != made:
            # Either the session has moved, or the cookie was that of a dead one, and this is the cookie of another.
            self._dead.setdefault(record.shown, end)
            record.mark = self._where.get(record.shown)

    def _note_end(self, record: Record, marks: Iterable[str]) -> None:
        record.ended = frozenset(marks)
        for mark in record.ended:
            self._lineage(mark).ends.append(record)

    # --- whose it is --------------------------------------------------------------------------------------------------

    def _lineage(self, mark: str) -> Lineage:
        visitor, _, number = mark.partition(":")
        if mark not in self.lineages:
            record = self.records[int(number) - 1]
            if record.outcome is Outcome.REFUSED:
                raise Violation(f"a session bears the mark {mark} of an order that was refused")
            self.lineages[mark] = Lineage(mark, int(visitor), record.start)
        return self.lineages[mark]

    def _check_owner(self, record: Record) -> None:
        for mark in (record.before, record.mark):
            if mark is not None and self._lineage(mark).visitor != record.visitor:
                raise Violation(f"{record}: visitor {record.visitor} sees the session of another, {mark}")

    def _check_ids(self, record: Record, seen: Mapping[str, Any]) -> None:
        for mark, sid in ((record.before, seen["sid_before"]), (record.mark, seen["sid"])):
            if mark is None:
                continue
            self.note_sid(sid, mark, str(record))
            if record.connection is None and record.outcome is Outcome.DONE and mark == record.mark:
                record.made = sid
        if record.connection is not None:
            self._check_connection(record)
            return
        shown = record.shown
        if shown is not None:
            if record.before is None:
                if (home := self._surely_at(shown, record)) is not None:
                    raise Violation(f"{record}: the session {home} is not found under its id")
                if seen["sid"] == shown:
                    raise Violation(f"{record}: an unknown id was adopted")
                self._dead.setdefault(shown, record.end)
            elif self._dead.get(shown, math.inf) < record.start:
                raise Violation(f"{record}: the id of its cookie is dead, and good for {record.before}")
            elif record.before != self._where.get(shown, record.before):
                raise Violation(f"{record}: its cookie is that of {self._where[shown]}")
        elif record.before is not None:
            raise Violation(f"{record}: no cookie was shown, and {record.before} found")
        if record.kind == "login" and record.before is not None:
            if seen["sid"] == seen["sid_before"] or seen["sid"] == shown:
                raise Violation(f"{record}: the login has not renewed the id")
            for old in (shown, seen["sid_before"]):
                if old is not None:
                    self._dead.setdefault(old, record.end)
        if record.mark is not None and record.kind not in ENDS:
            self._settle_at(record, seen["sid"], record.mark)

    def _check_connection(self, record: Record) -> None:
        """A websocket has the session that it was opened with, or the first that was written on it, until its end."""
        ours = [other for other in self.records if other.connection == record.connection and other is not record]
        opened = ours[0]
        for other in ours:
            if other.mark is None:
                continue
            if record.before not in {None, other.mark} or (record.before is None and other.end < record.start):
                raise Violation(f"{record}: the websocket had the session {other.mark}")
        if opened.shown is None:
            return
        if record.before is None:
            during = Record(0, "open", opened.start, end=record.end)
            if (home := self._surely_at(opened.shown, during)) is not None:
                raise Violation(f"{record}: the session {home} is not found under the id that opened the websocket")
        elif record.before == self._where.get(opened.shown) and self._dead.get(opened.shown, math.inf) < opened.start:
            raise Violation(f"{record}: the id that opened the websocket is dead, and good for {record.before}")

    def note_sid(self, sid: str, mark: str, where: str) -> None:
        """A session was seen under an id."""
        known = self._where.setdefault(sid, mark)
        if known != mark:
            raise Violation(f"{where}: one id for two sessions, {known} and {mark}")
        self._lineage(mark).sids[sid] = None

    def _settle_at(self, record: Record, sid: str, mark: str) -> None:
        self._where[sid] = mark
        self._lineage(mark).sids[sid] = None
        self._homes.append((record, sid))

    def _surely_at(self, sid: str, reader: Record) -> str | None:
        """The lineage that is under this id for certain, all the time that ``reader`` takes."""
        mark = self._where.get(sid)
        if mark is None:
            return None
        for learned, home in self._homes:
            if home == sid and learned is not reader and learned.end < reader.start:
                disturbing = (
                    record
                    for record in self._about(mark, ENDS | MOVES)
                    if record is not learned
                    and record is not reader
                    and record.end >= learned.start
                    and record.start <= reader.end
                )
                if next(disturbing, None) is None:
                    return mark
        return None

    def _expected(self, record: Record) -> str | None:
        """The lineage that an order was meant for, as far as that is known."""
        if record.connection is None:
            return self._where.get(record.shown) if record.shown is not None else None
        opened = None
        for other in reversed(self.records):
            if other.connection == record.connection:
                if other.mark is not None:
                    return other.mark
                opened = other
        return self._where.get(opened.shown) if opened is not None and opened.shown is not None else None

    # --- is it alive --------------------------------------------------------------------------------------------------

    def _about(self, mark: str, kinds: frozenset[str]) -> Iterator[Record]:
        """Every record of these kinds that has, or may have, to do with a lineage."""
        visitor = self.lineages[mark].visitor
        for record in self.records:
            if record.kind not in kinds or record.outcome is Outcome.REFUSED:
                continue
            if record.kind == "end_all":
                # It may, or may not, take in whoever logs in or moves meanwhile.
                concerns = record.user == self._users[visitor]
            elif record.outcome is Outcome.DONE:
                concerns = record.mark == mark or record.before == mark or mark in record.ended
            else:
                concerns = record.visitor in {None, visitor}
            if concerns:
                yield record

    def _may_have_ended(self, mark: str, until: float) -> bool:
        if any(record.start <= until for record in self._about(mark, ENDS)):
            return True
        # A move to a new id that was broken off between two steps leaves the session under the old id, or under none:
        # nobody was told the new one.
        return any(
            record.start <= until and record.outcome is Outcome.UNKNOWN and record.connection is None
            for record in self._about(mark, MOVES)
        )

    def _logged_in(self, user: str, at: float) -> list[str]:
        """The lineages that a user has logged into before, for certain."""
        marks = []
        for mark, lineage in self.lineages.items():
            logins = [record for record in self._about(mark, frozenset({"login"})) if record.user == user]
            if any(record.outcome is Outcome.DONE and record.end < at for record in logins) and lineage.ended_at > at:
                marks.append(mark)
        return marks

    def _check_alive(self, record: Record) -> None:
        if record.before is None or record.kind in ENDS:
            return
        for end in self.lineages[record.before].ends:
            if record.kind in WRITES and end.end < record.start:
                raise Violation(f"{record}: acknowledged, though the session has ended before\n  {end}")
            if end.end < self._horizon(record, end):
                raise Violation(f"{record}: sees a session that has ended\n  {end}")

    # --- what it holds ------------------------------------------------------------------------------------------------

    @staticmethod
    def _horizon(reader: Record, writer: Record) -> float:
        """What the writer was told before this moment the reader must know."""
        if reader.connection is None or writer.process == reader.process:
            return reader.start
        return reader.start - STALENESS

    def _check_data(self, lineage: Lineage, data: Mapping[str, Any], reader: Record) -> None:
        self._check_user(lineage, data.get("userId"), reader)
        for key in {*data, *(record.key for record in self._about(lineage.mark, WRITES))} - {"", "mark", "userId"}:
            if key.startswith("k"):
                self._check_register(lineage, key, data.get(key), reader)
            else:
                own = key == reader.key and reader.outcome is Outcome.DONE  # it has counted itself
                self._check_counter(lineage, key, data.get(key, 0) - own, reader)

    def _check_user(self, lineage: Lineage, user: str | None, reader: Record) -> None:
        if user is None:
            for login in self._about(lineage.mark, frozenset({"login"})):
                if login.outcome is Outcome.DONE and login.end < self._horizon(reader, login):
                    raise Violation(f"{reader}: nobody is logged in; lost is\n  {login}")
            return
        # One that was refused may have come so far: the session ended while its id was renewed.
        tried = (record for record in self.records if record.kind == "login" and record.visitor == lineage.visitor)
        if user != self._users[lineage.visitor] or not any(login.start <= reader.end for login in tried):
            raise Violation(f"{reader}: {user} is logged in to {lineage.mark}, and has never tried to")

    def _check_register(self, lineage: Lineage, key: str, value: int | None, reader: Record) -> None:
        writes = [
            record
            for record in self._about(lineage.mark, frozenset({"put", "drop"}))
            if record.key == key and record.start <= reader.end
        ]
        if value is None:
            sources = [-math.inf, *(record.end for record in writes if record.kind == "drop")]
        else:
            sources = [record.end for record in writes if record.kind == "put" and record.number == value]
            if not sources:
                raise Violation(f"{reader}: {key} of {lineage.mark} is {value}, which nobody has written to it")
        latest = max(sources)
        for record in writes:
            if record.outcome is Outcome.DONE and latest < record.start and record.end < self._horizon(reader, record):
                raise Violation(f"{reader}: {key} of {lineage.mark} is {value}; lost is the write\n  {record}")

    def _counts(self, mark: str, key: str) -> list[Record]:
        return [record for record in self._about(mark, frozenset({"count", "add"})) if record.key == key]

    def _check_counter(self, lineage: Lineage, key: str, value: int, reader: Record) -> None:
        counts = [record for record in self._counts(lineage.mark, key) if record is not reader]
        least = sum(record.outcome is Outcome.DONE and record.end < self._horizon(reader, record) for record in counts)
        most = sum(record.start <= reader.end for record in counts)
        if not least <= value <= most:
            raise Violation(f"{reader}: {key} of {lineage.mark} is {value}; at least {least}, at most {most} is right")

    def _check_result(self, record: Record) -> None:
        assert record.mark is not None
        self._check_counter(self._lineage(record.mark), record.key, record.result - 1, record)
        for other in self._counts(record.mark, record.key):
            if other is not record and other.outcome is Outcome.DONE and other.result == record.result:
                raise Violation(f"two counted to {record.result}:\n  {other}\n  {record}")

    # --- in the end, when nothing is under way any more ---------------------------------------------------------------

    def homes(self, stored: Mapping[str, Mapping[str, Any]], orphans: Set[str]) -> dict[str, str]:
        """Under which id each lineage is stored.

        ``orphans`` may be what a move that was broken off has left under an id that nobody was told. Such a one is no
        home if there is a better one, or if the session may have ended.
        """
        homes: dict[str, str] = {}
        for sid, data in sorted(stored.items(), key=lambda item: item[0] in orphans):
            mark = str(data.get("mark"))
            if sid in self._where:
                if mark in homes and homes[mark] in self._where:
                    raise Violation(f"{mark} is stored twice, under {_short(homes[mark])} and {_short(sid)}")
                homes[mark] = sid
                continue
            is_over = self._may_have_ended(mark, math.inf) if sid in orphans else self._lineage(mark).ends
            if not is_over:
                homes.setdefault(mark, sid)
        return homes

    def check_stored(self, stored: Mapping[str, Mapping[str, Any]], orphans: Set[str], now: float) -> None:
        """Hold the model against all sessions in Redis, by id; `homes` tells what ``orphans`` are."""
        reader = Record(0, "look at Redis", now, end=now, note="in the end")
        homes = self.homes(stored, orphans)
        for sid, data in stored.items():
            mark = data.get("mark")
            if mark is None:
                raise Violation(f"a session without a mark is stored: {data}")
            if homes.get(mark) != sid:
                if sid in self._where or sid not in orphans:
                    raise Violation(f"a second copy of {mark} is left under {_short(sid)}")
                continue
            self.note_sid(sid, mark, "in Redis")
            lineage = self._lineage(mark)
            if lineage.ended_at < now:
                raise Violation(f"{mark} has ended, and is stored under {_short(sid)}")
            if sid in self._dead:
                raise Violation(f"the id {_short(sid)} of {mark} is dead, and stored")
            self._check_data(lineage, data, reader)
        for mark in self.lineages:
            if mark not in homes and not self._may_have_ended(mark, now):
                raise Violation(f"nobody has ended {mark}, and it is not stored")

    def check_closed(self, connection: int, code: int | None, now: float) -> None:
        """A websocket was closed by the server."""
        if code != 4401:
            raise Violation(f"socket {connection} was closed with {code}")
        mark = self._expected(Record(0, "close", now, connection=connection))
        if mark is not None and not self._may_have_ended(mark, now):
            raise Violation(f"socket {connection} was closed with 4401, though nobody has ended {mark}")

    def mark_of(self, connection: int) -> str | None:
        """The lineage that a websocket has told it has."""
        ours = (record.mark for record in reversed(self.records) if record.connection == connection)
        return next((mark for mark in ours if mark is not None), None)

    def history(self) -> str:
        """Everything that happened, to be read by whoever looks for the reason."""
        return "\n".join(map(str, self.records))


def _short(sid: str | None) -> str:
    return sid[:6] if sid is not None else "none"
