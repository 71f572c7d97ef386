"""The rooms and the direct words, and what the panel Wire calls, over real sockets."""

import pytest

from sstream.errors import FORBIDDEN, INVALID_PARAMS

from .visitor import Line, Refused, Visitor


async def user(port: int, name: str) -> Line:
    visitor = Visitor(port)
    await visitor.post("/login", name=name, password="oolong")
    return await visitor.line()


@pytest.fixture
async def ada(port):
    async with await user(port, "ada") as line:
        yield line


@pytest.fixture
async def grace(port):
    async with await user(port, "grace") as line:
        yield line


async def test_what_is_said_in_a_room_everybody_there_hears(visitor, ada):
    async with await visitor.line() as listener:
        await listener.call("sstream.subscribe", "kitchen")
        await ada.call("chat.say", "kitchen", "The kettle sings.")
        name, text, at = await listener.event("said")

    assert (name, text) == ("ada", "The kettle sings.")
    assert at > 0


async def test_who_comes_later_gets_the_history_by_a_position(visitor, ada):
    for text in ("one", "two", "three"):
        await ada.call("chat.say", "veranda", text)

    async with await visitor.line() as late:
        now = await late.call("sstream.subscribe", "veranda")
        await late.call("sstream.subscribe", "veranda", {"offset": now["offset"] - 3, "epoch": now["epoch"]})
        heard = [(await late.event("said"))[1] for _ in range(3)]

    assert heard == ["one", "two", "three"]


async def test_a_room_knows_who_is_there(visitor, ada, grace):
    for line in (ada, grace):
        await line.call("sstream.subscribe", "veranda")

    async with await visitor.line() as listener:
        await listener.call("sstream.subscribe", "veranda")
        present = await listener.call("sstream.presence", "veranda")

    assert [each["user"] for each in present] == ["ada", "grace"]


async def test_typing_is_told_and_not_kept(visitor, ada):
    async with await visitor.line() as listener:
        position = await listener.call("sstream.subscribe", "veranda.typing")
        await ada.call("chat.typing", "veranda")

        assert await listener.event("typing") == ["ada"]
        assert position == {}


async def test_a_direct_word_reaches_that_user_and_nobody_else(visitor, ada, grace):
    async with await visitor.line() as listener:
        await grace.call("chat.whisper", "ada", "The window seat, please.")
        heard = [await line.event("whispered") for line in (ada, grace)]
        await grace.call("chat.say", "veranda", "a marker")
        await listener.call("wire.echo", None)

        assert not [event for event in listener.events if event[1] == "whispered"]
    assert [words[:3] for words in heard] == [["grace", "ada", "The window seat, please."]] * 2


@pytest.mark.parametrize(
    ("method", "params"), [("say", ["veranda", "hi"]), ("typing", ["veranda"]), ("whisper", ["ada", "hi"])]
)
async def test_who_is_not_logged_in_may_listen_and_not_talk(visitor, method, params):
    async with await visitor.line() as line:
        with pytest.raises(Refused) as refused:
            await line.call(f"chat.{method}", *params)

    assert refused.value.code == FORBIDDEN


async def test_there_are_two_rooms_and_no_more(ada):
    with pytest.raises(Refused) as said:
        await ada.call("chat.say", "cellar", "hi")
    with pytest.raises(Refused) as subscribed:
        await ada.call("sstream.subscribe", "cellar")
    with pytest.raises(Refused) as published:
        await ada.call("sstream.publish", "veranda", "said", "grace", "I never said so.", 0)

    assert said.value.code == INVALID_PARAMS
    assert subscribed.value.code == published.value.code == FORBIDDEN


async def test_the_wire_tells_its_server_and_echoes_a_thousand_times(visitor):
    async with await visitor.line() as line:
        name = await line.call("wire.server")
        echoes = [await line.call("wire.echo", number) for number in range(1000)]

    assert name == "A"
    assert echoes == list(range(1000))
