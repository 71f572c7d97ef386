"""Run coroutines at once: the first step in the caller's stack, the rest as an asyncio task, and one task for both.

A task for each call costs several microseconds and a turn of the loop before its first step, and most ``async def``
methods never wait. So a spare task stands ready, its coroutine parked. A call's first step runs by hand while the loop
believes that the spare task is running (``_enter_task``, which asyncio documents for those who write tasks of their
own). A call that ends in this step leaves the spare task to the next one; a call that waits keeps the task, and
is stepped by asyncio from then on. So ``current_task()``, ``asyncio.timeout()``, ``TaskGroup`` and cancellation see one
ordinary task from the first line of a call to its last, and each call has a context of its own, as a task has.

On CPython 3.11 a call that does not wait costs 0.8 us more than a ``def``; with ``create_task`` it is 7 us
(benchmarks/instructions.py).
"""

import asyncio
import contextvars
import sys
import types
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary

from sstream.compiled import load

__all__ = ["Deadlines", "Job", "Pool", "Runner"]

# The task that each loop believes to be running. What `_enter_task` and `_leave_task` do, and look at besides, is this
# dict, read in CPython 3.11.7, 3.12.1 and 3.13.0: to write to it takes 60 ns where they take 200. From 3.14 on it is
# none of Python's business.
_running: "dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None" = (
    None if sys.version_info >= (3, 14) else vars(asyncio.tasks).get("_current_tasks")
)

_RETURNED: Final = object()
_RAISED: Final = object()
_NOTHING: Final = object()


class Job(Protocol):
    """Who hears the outcome of a coroutine that had to wait."""

    def returned(self, result: Any) -> None:
        """The coroutine returned."""

    def raised(self, error: BaseException) -> None:
        """The coroutine raised, or was cancelled."""


class Runner(Coroutine[Any, Any, None]):
    """The coroutine of one task: parked until it is given a coroutine that waits, and at its end with it.

    Attributes:
        task: The task.
        job: Set by the caller of ``Pool.run`` who gets this runner.
    """

    __slots__ = ("_begun", "_context", "_loop", "_outcome", "_parked", "_pending", "_step", "_work", "job", "task")

    job: Job

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outcome: Any = None
        self._pending: Any = _NOTHING
        self._begun: Any = None  # the coroutine, if its first step was made in C, until its second one
        self._context: contextvars.Context | None = None
        self._parked: asyncio.Future[None] | None = None
        self._work: Any = self._run_coroutines()
        self._step = self._work.send
        self._step(None)
        # Not loop.create_task: a task factory may wrap coroutines, or run them at once.
        empty = contextvars.Context()
        self.task: asyncio.Task[None] = asyncio.Task(self, loop=loop, name="sstream call", context=empty)
        # A parked task that goes with its loop is nobody's mistake.
        self._log_destroyed(False)

    @types.coroutine
    def _run_coroutines(self) -> Generator[Any, Any, None]:
        # Takes one coroutine after another. Yields what each waits for, and how it ended.
        end = None
        while True:
            coroutine = yield end
            try:
                self._outcome = yield from coroutine
                end = _RETURNED
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # CancelledError among them: the job judges
                self._outcome = error
                end = _RAISED
            # Kept while this is parked, it would keep a socket alive.
            coroutine = None

    def send(self, value: Any) -> Any:
        if self._pending is not _NOTHING:
            pending, self._pending = self._pending, _NOTHING
            return pending
        if self._context is None:
            self._parked = self._loop.create_future()
            self._parked._asyncio_future_blocking = True  # as Future.__await__ does before it yields itself
            return self._parked
        if self._begun is not None:
            value, self._begun = self._begun, None
        return self._go_on(self._context, self._context.run(self._step, value))

    def throw(self, error: Any, *_: Any) -> Any:
        if self._pending is not _NOTHING:
            # Cancelled between the call's first step and the task's. A task would cancel what it waits for.
            pending, self._pending = self._pending, _NOTHING
            if asyncio.isfuture(pending):
                if pending.cancel(*error.args):
                    return pending
                pending._asyncio_future_blocking = False
        if self._context is None:
            Pool.forget(self)
            raise error
        if self._begun is not None:
            begun, self._begun = self._begun, None
            return self._go_on(self._context, self._context.run(self._step, _throw_into(begun, error)))
        return self._go_on(self._context, self._context.run(self._work.throw, error))

    def close(self) -> None:
        if self._begun is not None:
            self._begun.close()
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("a runner belongs to its task")

    def _go_on(self, context: contextvars.Context, pending: Any) -> Any:
        # In the coroutine's context: what is logged there belongs to it.
        if pending is _RETURNED:
            context.run(self.job.returned, self._outcome)
        elif pending is _RAISED:
            context.run(self.job.raised, self._outcome)
        else:
            return pending
        self._outcome = None
        raise StopIteration

    def _take(self, context: contextvars.Context, pending: Any, begun: Any = None) -> None:
        self._context = context
        self._pending = pending
        self._begun = begun
        self._log_destroyed(True)
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _log_destroyed(self, wanted: bool) -> None:
        self.task._log_destroy_pending = wanted  # type: ignore[attr-defined]  # asyncio.gather sets it likewise


