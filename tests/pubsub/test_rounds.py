import asyncio

import pytest

from sstream.errors import BrokerError
from sstream.pubsub.rounds import Rounds


class Gate:
    """Somebody slow: each round waits until it is let through."""

    def __init__(self):
        self.told = []
        self.waiting = asyncio.Queue()

    async def tell(self, keys):
        self.told.append(list(keys))
        passed = asyncio.get_running_loop().create_future()
        await self.waiting.put(passed)
        await passed

    async def let_through(self, error=None):
        passed = await self.waiting.get()
        if error is None:
            passed.set_result(None)
        else:
            passed.set_exception(error)


async def test_changes_of_one_turn_are_one_round():
    gate = Gate()
    rounds = Rounds(gate.tell)

    done = [rounds.add(key) for key in "abca"]
    await gate.let_through()
    await asyncio.gather(*map(asyncio.shield, done))

    assert gate.told == [["a", "b", "c"]]
    assert not rounds.is_busy


async def test_change_during_a_round_waits_for_the_next():
    gate = Gate()
    rounds = Rounds(gate.tell)
    first = rounds.add("a")
    while not gate.told:
        await asyncio.sleep(0)

    second = rounds.add("a")
    await gate.let_through()
    await first
    began = not second.done()
    await gate.let_through()
    await second

    assert began
    assert gate.told == [["a"], ["a"]]


async def test_error_is_for_those_of_that_round_alone():
    gate = Gate()
    rounds = Rounds(gate.tell)
    first = rounds.add("a")
    await gate.let_through(BrokerError("no"))
    with pytest.raises(BrokerError, match="no"):
        await first

    second = rounds.add("b")
    await gate.let_through()
    await second


async def test_error_that_nobody_waits_for_is_no_complaint():
    gate = Gate()
    rounds = Rounds(gate.tell)
    rounds.add("a")
    await gate.let_through(BrokerError("no"))

    await rounds.finish()


async def test_unexpected_error_is_logged_and_passed_on(expect_log):
    expect_log("the broker failed")
    gate = Gate()
    rounds = Rounds(gate.tell)
    done = rounds.add("a")
    await gate.let_through(ZeroDivisionError("oops"))

    with pytest.raises(ZeroDivisionError):
        await done


async def test_closing_ends_those_who_wait():
    gate = Gate()
    rounds = Rounds(gate.tell)
    running = rounds.add("a")
    while not gate.told:
        await asyncio.sleep(0)
    collecting = rounds.add("b")

    await rounds.close()
    await rounds.close()

    for done in (running, collecting):
        with pytest.raises(BrokerError, match="closed"):
            await done
    assert gate.told == [["a"]]


async def test_finish_waits_until_all_is_told():
    gate = Gate()
    rounds = Rounds(gate.tell)
    rounds.add("a")
    finishing = asyncio.ensure_future(rounds.finish())
    await gate.let_through()
    await finishing

    assert gate.told == [["a"]]
    await rounds.finish()
