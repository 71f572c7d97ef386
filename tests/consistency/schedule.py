"""A schedule: what visitors do, on pages and websockets of two processes, and what befalls their Redis meanwhile."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

__all__ = [
    "KEYS",
    "PROCESSES",
    "SLOTS",
    "USERS",
    "Close",
    "Fault",
    "Open",
    "Order",
    "Redis",
    "Replay",
    "Schedule",
    "Step",
    "Wait",
]

PROCESSES = (0, 1)
USERS = ("anna", "anna", "bert")  # whom each visitor logs in as: two of them are one person with two browsers
SLOTS = 5  # websockets that may be open at once
KEYS = ("k0", "k1", "k2", "k3")

READONLY = "READONLY You can't write against a read only replica."
LOADING = "LOADING Redis is loading the dataset in memory"
OOM = "OOM command not allowed when used memory > 'maxmemory'."


class Step:
    """One thing that happens; `str` of it is how it would be written down."""

    def __str__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class Order(Step):
    """A visitor wants something done, on a page or on a websocket.

    Attributes:
        kind: ``look``, ``put`` (a value of its own), ``drop`` (remove the key), ``count`` (plus one by ``transact``),
            ``add`` (plus one without; only this websocket has that key), ``fail`` (like put, then an exception),
            ``login``, ``logout``, ``end_all`` (of the visitor's user).
        slot: The websocket; ``None``: on a page.
        visitor, process: Of a page; a websocket has its own.
        key: What to change.
        nap: Seconds that the method takes, before and again after.
        plain: Call a ``def`` method, not an ``async def``.
        cancel: Seconds after which the browser takes the call back; ``None``: it does not.
        beside: Go on at once; else wait until it is done.
    """

    kind: str
    visitor: int = 0
    process: int = 0
    slot: int | None = None
    key: str = ""
    nap: float = 0.0
    plain: bool = False
    cancel: float | None = None
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Open(Step):
    """A visitor opens a websocket; one that is open in the slot is closed first."""

    slot: int
    visitor: int
    process: int


@dataclass(frozen=True, slots=True)
class Close(Step):
    """The visitor closes a websocket."""

    slot: int


@dataclass(frozen=True, slots=True)
class Replay(Step):
    """Somebody shows a cookie that the visitor's browser once had, and writes."""

    visitor: int
    process: int
    which: int
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Fault(Step):
    """Something befalls the connections of one process to Redis.

    Attributes:
        kind: ``before``, ``reply``, ``after`` (where the connection of a ``command`` is cut), ``error``, ``late``,
            ``cut`` (all connections), ``freeze``, ``refuse``, ``slow``, or ``heal``, which ends all of them.
        skip: So many of these commands go through first.
    """

    kind: str
    process: int
    command: str | None = None
    message: str = ""
    seconds: float = 0.0
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Redis(Step):
    """Something is done to Redis by hand: ``del`` (a visitor's session), ``flush`` (everything), ``scripts``, ``ears``
    (kill the connections that listen)."""

    kind: str
    visitor: int = 0


@dataclass(frozen=True, slots=True)
class Wait(Step):
    """Wait until all that runs is done, or only ``seconds``."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """All steps in order, and how the visitors' browsers treat the tickets they are given."""

    seed: int
    steps: tuple[Step, ...]
    trades: str = "at once"  # or "elsewhere" (on the other process), "never"

    @classmethod
    def of(cls, seed: int) -> "Schedule":
        """The schedule of this number, always the same one."""
        dice = random.Random(seed)
        trades = dice.choices(("at once", "elsewhere", "never"), (6, 2, 1))[0]
        return cls(seed, tuple(_steps(dice)), trades)

    def __str__(self) -> str:
        return "\n".join([f"tickets are traded {self.trades}", *map(str, self.steps)])


def _steps(dice: random.Random) -> Iterator[Step]:
    visitors = range(dice.randint(1, len(USERS)))
    if dice.random() < 0.8:
        for visitor in visitors:
            yield Order("put", visitor, dice.choice(PROCESSES), key="k0")
            if dice.random() < 0.3:
                yield Order("login", visitor, dice.choice(PROCESSES))
    for slot in range(dice.randint(1, SLOTS)):
        yield Open(slot, dice.choice(visitors), dice.choice(PROCESSES))
    # Some days nothing breaks, on some all does.
    trouble = dice.choice((0.0, 0.1, 0.25))
    ends = dice.choice((0.0, 0.02, 0.06))
    logins = dice.choice((0.0, 0.03, 0.1))
    crowd = dice.choice((0.2, 0.6, 0.9))
    for _ in range(dice.randint(10, 45)):
        chance = dice.random()
        if chance < trouble:
            yield _trouble(dice)
        elif chance < trouble + 0.08:
            yield dice.choice((Wait(), Wait(dice.choice((0.001, 0.005, 0.02)))))
        elif chance < trouble + 0.12:
            yield Open(dice.randrange(SLOTS), dice.choice(visitors), dice.choice(PROCESSES))
        elif chance < trouble + 0.13:
            yield Close(dice.randrange(SLOTS))
        elif chance < trouble + 0.15:
            yield Replay(dice.choice(visitors), dice.choice(PROCESSES), dice.randrange(4), dice.random() < crowd)
        elif chance < trouble + 0.25:
            yield from _burst(dice, dice.choice(visitors))
        elif chance < trouble + 0.25 + ends / 4:
            yield Redis("flush" if dice.random() < 0.2 else "del", dice.choice(visitors))
        elif chance < trouble + 0.25 + ends / 4 + (ends + logins) / 4:
            yield from _clash(dice, dice.choice(visitors))
        else:
            yield _order(dice, visitors, ends, logins, crowd)


def _clash(dice: random.Random, visitor: int) -> Iterator[Step]:
    """Things that must not come between one another, all at once, by one visitor."""
    kinds = [dice.choice(("login", "logout", "end_all")), dice.choice(("login", "logout", "end_all", "put", "count"))]
    for kind in ("login", *kinds):
        if dice.random() < 0.3:
            yield Wait(dice.choice((0.001, 0.002, 0.003, 0.005, 0.008)))
        slot = dice.choice((None, None, dice.randrange(SLOTS)))
        yield Order(kind, visitor, dice.choice(PROCESSES), slot, key="n" if kind == "count" else "k0", beside=True)
    if dice.random() < 0.3:
        yield Redis("del", visitor)
    yield Wait()


def _burst(dice: random.Random, visitor: int) -> Iterator[Step]:
    """Calls of one socket that come while its session is in use: most of them share a turn, and a commit."""
    slot = dice.randrange(SLOTS)
    for _ in range(dice.randint(3, 10)):
        kind = dice.choices(("put", "add", "look", "fail"), (4, 4, 2, 1))[0]
        yield Order(
            kind,
            visitor,
            slot=slot,
            key="" if kind == "add" else dice.choice(KEYS),
            plain=dice.random() < 0.85,
            cancel=dice.choice((0.0, 0.0005, 0.002)) if dice.random() < 0.1 else None,
            beside=True,
        )


def _order(dice: random.Random, visitors: range, ends: float, logins: float, crowd: float) -> Order:
    chance = dice.random()
    if chance < ends:
        kind = dice.choice(("logout", "logout", "end_all"))
    elif chance < ends + logins:
        kind = "login"
    else:
        kind = dice.choices(("put", "count", "add", "look", "drop", "fail"), (8, 6, 5, 6, 1, 1))[0]
    slot = dice.randrange(SLOTS) if dice.random() < 0.6 else None
    if slot is None and kind == "add":
        kind = "count"
    if slot is not None and kind == "drop":
        kind = "put"
    return Order(
        kind,
        dice.choice(visitors),
        dice.choice(PROCESSES),
        slot,
        key="n" if kind == "count" else "" if kind == "add" else dice.choice(KEYS),
        nap=dice.choices((0.0, 0.001, 0.004, 0.02), (8, 2, 2, 1))[0],
        plain=slot is not None and kind in {"look", "put", "add", "fail"} and dice.random() < 0.5,
        cancel=dice.choice((0.0, 0.0005, 0.001, 0.002)) if slot is not None and dice.random() < 0.06 else None,
        beside=dice.random() < crowd,
    )


def _trouble(dice: random.Random) -> Step:
    process = dice.choice(PROCESSES)
    kind = dice.choices(
        ("before", "reply", "after", "error", "late", "cut", "freeze", "refuse", "slow", "heal", "scripts", "ears"),
        (5, 8, 4, 4, 4, 3, 2, 2, 2, 3, 2, 2),
    )[0]
    match kind:
        case "scripts" | "ears":
            return Redis(kind)
        case "before" | "reply" | "after":
            command = dice.choices(("EVALSHA", "GET", "DEL", None), (5, 2, 2, 1))[0]
            return Fault(kind, process, command, skip=dice.choice((0, 0, 0, 1, 1, 2, 3, 4, 5)))
        case "error":
            message = dice.choice((READONLY, LOADING, OOM))
            command = "EVALSHA" if message == OOM else dice.choice(("EVALSHA", "GET", "DEL"))
            return Fault(kind, process, command, message, skip=dice.choice((0, 0, 1, 2, 3)))
        case "late":
            return Fault(
                kind,
                process,
                dice.choice(("EVALSHA", "GET", "DEL")),
                seconds=dice.choice((0.005, 0.02, 0.06)),
                skip=dice.choice((0, 0, 1, 2, 3)),
            )
        case "slow":
            return Fault(kind, process, seconds=dice.choice((0.001, 0.005, 0.02)))
        case "freeze" | "refuse":
            return Fault(kind, process, seconds=dice.choice((0.01, 0.05, 0.1, 0.4)))
        case _:
            return Fault(kind, process)
