"""Plain numbers that one process counts while it works; whoever wants to see them reads them.

A number is added to where the thing happens, and nothing else is done there: no label, no lock, no clock for what is
answered at once. `sstream.metrics` turns them into Prometheus' text, `sstream.inspector` into pictures.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import repeat
from operator import length_hint
from time import perf_counter
from typing import Any, Final

__all__ = [
    "BOUNDS",
    "OTHER",
    "CallCounts",
    "CallWatch",
    "Counters",
    "Histogram",
    "MethodCounts",
    "OperationCounts",
    "SessionCounts",
    "SocketCounts",
]

# Seconds. A plain method takes microseconds, a store in the same house a millisecond, a patient person ten seconds.
BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
OTHER: Final = 0  # the code of all codes that are too many to be told apart
_CODES: Final = 32  # codes of one method that are told apart: who calls may have a say in them
# Of so many calls that are answered at once, one is timed; a prime, so that it fits no batch. To time one takes about
# 12 us of a server's time, most of it for code and data that are in no cache: one of 251 was 2.5 % of all, at depth 16.
_STRIDE: Final = 2003
# Those for who looks on, primes too. None is below 1: a stride of 0, each is timed, is chosen once and for all.
_CLOSER: Final = (1, 3, 5, 11, 23, 47, 97, 199, 401, 997, _STRIDE)
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1005, 1016), 4401, 4408, 4429})


class Histogram:
    """How long things took: how many up to each of `BOUNDS` (and beyond the last), and the sum in seconds."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float, weight: int = 1) -> None:
        """Add one that took ``seconds`` and stands for ``weight`` of its kind."""
        self.counts[bisect_left(BOUNDS, seconds)] += weight
        self.seconds += seconds * weight

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


CallWatcher = Callable[[str, str, int | None, float | None], None]


class CallWatch:
    """Who is told of calls: ``(method, socket, None, seconds)`` of one that was timed, ``(method, socket, code, None)``
    of one that failed; nobody is, most of the time.
    """

    __slots__ = ("watcher",)

    def __init__(self) -> None:
        self.watcher: CallWatcher | None = None


