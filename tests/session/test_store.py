"""The store in memory."""

import asyncio
import gc
import weakref

import pytest

from sstream.errors import ConfigurationError
from sstream.session.store import MemoryStore, SessionStore
from sstream.testing import Clock, eventually

from .contract import KEY, StoreContract, listen


@pytest.fixture
def clock():
    return Clock(1_700_000_000.25)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def pass_time(self, clock):
        async def pass_time(seconds: float) -> None:
            clock.turn(seconds)

        return pass_time

    @pytest.fixture
    async def new_store(self, clock):
        first = MemoryStore(clock=clock)
        stores = [first]

        async def new_store() -> MemoryStore:
            stores.append(first.share())
            return stores[-1]

        yield new_store
        for store in stores:
            await store.close()

    # --- expiry -------------------------------------------------------------------------------------------------------

    async def test_expired_texts_leave_the_memory_by_themselves(self, clock):
        store = MemoryStore(clock=clock)
        for number in range(10):
            await store.swap(f"sess:{number}", None, b"text", 1)
        await store.swap(KEY, None, b"long", 60)

        clock.turn(1)

        await eventually(lambda: list(store._texts) == [KEY], "the texts are still there")
        await store.close()

    async def test_expire_may_be_called_by_hand(self, clock):
        store = MemoryStore(clock=clock)
        heard = await listen(store)
        await store.swap(KEY, None, b"text", 60)

        clock.turn(59.9)
        store.expire()
        before = list(heard)
        clock.turn(0.1)
        store.expire()

        assert (before, heard) == ([], [KEY])
        await store.close()

    async def test_a_touched_text_lives_on(self, clock):
        store = MemoryStore(clock=clock)
        await store.swap(KEY, None, b"text", 60)
        clock.turn(50)
        await store.touch(KEY, 60)

        clock.turn(50)
        store.expire()

        assert await store.get(KEY) == b"text"
        assert await store.ttl(KEY) == 10
        await store.close()

    async def test_a_lifetime_is_rounded_up(self, clock):
        store = MemoryStore(clock=clock)
        await store.swap(KEY, None, b"text", 60)

        clock.turn(58.99)
        assert await store.ttl(KEY) == 2
        clock.turn(1.0)
        assert await store.ttl(KEY) == 1
        await store.close()

    async def test_texts_expire_by_themselves_after_the_store_that_wrote_them_was_closed(self, clock):
        store = MemoryStore(clock=clock)
        other = store.share()
        heard = await listen(other)
        await store.swap(KEY, None, b"text", 1)
        heard.clear()
        await store.close()

        clock.turn(1)

        await eventually(lambda: heard == [KEY], "the end was not reported")
        await other.close()

    # --- bounds -------------------------------------------------------------------------------------------------------

    async def test_it_is_bounded_and_the_text_nearest_to_its_end_makes_room(self, clock, expect_log):
        full = expect_log("MemoryStore is full", logger="sstream.session", count=2)
        store = MemoryStore(max_texts=3, clock=clock)
        heard = await listen(store)
        for key, ttl in (("a", 300), ("b", 100), ("c", 200)):
            await store.swap(key, None, b"text", ttl)

        await store.swap("d", None, b"text", 400)
        await store.swap("e", None, b"text", 50)

        assert [key for key in "abcde" if await store.get(key)] == ["a", "d", "e"]
        assert heard == ["b", "c"]
        assert "text" not in full.records[0].getMessage().replace("(3 texts)", "")
        await store.close()

    async def test_the_newest_text_is_stored_although_it_ends_first(self, clock, expect_log):
        expect_log("MemoryStore is full", logger="sstream.session")
        store = MemoryStore(max_texts=2, clock=clock)
        await store.swap("a", None, b"text", 300)
        await store.swap("b", None, b"text", 200)
        await store.swap("c", None, b"text", 10)
        assert [key for key in "abc" if await store.get(key)] == ["a", "c"]

        clock.turn(10)
        store.expire()

        assert list(store._texts) == ["a"]
        await store.close()

    async def test_changing_a_text_of_a_full_store_removes_nothing(self, clock):
        store = MemoryStore(max_texts=2, clock=clock)
        await store.swap("a", None, b"1", 300)
        await store.swap("b", None, b"1", 200)

        await store.swap("b", b"1", b"2", 100)
        await store.touch("b", 90)

        assert (await store.get("a"), await store.get("b")) == (b"1", b"2")
        await store.close()

    async def test_touching_for_ever_takes_no_memory(self, clock):
        store = MemoryStore(clock=clock)
        await store.swap(KEY, None, b"text", 60)

        for _ in range(10_000):
            clock.turn(0.001)
            await store.touch(KEY, 60)

        assert len(store._ends) < 200
        assert await store.get(KEY) == b"text"
        await store.close()

    async def test_removed_texts_leave_no_trace(self, clock):
        store = MemoryStore(clock=clock)

        for number in range(10_000):
            await store.swap(f"sess:{number}", None, b"text", 86400)
            await store.delete(f"sess:{number}")

        assert len(store._texts) == 0
        assert len(store._ends) < 200
        await store.close()

    def test_it_must_hold_something(self):
        with pytest.raises(ConfigurationError, match="at least 1"):
            MemoryStore(max_texts=0)

    # --- life ---------------------------------------------------------------------------------------------------------

    async def test_two_stores_that_are_not_shared_know_nothing_of_each_other(self):
        store, other = MemoryStore(), MemoryStore()
        heard = await listen(other)

        await store.swap(KEY, None, b"text", 60)

        assert await other.get(KEY) is None
        assert heard == []
        await store.close()
        await other.close()

    async def test_a_closed_store_is_forgotten_by_those_it_was_shared_with(self):
        store = MemoryStore()
        other = store.share()
        await other.swap(KEY, None, b"text", 60)

        await other.close()
        forgotten = weakref.ref(other)
        del other
        gc.collect()

        assert forgotten() is None
        await store.close()

    async def test_it_uses_the_real_time_by_default(self):
        store = MemoryStore()
        await store.swap(KEY, None, b"text", 1)
        assert await store.get(KEY) == b"text"

        await asyncio.sleep(1.0)

        assert await store.get(KEY) is None
        await store.close()

    def test_it_is_a_session_store(self):
        assert isinstance(MemoryStore(), SessionStore)