@types.coroutine
def _throw_into(coroutine: Coroutine[Any, Any, Any], error: BaseException) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was begun, by raising ``error`` in it."""
    while True:
        try:
            pending = coroutine.throw(error)
        except StopIteration as end:
            return end.value
        try:
            yield pending
        except BaseException as another:  # the coroutine's business, whatever it is
            error = another
        else:
            return (yield from coroutine)


class Deadlines:
    """Timers for many things that last equally long: one timer of the loop for all, instead of 4 us for each.

    They end in the order they began, so a dict is the queue, and what ended early is simply taken out.
    """

    __slots__ = ("_ends", "_loop", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._ends: dict[Any, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Any) -> None:
        """Call ``item.expire()`` in ``seconds``, unless it is discarded before."""
        end = self._loop.time() + self._seconds
        self._ends[item] = end
        if self._timer is None:
            self._timer = self._loop.call_at(end, self._expire)

    def discard(self, item: Any) -> None:
        """Forget ``item``."""
        self._ends.pop(item, None)

    def clear(self) -> None:
        """Forget everything, and the timer."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        now = self._loop.time()
        self._timer = None
        late = []
        for item, end in self._ends.items():
            if end > now:
                self._timer = self._loop.call_at(end, self._expire)
                break
            late.append(item)
        for item in late:
            del self._ends[item]
        for item in late:
            item.expire()


class PythonStarter:
    """What runs the first steps of coroutines on one loop; ``Pool`` is built on it, or on the same in C.

    In C where it was built. By callgrind on CPython 3.11 a call takes 7,490 instructions for a ``def`` and 9,760 for an
    ``async def`` that does not wait; with only the step itself in C, and the rest of ``run`` here, it was 10,830.
    """

    __slots__ = ("_running", "_spare", "_users", "loop")

    if TYPE_CHECKING:
        loop: asyncio.AbstractEventLoop
        _running: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None
        _spare: Runner | None
        _users: int

        def _make(self) -> Runner: ...

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` until it ends or waits.

        Returns its result, or its ``Runner`` if it waits: then the runner's ``job`` must be set, and will hear how it
        ended. What the coroutine raises before it waits is raised here.
        """
        runner = self._spare
        if runner is None:
            runner = self._make()
        else:
            self._spare = None
        task, loop = runner.task, self.loop
        context = contextvars.copy_context()
        # There is an outer task where messages are read in one, as Tornado's own websocket does.
        outer = _running.get(loop) if _running is not None else asyncio.current_task(loop)
        _replace_task(loop, outer, task)
        try:
            pending = context.run(runner._step, coroutine)
        except BaseException:
            task.cancel()
            raise
        finally:
            _replace_task(loop, task, outer)
        if pending is not _RETURNED and pending is not _RAISED:
            runner._take(context, pending)
            return runner
        outcome, runner._outcome = runner._outcome, None
        self._put_back(runner)
        if pending is _RAISED:
            try:
                raise outcome
            finally:
                outcome = None  # else it and this frame would hold each other
        return outcome

    def _put_back(self, runner: Runner) -> None:
        if self._spare is None and self._users and not runner.task.cancelling():
            self._spare = runner
        else:
            runner.task.cancel()


def _replace_task(
    loop: asyncio.AbstractEventLoop, old: "asyncio.Task[Any] | None", new: "asyncio.Task[Any] | None"
) -> None:
    """Make the loop believe that the task ``new`` is running instead of ``old``."""
    if _running is None:
        if old is not None:
            _leave_task(loop, old)
        if new is not None:
            _enter_task(loop, new)
    elif new is not None:
        _running[loop] = new
    else:
        del _running[loop]


if TYPE_CHECKING:
    _Starter = PythonStarter
else:
    _INTERFACE = ("run", "loop", "_running", "_spare", "_users")
    _speedups = None if _running is None else load("sstream.rpc._speedups", *(f"Starter.{name}" for name in _INTERFACE))
    _Starter = PythonStarter if _speedups is None else _speedups.Starter


class Pool(_Starter):
    """What the calls of all sockets on one event loop share: the spare runner, and the deadlines."""

    _pools: "WeakKeyDictionary[asyncio.AbstractEventLoop, Pool]" = WeakKeyDictionary()

    __slots__ = ("_deadlines",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._running = _running
        self._spare = None
        self._users = 0
        self._deadlines: dict[float, Deadlines] = {}

    @classmethod
    def enter(cls) -> "Pool":
        """Get the running loop's pool; ``leave`` it when done."""
        loop = asyncio.get_running_loop()
        pool = cls._pools.get(loop)
        if pool is None:
            pool = cls._pools[loop] = cls(loop)
        pool._users += 1
        return pool

    def leave(self) -> None:
        """The last one out ends the spare task."""
        self._users -= 1
        if not self._users:
            if self._spare is not None:
                self._spare.task.cancel()
                self._spare = None
            for deadlines in self._deadlines.values():
                deadlines.clear()
            # The pool holds the loop: a weak key alone would never go.
            self._pools.pop(self.loop, None)

    @classmethod
    def forget(cls, runner: Runner) -> None:
        """Somebody has cancelled the spare task, as one does with all tasks: it can run nothing any more."""
        pool = cls._pools.get(runner._loop)
        if pool is not None and pool._spare is runner:
            pool._spare = None

    def deadlines(self, seconds: float) -> Deadlines:
        """Get the deadlines for one of the few call timeouts that the application knows."""
        found = self._deadlines.get(seconds)
        if found is None:
            found = self._deadlines[seconds] = Deadlines(self.loop, seconds)
        return found

    def _make(self) -> Runner:
        return Runner(self.loop)
