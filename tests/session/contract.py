"""What every session store must do; a new one joins by one subclass with the fixture ``new_store``."""

import asyncio

import pytest

from sstream import StoreError
from sstream.testing import eventually
from tests.lasting import Lasting

KEY = "sess:AbC-dEf_0123"
MARKER = "sess:marker"


async def listen(store) -> list:
    """What a store reports from now on; the store is ready to hear of everything."""
    heard: list = []
    await store.get(MARKER)
    await eventually(lambda: store.coherent, "the store is not coherent")
    store.watch(heard.append)
    return heard


async def heard_before_marker(heard, store, other) -> list:
    """What was reported until now: the marker is changed after it, so all that came before stands before it."""
    _, stored = await store.swap(MARKER, None, b"0", 60)
    if stored != b"0":
        await store.swap(MARKER, stored, b"0", 60)
    await other.swap(MARKER, b"0", b"1", 60)
    await eventually(lambda: MARKER in heard, "the marker was not reported")
    return heard[: heard.index(MARKER)]


class StoreContract:
    """Needs two fixtures that are coroutine functions: ``new_store()`` gives stores on one and the same data and closes
    them in the end; ``pass_time(seconds)`` lets time pass for them."""

    # --- get and swap -------------------------------------------------------------------------------------------------

    async def test_an_unknown_key_has_no_text(self, new_store):
        store = await new_store()

        assert await store.get(KEY) is None

    async def test_what_was_swapped_in_is_there_for_everybody(self, new_store):
        store, other = await new_store(), await new_store()

        assert await store.swap(KEY, None, b"text", 60) == (True, b"text")

        assert await store.get(KEY) == b"text"
        assert await other.get(KEY) == b"text"

    async def test_a_swap_is_made_where_the_expected_text_stands(self, new_store):
        store = await new_store()
        await store.swap(KEY, None, b"one", 60)

        assert await store.swap(KEY, b"one", b"two", 60) == (True, b"two")
        assert await store.get(KEY) == b"two"

    @pytest.mark.parametrize("expected", [None, b"", b"on", b"one ", b"two"])
    async def test_a_swap_is_not_made_where_another_text_stands(self, new_store, expected):
        store = await new_store()
        await store.swap(KEY, None, b"one", 60)

        assert await store.swap(KEY, expected, b"two", 60) == (False, b"one")
        assert await store.swap(KEY, expected, None, 60) == (False, b"one")
        assert await store.get(KEY) == b"one"

    @pytest.mark.parametrize("expected", [b"", b"one"])
    async def test_a_swap_is_not_made_where_the_text_is_gone(self, new_store, expected):
        store = await new_store()

        assert await store.swap(KEY, expected, b"two", 60) == (False, None)
        assert await store.swap(KEY, expected, None, 60) == (False, None)
        assert await store.get(KEY) is None

    async def test_swapping_for_nothing_removes(self, new_store):
        store = await new_store()
        await store.swap(KEY, None, b"one", 60)

        assert await store.swap(KEY, b"one", None, 60) == (True, None)
        assert await store.get(KEY) is None

    async def test_nothing_can_be_swapped_for_nothing(self, new_store):
        store = await new_store()

        assert await store.swap(KEY, None, None, 60) == (True, None)
        assert await store.get(KEY) is None

    @pytest.mark.parametrize("ttl", [0, -5])
    async def test_a_swap_without_time_to_live_removes(self, new_store, ttl):
        store = await new_store()
        await store.swap(KEY, None, b"one", 60)

        assert await store.swap(KEY, b"one", b"two", ttl) == (True, None)
        assert await store.swap(KEY, None, b"three", ttl) == (True, None)
        assert await store.get(KEY) is None

    @pytest.mark.parametrize(
        "text",
        [b"", b"\x00", b"\r\n$5\r\n", bytes(range(256)), b"0", b"1", b"nil", "ä€😀".encode(), b"a" * 65536],
        ids=lambda text: repr(text[:12]),
    )
    async def test_a_text_may_be_any_bytes(self, new_store, text):
        store = await new_store()

        assert await store.swap(KEY, None, text, 60) == (True, text)
        assert await store.get(KEY) == text
        assert await store.swap(KEY, None, b"other", 60) == (False, text)
        assert await store.swap(KEY, text, b"other", 60) == (True, b"other")

    @pytest.mark.parametrize(
        "key", ["sess:*", "sess:a b", "sess:\r\nDEL x", "sess:ä€😀", "\x00", "x" * 5000], ids=lambda key: repr(key[:20])
    )
    async def test_a_key_may_be_any_text(self, new_store, key):
        store, other = await new_store(), await new_store()
        heard = await listen(store)

        await store.swap(KEY, None, b"mine", 60)
        await store.swap(key, None, b"text", 60)
        assert await other.get(key) == b"text"
        await other.delete(key)
        await eventually(lambda: key in heard, "the change was not reported")

        assert await store.get(key) is None
        assert await store.get(KEY) == b"mine"

    async def test_a_key_that_is_no_text_hurts_its_own_call_alone(self, new_store):
        store = await new_store()
        a_minute = Lasting(60)
        await store.swap(KEY, None, b"text", 60)

        results = await asyncio.gather(
            store.get(KEY), store.get("sess:\ud800"), store.ttl(KEY), store.get(KEY), return_exceptions=True
        )

        assert [results[0], results[2], results[3]] == [b"text", a_minute, b"text"]
        assert results[1] is None or isinstance(results[1], StoreError)

    async def test_of_many_swaps_from_one_text_exactly_one_is_made(self, new_store):
        stores = [await new_store(), await new_store()]
        await stores[0].swap(KEY, None, b"0", 60)
        texts = [b"%d" % number for number in range(1, 41)]

        results = await asyncio.gather(
            *(stores[number % 2].swap(KEY, b"0", text, 60) for number, text in enumerate(texts))
        )

        made = [text for text, (was_made, _) in zip(texts, results, strict=True) if was_made]
        assert len(made) == 1
        assert [stored for _, stored in results] == made * 40
        assert await stores[1].get(KEY) == made[0]

    async def test_a_counter_by_compare_and_set_loses_nothing(self, new_store):
        stores = [await new_store(), await new_store()]
        await stores[0].swap(KEY, None, b"0", 60)

        async def count(store):
            for _ in range(10):
                stored = await store.get(KEY)
                made = False
                while not made:
                    made, stored = await store.swap(KEY, stored, b"%d" % (int(stored) + 1) if not made else stored, 60)

        await asyncio.gather(*(count(stores[number % 2]) for number in range(10)))

        assert await stores[0].get(KEY) == b"100"

    async def test_every_operation_gets_its_own_answer(self, new_store):
        store = await new_store()
        keys = [f"sess:{number}" for number in range(300)]
        await asyncio.gather(*(store.swap(key, None, key.encode(), 60) for key in keys))

        texts = await asyncio.gather(*(store.get(key) for key in keys))

        assert texts == [key.encode() for key in keys]

    async def test_a_cancelled_operation_shifts_no_answer(self, new_store):
        store = await new_store()
        keys = [f"sess:{number}" for number in range(100)]
        await asyncio.gather(*(store.swap(key, None, key.encode(), 60) for key in keys))

        tasks = [asyncio.ensure_future(store.get(key)) for key in keys]
        for number in range(0, 100, 3):
            tasks[number].cancel()  # before it was sent
        await asyncio.sleep(0)
        for number in range(1, 100, 3):
            tasks[number].cancel()  # after it was sent
        results = await asyncio.gather(*tasks, return_exceptions=True)
        after = await asyncio.gather(*(store.get(key) for key in keys))

        for key, result in zip(keys, results, strict=True):
            assert result == key.encode() or isinstance(result, asyncio.CancelledError)
        assert after == [key.encode() for key in keys]

    # --- delete -------------------------------------------------------------------------------------------------------

    async def test_delete_tells_whether_anything_was_there(self, new_store):
        store, other = await new_store(), await new_store()
        await store.swap(KEY, None, b"text", 60)

        assert await other.delete(KEY) is True
        assert await other.delete(KEY) is False
        assert await store.get(KEY) is None

    # --- lifetimes ----------------------------------------------------------------------------------------------------

    async def test_a_swap_gives_a_lifetime(self, new_store):
        store = await new_store()
        a_minute, a_month = Lasting(60), Lasting(30 * 86400)

        await store.swap(KEY, None, b"one", 60)
        assert await store.ttl(KEY) == a_minute

        await store.swap(KEY, b"one", b"two", 30 * 86400)
        assert await store.ttl(KEY) == a_month

    async def test_a_swap_that_is_not_made_leaves_the_lifetime(self, new_store):
        store = await new_store()
        a_minute = Lasting(60)
        await store.swap(KEY, None, b"one", 60)

        await store.swap(KEY, b"other", b"two", 6000)

        assert await store.ttl(KEY) == a_minute

    async def test_an_unknown_key_has_no_lifetime(self, new_store):
        store = await new_store()

        assert await store.ttl(KEY) is None

    async def test_touch_gives_another_lifetime_and_leaves_the_text(self, new_store):
        store = await new_store()
        await store.swap(KEY, None, b"text", 60)
        long, short = Lasting(6000), Lasting(600)

        await store.touch(KEY, 6000)
        longer = await store.ttl(KEY)
        await store.touch(KEY, 600)

        assert (longer, await store.ttl(KEY), await store.get(KEY)) == (long, short, b"text")

    async def test_touching_an_unknown_key_does_nothing(self, new_store):
        store = await new_store()

        await store.touch(KEY, 60)

        assert await store.get(KEY) is None

    async def test_touching_with_no_time_left_removes(self, new_store):
        store = await new_store()
        await store.swap(KEY, None, b"text", 60)

        await store.touch(KEY, 0)

        assert await store.get(KEY) is None

    async def test_a_text_is_gone_when_its_time_has_come(self, new_store, pass_time):
        store, other = await new_store(), await new_store()
        await store.swap(KEY, None, b"short", 1)
        await store.swap(MARKER, None, b"long", 60)

        await pass_time(1.1)

        assert await store.get(KEY) is None
        assert await store.ttl(KEY) is None
        assert await store.delete(KEY) is False
        assert await store.swap(KEY, b"short", b"new", 60) == (False, None)
        assert await other.swap(KEY, None, b"new", 60) == (True, b"new")
        assert await store.get(MARKER) == b"long"

    # --- watching -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("change", ["swap", "remove", "delete", "touch to death"])
    async def test_a_change_by_others_to_what_was_read_is_reported(self, new_store, change):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await other.swap(KEY, None, b"one", 60)
        await store.get(KEY)
        await heard_before_marker(heard, store, other)  # a report of what was there before may be late
        heard.clear()

        match change:
            case "swap":
                await other.swap(KEY, b"one", b"two", 60)
            case "remove":
                await other.swap(KEY, b"one", None, 60)
            case "delete":
                await other.delete(KEY)
            case _:
                await other.touch(KEY, 0)

        await eventually(lambda: heard == [KEY], "the change was not reported")

    async def test_the_making_of_what_was_sought_in_vain_is_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        assert await store.get(KEY) is None
        heard.clear()

        await other.swap(KEY, None, b"one", 60)

        await eventually(lambda: KEY in heard, "the change was not reported")

    async def test_a_change_after_an_own_swap_is_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await store.swap(KEY, None, b"one", 60)
        await store.swap(KEY, b"one", b"two", 60)

        await other.swap(KEY, b"two", b"three", 60)

        await eventually(lambda: KEY in heard, "the change was not reported")

    async def test_a_change_after_a_swap_that_was_not_made_is_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await other.swap(KEY, None, b"one", 60)
        await store.swap(KEY, b"zero", b"mine", 60)

        await other.swap(KEY, b"one", b"two", 60)

        await eventually(lambda: KEY in heard, "the change was not reported")

    async def test_a_change_after_an_own_touch_is_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await store.swap(KEY, None, b"one", 60)
        await store.touch(KEY, 120)

        await other.swap(KEY, b"one", b"two", 60)

        await eventually(lambda: KEY in heard, "the change was not reported")

    async def test_a_change_after_a_look_at_the_lifetime_is_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await store.swap(KEY, None, b"one", 60)
        await store.ttl(KEY)

        await other.delete(KEY)

        await eventually(lambda: KEY in heard, "the change was not reported")

    async def test_what_is_reported_was_not_read_since(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await store.get(KEY)
        await store.get(KEY)
        heard.clear()
        await other.swap(KEY, None, b"one", 60)
        await eventually(lambda: KEY in heard, "the change was not reported")

        # The report is the sign to read again; whoever reads then has the newest.
        assert await store.get(KEY) == b"one"

    async def test_every_change_is_reported_that_follows_a_read(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        text = None
        for number in range(20):
            assert await store.get(KEY) == text
            heard.clear()
            _, text = await other.swap(KEY, text, b"%d" % number, 60)
            await eventually(lambda: KEY in heard, f"change {number} was not reported")

    async def test_own_changes_are_not_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)

        await store.swap(KEY, None, b"one", 60)
        await store.get(KEY)
        await store.swap(KEY, b"one", b"two", 60)
        await store.touch(KEY, 90)
        await store.swap(KEY, b"two", None, 60)
        await store.swap(KEY, None, b"three", 60)
        await store.get(KEY)
        await store.delete(KEY)

        assert await heard_before_marker(heard, store, other) == []

    async def test_reading_by_others_is_not_reported(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        await store.swap(KEY, None, b"one", 60)

        await other.get(KEY)
        await other.ttl(KEY)
        await other.swap(KEY, b"wrong", b"two", 60)

        assert await heard_before_marker(heard, store, other) == []

    async def test_an_end_by_time_is_reported_by_itself(self, new_store, pass_time):
        store, other = await new_store(), await new_store()
        heard, heard_by_other = await listen(store), await listen(other)
        await store.swap(KEY, None, b"short", 1)
        await other.get(KEY)
        heard_by_other.clear()

        await pass_time(1.0)

        await eventually(lambda: KEY in heard and KEY in heard_by_other, "the end was not reported")

    async def test_all_listeners_hear(self, new_store):
        store, other = await new_store(), await new_store()
        heard, heard_too = await listen(store), await listen(store)
        await store.get(KEY)

        await other.swap(KEY, None, b"one", 60)

        await eventually(lambda: KEY in heard and KEY in heard_too, "the change was not reported")

    # --- life ---------------------------------------------------------------------------------------------------------

    async def test_it_is_coherent_once_it_was_started(self, new_store):
        store = await new_store()

        await store.start()
        await store.start()

        await eventually(lambda: store.coherent, "the store is not coherent")

    async def test_closing_twice_is_safe_and_leaves_the_others_alone(self, new_store):
        store, other = await new_store(), await new_store()
        heard = await listen(store)
        heard_by_other = await listen(other)
        await store.swap(KEY, None, b"one", 60)
        await other.get(KEY)
        heard.clear()

        await store.close()
        await store.close()

        late = await new_store()
        await late.swap(KEY, b"one", b"two", 60)
        await eventually(lambda: KEY in heard_by_other, "the change was not reported")
        assert await other.get(KEY) == b"two"
        assert KEY not in heard

    async def test_closing_before_the_first_use_is_safe(self, new_store):
        store = await new_store()

        await store.close()
        await store.close()
