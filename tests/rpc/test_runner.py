"""A coroutine that is run at once, and one that asyncio runs as a task, must not be able to tell the difference."""

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from sstream.rpc.runner import Deadlines, Pool, Runner
from sstream.testing import within

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Job:
    """Takes the outcome of a coroutine."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def returned(self, result: Any) -> None:
        self.outcome.set_result(result)

    def raised(self, error: BaseException) -> None:
        self.outcome.set_result(error)


@pytest.fixture
def pool(io_loop: IOLoop) -> Iterator[Pool]:
    async def enter() -> Pool:
        return Pool.enter()

    pool = io_loop.run_sync(enter)
    yield pool
    pool.leave()


async def run(pool: Pool, coroutine: Any) -> Any:
    """Run a coroutine to its end; get its result, or the error that it raised."""
    try:
        result = pool.run(coroutine)
    except (Exception, asyncio.CancelledError) as error:
        return error
    if type(result) is not Runner:
        return result
    result.job = Job()
    return await result.job.outcome


def start(pool: Pool, coroutine: Any) -> tuple[asyncio.Task[None], "asyncio.Future[Any]"]:
    """Run a coroutine that waits; get its task, and its outcome to come."""
    runner = pool.run(coroutine)
    assert type(runner) is Runner
    runner.job = Job()
    return runner.task, runner.job.outcome


async def test_coroutine_that_does_not_wait_returns_at_once(pool):
    async def method() -> int:
        return 5

    assert pool.run(method()) == 5


async def test_coroutine_that_raises_at_once_raises_here(pool):
    async def method() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pool.run(method())


async def test_coroutine_that_waits_gives_its_runner(pool):
    async def method() -> int:
        await asyncio.sleep(0)
        return 5

    _, outcome = start(pool, method())

    assert await outcome == 5


async def test_coroutine_that_waits_and_raises_hands_over_its_error(pool):
    async def method() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert isinstance(await run(pool, method()), ZeroDivisionError)


async def test_current_task_is_one_task_from_beginning_to_end(pool):
    tasks = []

    async def method() -> None:
        for _ in range(3):
            tasks.append(asyncio.current_task())
            await asyncio.sleep(0)

    task, outcome = start(pool, method())
    await outcome

    assert tasks == [task] * 3
    assert isinstance(task, asyncio.Task)


async def test_task_of_a_call_that_waited_is_done_and_not_used_again(pool):
    async def method() -> None:
        await asyncio.sleep(0)

    first, outcome = start(pool, method())
    await outcome
    await asyncio.sleep(0)
    second, outcome = start(pool, method())
    await outcome

    assert first.done()
    assert first is not second


async def test_calls_that_do_not_wait_share_the_spare_task(pool):
    async def method() -> Any:
        return asyncio.current_task()

    assert pool.run(method()) is pool.run(method())


async def test_outer_task_is_current_again_afterwards(pool):
    async def method() -> None:
        assert asyncio.current_task() is not outer

    outer = asyncio.current_task()

    pool.run(method())

    assert asyncio.current_task() is outer


async def test_there_is_no_current_task_in_a_callback_afterwards(pool):
    found = asyncio.get_running_loop().create_future()

    async def method() -> Any:
        return asyncio.current_task()

    def callback() -> None:
        inner = pool.run(method())
        found.set_result((inner, asyncio.current_task()))

    asyncio.get_running_loop().call_soon(callback)

    inner, after = await found
    assert inner is not None
    assert after is None


async def test_a_call_may_run_another_within_its_first_step(pool):
    async def inner() -> Any:
        return asyncio.current_task()

    async def outer() -> tuple[Any, Any]:
        return pool.run(inner()), asyncio.current_task()

    first, second = pool.run(outer())

    assert first is not second


async def test_timeout_inside_of_a_call_works(pool):
    async def method() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "timeout"
        return "none"

    assert await run(pool, method()) == "timeout"


async def test_timeout_of_zero_inside_of_a_call_works(pool):
    async def method() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(1)
        except TimeoutError:
            return "timeout"
        return "none"

    assert await run(pool, method()) == "timeout"


async def test_task_group_inside_of_a_call_works(pool):
    async def child(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def method() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(n)) for n in range(3)]
        return [task.result() for task in tasks]

    assert await run(pool, method()) == [0, 1, 2]


async def test_task_group_with_a_failing_child_cancels_the_call_and_says_why(pool):
    async def fail() -> None:
        raise ZeroDivisionError

    async def method() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.Event().wait()
        except ExceptionGroup as error:
            return "failed" if error.subgroup(ZeroDivisionError) else "odd"
        return "none"

    assert await run(pool, method()) == "failed"


async def test_wait_for_and_gather_inside_of_a_call_work(pool):
    async def method() -> Any:
        first = asyncio.wait_for(asyncio.sleep(0, 1), 1)
        return await asyncio.gather(first, asyncio.sleep(0, 2))

    assert await run(pool, method()) == [1, 2]


async def test_lock_and_queue_inside_of_a_call_work(pool):
    lock, queue = asyncio.Lock(), asyncio.Queue()

    async def method() -> int:
        async with lock:
            return await queue.get()

    outcomes = [start(pool, method())[1] for _ in range(2)]
    queue.put_nowait(1)
    queue.put_nowait(2)

    assert [await outcome for outcome in outcomes] == [1, 2]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancel_reaches_the_call_wherever_it_is(pool, turns):
    seen = []

    async def method() -> None:
        try:
            await asyncio.sleep(0)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task, outcome = start(pool, method())
    for _ in range(turns):
        await asyncio.sleep(0)

    task.cancel()

    assert isinstance(await outcome, asyncio.CancelledError)
    assert seen == ["cancelled"]


@pytest.mark.parametrize("parked", [False, True])
async def test_cancel_before_the_tasks_first_step_cancels_what_the_call_waits_for(pool, parked):
    async def nothing() -> None:
        pass

    if parked:
        pool.run(nothing())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    waiting = asyncio.get_running_loop().create_future()

    async def method() -> None:
        await waiting

    task, outcome = start(pool, method())
    task.cancel("message")

    error = await outcome
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("message",)
    assert waiting.cancelled()


async def test_cancel_after_what_the_call_waits_for_is_done_still_cancels(pool):
    waiting = asyncio.get_running_loop().create_future()

    async def method() -> None:
        await waiting

    task, outcome = start(pool, method())
    waiting.set_result(None)
    task.cancel()

    assert isinstance(await outcome, asyncio.CancelledError)


async def test_call_that_cancels_itself_meets_it_at_its_next_await(pool):
    async def method() -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    assert isinstance(await run(pool, method()), asyncio.CancelledError)


async def test_call_that_cancels_itself_and_never_awaits_harms_nobody_else(pool):
    async def reckless() -> str:
        asyncio.current_task().cancel()
        return "done"

    async def method() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "done too"

    assert pool.run(reckless()) == "done"
    assert await run(pool, method()) == "done too"


async def test_call_may_swallow_its_cancellation(pool):
    async def method() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
        await asyncio.sleep(0)
        return "still here"

    task, outcome = start(pool, method())
    task.cancel()

    assert await outcome == "still here"


async def test_context_of_a_call_is_its_own(pool):
    async def method(value: str) -> str:
        variable.set(value)
        await asyncio.sleep(0)
        return variable.get()

    async def method_at_once(value: str) -> str:
        before = variable.get()
        variable.set(value)
        return before

    outcomes = [start(pool, method(str(n)))[1] for n in range(3)]

    assert [await outcome for outcome in outcomes] == ["0", "1", "2"]
    assert pool.run(method_at_once("x")) == "unset"
    assert pool.run(method_at_once("y")) == "unset"
    assert variable.get() == "unset"


async def test_call_sees_the_context_it_was_started_in(pool):
    async def method() -> str:
        await asyncio.sleep(0)
        return variable.get()

    token = variable.set("caller's")
    _, outcome = start(pool, method())
    variable.reset(token)

    assert await outcome == "caller's"


async def test_bare_yield_is_a_turn_of_the_loop(pool):
    turns = []

    async def method() -> None:
        for n in range(3):
            turns.append(n)
            await asyncio.sleep(0)

    _, outcome = start(pool, method())
    assert turns == [0]

    await outcome
    assert turns == [0, 1, 2]


async def test_two_calls_that_wait_take_two_tasks(pool):
    gate = asyncio.Event()

    async def method() -> Any:
        await gate.wait()
        return asyncio.current_task()

    outcomes = [start(pool, method())[1] for _ in range(2)]
    gate.set()

    assert len({await outcome for outcome in outcomes}) == 2


async def test_interrupt_passes_through(pool):
    async def method() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.run(method())
    assert await run(pool, asyncio.sleep(0, "next")) == "next"


async def test_last_one_out_ends_the_spare_task():
    async def nothing() -> Any:
        return asyncio.current_task()

    pool = Pool.enter()
    task = pool.run(nothing())

    pool.leave()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_spare_task_that_somebody_cancels_is_not_used_again(pool):
    async def nothing() -> Any:
        return asyncio.current_task()

    task = pool.run(nothing())
    task.cancel()
    await asyncio.wait([task])

    assert await within(run(pool, asyncio.sleep(0, "next")), "the call was never gone on with") == "next"


async def test_task_that_is_left_by_its_loop_makes_no_noise(pool, log_watch):
    # The fixtures look for log lines and for tasks; here there is a loop that ends without a word.
    def run_elsewhere() -> None:
        loop = asyncio.new_event_loop()

        async def nothing() -> None:
            pass

        async def main() -> None:
            Pool.enter().run(nothing())
            await asyncio.sleep(0)

        loop.run_until_complete(main())
        loop.close()

    await asyncio.to_thread(run_elsewhere)


# What is left behind


RESULT = object()


async def give() -> object:
    return RESULT


async def fail() -> None:
    raise ZeroDivisionError


async def wait_and_give() -> object:
    await asyncio.sleep(0)
    return RESULT


async def wait_and_fail() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError


async def cancel_and_give() -> object:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    return RESULT


async def interrupt() -> None:
    raise KeyboardInterrupt


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def call_another(pool: Pool) -> object:
    return pool.run(give())


@pytest.mark.parametrize(
    "method", [give, fail, wait_and_give, wait_and_fail, cancel_and_give, interrupt, wait_for_ever, call_another]
)
async def test_no_way_out_of_a_call_leaves_anything_behind(pool, method):
    watched = (RESULT, pool.loop, pool._running, pool, ZeroDivisionError)

    async def make_calls(many: int) -> None:
        for _ in range(many):
            coroutine = method(pool) if method is call_another else method()
            try:
                runner = pool.run(coroutine)
            except (ZeroDivisionError, KeyboardInterrupt):
                continue
            if type(runner) is Runner:
                runner.job = Job()
                if method is wait_for_ever:
                    runner.task.cancel()
                await runner.job.outcome
        await asyncio.sleep(0)  # what was cancelled in its first step ends

    def count() -> tuple[int, list[int]]:
        gc.collect()
        return sys.getallocatedblocks() + len(gc.get_objects()), [sys.getrefcount(item) for item in watched]

    await make_calls(300)  # what the interpreter makes room for, it has by then
    blocks, references = count()
    await make_calls(300)
    more_blocks, more_references = count()

    assert more_blocks - blocks < 100
    assert all(more - before < 100 for more, before in zip(more_references, references, strict=True))


async def test_a_pool_that_is_left_goes():
    def count_pools() -> int:
        gc.collect()
        return sum(type(item) is Pool for item in gc.get_objects())

    before = count_pools()
    tasks = []

    for _ in range(3):
        pool = Pool.enter()
        pool.run(give())
        spare = pool._spare
        assert spare is not None
        tasks.append(weakref.ref(spare.task))
        pool.leave()
        await asyncio.wait([spare.task])
        del pool, spare

    assert count_pools() == before
    assert [task() for task in tasks] == [None] * 3


# Deadlines


class Item:
    """Something with an end."""

    def __init__(self) -> None:
        self.expired = asyncio.Event()

    def expire(self) -> None:
        self.expired.set()


async def test_item_expires_after_its_seconds():
    loop = asyncio.get_running_loop()
    deadlines, item = Deadlines(loop, 0.02), Item()
    start = loop.time()

    deadlines.add(item)
    await item.expired.wait()

    assert loop.time() - start >= 0.019


async def test_item_that_was_discarded_does_not_expire():
    deadlines, gone, kept = Deadlines(asyncio.get_running_loop(), 0.005), Item(), Item()
    deadlines.add(gone)
    deadlines.add(kept)

    deadlines.discard(gone)
    await kept.expired.wait()

    assert not gone.expired.is_set()


async def test_later_item_expires_later():
    loop = asyncio.get_running_loop()
    deadlines, first, second = Deadlines(loop, 0.05), Item(), Item()
    deadlines.add(first)
    await asyncio.sleep(0.025)
    start = loop.time()
    deadlines.add(second)

    await second.expired.wait()

    assert first.expired.is_set()
    assert loop.time() - start >= 0.049


async def test_item_may_be_added_after_all_have_expired():
    deadlines, first, second = Deadlines(asyncio.get_running_loop(), 0.002), Item(), Item()
    deadlines.add(first)
    await first.expired.wait()

    deadlines.add(second)

    await second.expired.wait()


async def test_cleared_deadlines_leave_no_timer():
    deadlines, item, marker = Deadlines(asyncio.get_running_loop(), 0.002), Item(), asyncio.Event()
    deadlines.add(item)

    deadlines.clear()
    asyncio.get_running_loop().call_later(0.01, marker.set)
    await marker.wait()

    assert not item.expired.is_set()