class MethodCounts:
    """The calls of one method by one codec.

    One of 2,003 that are answered at once is timed, and the first after each `CallCounts.time_next`; more while
    somebody looks on (`CallCounts.look_closer`). It stands for those since the last one. What has to wait, or goes
    through middleware, is timed each time.

    Attributes:
        untimed: One step of it, which gives ``way``, is taken for each call that begins; that is how they are counted.
            At its end, the next call is due to be timed.
        undone: How many steps were taken for calls that were not answered at once after all.
        later: Answered with a result after they had waited.
        errors: Answered with an error, by code; `OTHER` for codes beyond the first 32.
        times: How long they took.
    """

    __slots__ = (
        "_before",
        "_seen",
        "_size",
        "_stood_for",
        "_told",
        "_watch",
        "_way",
        "errors",
        "later",
        "name",
        "stride",
        "times",
        "undone",
        "untimed",
    )

    def __init__(self, name: str, watch: CallWatch, way: Any = ()) -> None:
        self.name = name
        self._watch = watch
        self._way = way
        self.stride = _STRIDE
        # The first call is timed.
        self.untimed: Iterator[Any] = repeat(way, 0)
        self._size = 0  # of `untimed`, when it was new
        self._before = 0  # what was counted elsewhere than in `untimed`
        self._stood_for = 0  # how many calls those that were timed stood for
        self._told = 0
        self._seen = 0  # how many calls there were when `look_closer` was asked last
        self.undone = 0
        self.later = 0
        self.errors: dict[int, int] = {}
        self.times = Histogram()

    @property
    def is_due(self) -> bool:
        """Whether the next call is to be timed."""
        return not length_hint(self.untimed)

    def begin(self, size: int | None = None) -> None:
        """Let so many calls begin from now on before one is due: those that ``stride`` says, if nobody else does."""
        untimed = repeat(self._way, self.stride if size is None else size)
        left, size = length_hint(self.untimed), length_hint(untimed)
        # Without a call in between: then no other thread, which may read the sum, sees half of it.
        self._before, self._size, self.untimed = self._before + self._size - left, size, untimed

    def time_next(self) -> None:
        """Time the next call that is answered at once."""
        self.begin(0)

    def look_closer(self, samples: int) -> None:
        """Time about ``samples`` of as many calls as have come since this was asked last."""
        count = self._count()
        came, self._seen = count - self._seen, count
        if self.stride:
            self.stride = _CLOSER[bisect_left(_CLOSER, min(max(came // samples, 1), _STRIDE))]
        self.time_next()

    def look_away(self) -> None:
        """Time as few calls as before `look_closer`."""
        if self.stride:
            self.stride = _STRIDE

    def answer(self) -> None:
        """Another call was answered at once, for which no step of ``untimed`` was taken when it began."""
        if next(self.untimed, None) is None:
            self._before += 1

    def timed(self, began: float, socket: str) -> None:
        """A call that was due was answered at once; it had begun at ``began`` on the clock `perf_counter`."""
        seconds = perf_counter() - began
        answered = self._count()
        self.times.observe(seconds, answered - self._stood_for)
        self._stood_for = answered
        if self._watch.watcher is not None:
            self._watch.watcher(self.name, socket, None, seconds)

    def _count(self) -> int:
        return self._before + self._size - length_hint(self.untimed) - self.undone

    def waited(self, began: float, socket: str) -> None:
        """A call has ended that had to wait."""
        seconds = perf_counter() - began
        self.times.observe(seconds)
        if self._watch.watcher is not None:
            self._watch.watcher(self.name, socket, None, seconds)

    def fail(self, code: int, socket: str) -> None:
        """A call was answered with an error."""
        errors = self.errors
        if code not in errors and len(errors) >= _CODES:
            code = OTHER
        errors[code] = errors.get(code, 0) + 1
        if self._watch.watcher is not None:
            self._watch.watcher(self.name, socket, code, None)

    @property
    def at_once(self) -> int:
        """How many got a result in the very pass that brought them."""
        # Another thread may ask while a call is under way, which may fail then: what was told is not taken back.
        self._told = max(self._told, self._count())
        return self._told

    @property
    def answered(self) -> int:
        """How many got a result."""
        return self.at_once + self.later


class CallCounts:
    """The calls of one application.

    Attributes:
        methods: Those of methods that exist; the same name may come several times, for several codecs.
        unknown: Those of no method of ours: misspelt, or no call at all. Their names are the callers' and not kept.
        watch: Who is told of calls.
        around: Stands around each method: ``around(name, invoke, is_coroutine)`` gives what is invoked instead. It must
            be set before the first socket is opened.
    """

    # Invariant: nothing in here refers to this object, by which the tables of methods are kept, weakly.

    def __init__(self) -> None:
        self.methods: list[MethodCounts] = []
        self.watch = CallWatch()
        self.unknown = MethodCounts("", self.watch)
        self.around: Callable[[str, Callable[..., Any], bool], Callable[..., Any]] | None = None

    def time_next(self) -> None:
        """Time the next call of each method: called every second or so, it makes rare calls count as they are."""
        for method in self.methods:
            method.time_next()

    def look_closer(self, samples: int) -> None:
        """Time about ``samples`` calls of each method until this is asked again, if as many come as since last time."""
        for method in self.methods:
            method.look_closer(samples)

    def look_away(self) -> None:
        """Nobody looks on any more."""
        for method in self.methods:
            method.look_away()


class SocketCounts:
    """Websockets that came and went.

    Attributes:
        opened: Since the process began.
        closed: Since then, by close code; `OTHER` for all codes of the applications' own.
    """

    __slots__ = ("closed", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: dict[int, int] = {}

    def close(self, code: int | None) -> None:
        """A socket is gone; without a code it was lost, which is 1006."""
        code = 1006 if code is None else code if code in _CLOSE_CODES else OTHER
        self.closed[code] = self.closed.get(code, 0) + 1


class SessionCounts:
    """What was done with sessions.

    Attributes:
        loads: Read from the store, by a page or for a socket whose copy was not the newest.
        saves: Changes stored.
        conflicts: Somebody else had been faster when a change was to be stored.
        retries: Changes made again on top of what somebody else had stored.
        ended: Ended here, not by their age.
        watcher: Told of each change, while there is one: ``(sid, keys, transport, socket)``. The transport is "page",
            "socket" (then the socket is what has the session open) or "elsewhere": another process, or Express.
    """

    __slots__ = ("conflicts", "ended", "loads", "retries", "saves", "watcher")

    def __init__(self) -> None:
        self.loads = 0
        self.saves = 0
        self.conflicts = 0
        self.retries = 0
        self.ended = 0
        self.watcher: Callable[[str, frozenset[str], str, Any], None] | None = None


class OperationCounts:
    """The operations of a store or a broker, by name: how long they took, and how many failed."""

    __slots__ = ("errors", "times")

    def __init__(self, *names: str) -> None:
        self.times = {name: Histogram() for name in names}
        self.errors = dict.fromkeys(names, 0)


class Counters:
    """All that one application counts in this process.

    Attributes:
        pages: Replies over HTTP by status.
        page_times: How long they took.
        lag: How late the event loop was, every half second; it is measured where somebody can see it.
    """

    def __init__(self) -> None:
        self.calls = CallCounts()
        self.sockets = SocketCounts()
        self.sessions = SessionCounts()
        self.store = OperationCounts("get", "swap", "delete", "touch", "ttl")
        self.broker = OperationCounts("subscribe", "publish", "history", "enter", "leave", "sweep", "present")
        self.pages: dict[int, int] = {}
        self.page_times = Histogram()
        self.lag = Histogram()
