"""Events to sockets, and subscriptions."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tornado.web import RequestHandler

from sstream import Limits, MemoryBroker, RPCError, SessionMixin, load_session, rpc
from sstream.errors import UNAVAILABLE
from sstream.pubsub import Burst, ChannelOptions, Message
from sstream.pubsub.message import encode_event
from sstream.testing import BrokerProbe, StoreProbe, eventually

from .live import Live, ServeLive, heard, nothing_else, refused, stored, three


class Talking(Live):
    """Publishes for its callers, and subscribes them."""

    @rpc
    async def join(self, *channels: str) -> None:
        await self.subscribe(*channels)

    @rpc
    async def leave(self, *channels: str) -> None:
        await self.unsubscribe(*channels)

    @rpc(use=[load_session])
    async def join_all(self, *channels: str) -> list[str]:
        await self.session.channels.subscribe(*channels)
        return self.session.channels.list()

    @rpc(use=[load_session])
    async def leave_all(self, *channels: str) -> list[str]:
        await self.session.channels.unsubscribe(*channels)
        return self.session.channels.list()

    @rpc
    async def say(self, target: str, whom: Any, event: str) -> None:
        match target:
            case "all":
                await self.publish.all(event, "args", 1)
            case "user":
                await self.publish.user(whom, event)
            case "channel":
                await self.publish.channel(whom, event)
            case "socket":
                await self.publish.socket(whom, event)


async def test_events_reach_those_they_are_for_and_nobody_else(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    first, second, anna = await three(site)
    anonymous = await site.browser().connect()
    everybody = (first, second, anna, anonymous)
    await first.call("join", "lobby", "tea")
    await anonymous.call("join", "lobby")

    await first.call("say", "all", None, "to all")
    to_all = await heard(site, *everybody)
    await anonymous.call("say", "user", "fred", "to fred")
    to_fred = await heard(site, *everybody)
    await anonymous.call("say", "user", ["fred", "anna"], "to both")
    to_both = await heard(site, *everybody)
    await anna.call("say", "channel", "lobby", "to the lobby")
    to_lobby = await heard(site, *everybody)
    await anna.call("say", "socket", await second.call("me"), "to one")
    to_one = await heard(site, *everybody)

    assert to_all == [["to all"]] * 4
    assert to_fred == [["to fred"], ["to fred"], [], []]
    assert to_both == [["to both"], ["to both"], ["to both"], []]
    assert to_lobby == [["to the lobby"], [], [], ["to the lobby"]]
    assert to_one == [[], ["to one"], [], []]


async def test_events_carry_their_arguments_and_the_channels_name(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    await socket.call("join", "lobby")

    await site.app.publish.all("news", {"tea": 1}, [1, 2.5, "ä", None, b"bytes"])
    await site.app.publish.channel("lobby", "said", "hello")

    assert await socket.receive_event("news") == ["news", [{"tea": 1}, [1, 2.5, "ä", None, b"bytes"]]]
    assert await socket.receive_event("said") == ["said", ["hello"], {"channel": "lobby"}]


class Overriding(Live):
    """A subclass that looks at each event."""

    def deliver(self, message: Message) -> None:
        self.looked_at = [*getattr(self, "looked_at", ()), message]
        super().deliver(message)


async def test_events_in_one_piece_reach_every_kind_of_socket_one_by_one(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, Live, ("/looking", Overriding))
    sockets = [
        await site.browser().connect(),
        await site.browser().connect(subprotocol="sstream.v1.json"),
        await site.browser().connect("/looking"),
    ]
    messages = [Message(encode_event("news", (number, "tea" * number))) for number in range(16)]

    burst = Burst(messages)
    for handler in site.app.sockets.values():
        handler.deliver_all(burst)

    for socket in sockets:
        assert [await socket.receive_event("news") for _ in range(16)] == [
            ["news", [number, "tea" * number]] for number in range(16)
        ]
    looking = next(handler for handler in site.app.sockets.values() if isinstance(handler, Overriding))
    assert looking.looked_at == messages


async def test_a_socket_leaves_a_channel_and_hears_no_more_of_it(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    await socket.call("join", "lobby", "tea")

    await socket.call("leave", "lobby")
    await site.app.publish.channel(["lobby", "tea"], "news")

    assert await heard(site, socket) == [["news"]]


async def test_a_sessions_channels_hold_for_all_its_sockets_and_for_later_ones(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, Talking)
    browser = site.browser()
    await browser.get("/put?a=1")
    mine, other, stranger = await browser.connect(), await browser.connect(), await site.browser().connect()

    assert await mine.call("join_all", "lobby") == ["lobby"]
    await other.receive("changed")
    later = await browser.connect()
    await site.app.publish.channel("lobby", "joined")
    joined = await heard(site, mine, other, later, stranger)
    assert await other.call("leave_all", "lobby") == []
    await mine.receive("changed")
    await later.receive("changed")
    await site.app.publish.channel("lobby", "left")
    left = await heard(site, mine, other, later, stranger)

    assert joined == [["joined"], ["joined"], ["joined"], []]
    assert left == [[], [], [], []]


@pytest.mark.parametrize("first", ["join", "join_all"])
async def test_a_socket_hears_of_a_channel_as_long_as_it_or_its_session_is_subscribed(
    memory: StoreProbe, serve_live: ServeLive, first: str
) -> None:
    site = await serve_live(memory, Talking)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket, other = await browser.connect(), await browser.connect()

    for method in (first, {"join": "join_all", "join_all": "join"}[first]):
        await socket.call(method, "lobby")
    await socket.call("leave_all", "lobby")
    await site.app.publish.channel("lobby", "for the socket")
    alone = await heard(site, socket, other)
    await socket.call("join_all", "lobby")
    await other.receive("changed")
    await socket.call("leave", "lobby")
    await site.app.publish.channel("lobby", "for the session")
    together = await heard(site, socket, other)
    await socket.call("leave_all", "lobby")
    await site.app.publish.channel("lobby", "for nobody")

    assert alone[0] == ["for the socket"]
    assert together == [["for the session"], ["for the session"]]
    assert "for nobody" not in (await heard(site, socket))[0]


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "with history"])
async def test_a_browsers_wish_that_fails_leaves_what_its_session_is_subscribed_to(
    memory: StoreProbe, serve_live: ServeLive, kept: bool
) -> None:
    class Room(Talking):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(10, 60)) if kept else None

        def may_subscribe(self, channel: str) -> bool:
            return True

    broker = BrokerProbe(MemoryBroker())
    site = await serve_live(memory, Room, broker=broker)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("join_all", "room")

    broker.fail("history", "subscribe")
    if kept:
        assert (await refused(socket.call("sstream.subscribe", "room"))).code == UNAVAILABLE
    else:
        await socket.call("sstream.subscribe", "room")  # it listens to that already
    broker.heal()

    await site.app.publish.channel("room", "news")
    assert await socket.receive_event("news")


async def test_logging_in_and_out_changes_whose_events_a_socket_hears(store: StoreProbe, serve_live: ServeLive) -> None:
    class Changing(Talking):
        @rpc(use=[load_session])
        async def become(self, name: str | None) -> None:
            await self.session.set_user_id(name)

    site = await serve_live(store, Changing)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    names = []

    for name in ("fred", "anna", None):
        await socket.call("become", name)
        await socket.traded()
        await site.app.publish.user("fred", "to fred")
        await site.app.publish.user("anna", "to anna")
        names += await heard(site, socket)

    assert names == [["to fred"], ["to anna"], []]


class Leaving(Talking):
    """Leaves, and goes on within the same call."""

    @rpc(use=[load_session])
    async def log_out_and_tell(self) -> None:
        user_id = self.session.user_id
        await self.session.set_user_id(None)
        assert user_id is not None
        await self.publish.user(user_id, "secret")

    @rpc(use=[load_session])
    async def leave_all_and_tell(self, channel: str) -> None:
        await self.session.channels.unsubscribe(channel)
        await self.publish.channel(channel, "secret")

    @rpc(use=[load_session])
    async def leave_all_and_come_back(self, channel: str) -> None:
        await self.session.channels.reset()
        await self.session.channels.subscribe(channel)

    @rpc(use=[load_session])
    async def leave_all_and_join(self, channel: str) -> None:
        await self.session.channels.unsubscribe(channel)
        await self.subscribe(channel)


async def test_a_socket_hears_nothing_of_what_its_session_has_left_from_the_save_on(
    store: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(store, Leaving)
    browser = site.browser()
    await browser.get("/login?name=fred")
    mine, other = await browser.connect(), await browser.connect()
    await mine.call("join_all", "lobby")
    await other.receive("changed")

    await mine.call("leave_all_and_tell", "lobby")
    await other.receive("changed")
    await mine.call("log_out_and_tell")
    await other.receive("changed")

    assert await heard(site, mine, other) == [[], []]


@pytest.mark.parametrize("method", ["leave_all_and_come_back", "leave_all_and_join"])
async def test_a_socket_that_leaves_and_comes_back_within_one_call_is_there(
    store: StoreProbe, serve_live: ServeLive, method: str
) -> None:
    site = await serve_live(store, Leaving)
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("join_all", "lobby")

    await socket.call(method, "lobby")
    await site.app.publish.channel("lobby", "news")

    assert await heard(site, socket) == [["news"]]


async def test_an_anonymous_socket_hears_nothing_of_users(memory: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()

    for user in ("", "None", "null", "0", "anonymous"):
        if user:
            await site.app.publish.user(user, "secret")
        with pytest.raises(ValueError):
            await site.app.publish.user(None, "secret")  # type: ignore[arg-type]  # that is what is tested

    assert await heard(site, socket) == [[]]


async def test_a_subscription_to_an_illegal_channel_is_an_error_to_the_caller(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    site = await serve_live(memory, Talking)
    socket = await site.browser().connect()
    expect_log("join raised", logger="sstream.rpc", required=False)

    for name in ("", "*", "a b", "x" * 300, "\0", "{tag}"):
        error = await refused(socket.call("join", name))
        assert error.code in {-32602, -32603}

    assert site.app.hub.topics_of(next(iter(site.app.sockets.values()))) == {"all", f"socket:{await socket.call('me')}"}


async def test_a_socket_is_subscribed_to_a_bounded_number_of_channels(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    site = await serve_live(memory, Talking, limits=Limits(channels=3))
    socket = await site.browser().connect()
    await socket.call("join", "a", "b")

    error = await refused(socket.call("join", "c", "d"))
    await socket.call("join", "b", "c")
    last = await refused(socket.call("join", "d"))

    assert (error.code, last.code) == (4029, 4029)
    await site.app.publish.channel(["a", "b", "c", "d"], "news")
    assert await heard(site, socket) == [["news", "news", "news"]]


async def test_a_browser_subscribes_only_where_it_may(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Rooms(Live):
        def may_subscribe(self, channel: str) -> bool | Awaitable[bool]:
            if channel.startswith("slow-"):
                return self._ask(channel)
            return channel.startswith("open-")

        async def _ask(self, channel: str) -> bool:
            await asyncio.sleep(0)
            return channel == "slow-yes"

    site = await serve_live(memory, ("/ws", Rooms), ("/closed", Live))
    socket, closed = await site.browser().connect(), await site.browser().connect("/closed")

    replies = [await socket.call("sstream.subscribe", name) for name in ("open-a", "open-b", "slow-yes")]
    refusals = [(await refused(socket.call("sstream.subscribe", name))).code for name in ("secret", "slow-no")]
    refusals.append((await refused(closed.call("sstream.subscribe", "open-a"))).code)
    illegal = [(await refused(socket.call("sstream.subscribe", name))).code for name in ("", "open-*", "open-a b", 7)]
    await socket.call("sstream.unsubscribe", "open-b")
    await site.app.publish.channel(["open-a", "open-b", "slow-yes", "secret", "slow-no"], "news")

    assert replies == [{}] * 3
    assert refusals == [4003] * 3
    assert illegal == [-32602] * 4
    assert await heard(site, socket, closed) == [["news", "news"], []]


async def test_a_browser_cannot_reach_topics_that_are_no_channels(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Open(Live):
        def may_subscribe(self, channel: str) -> bool:
            return True

    site = await serve_live(memory, Open)
    socket = await site.browser().connect()

    for name in ("all", "user:fred", "socket:1", "channel:x"):
        await socket.call("sstream.subscribe", name)
    await site.app.publish.user("fred", "secret")
    await site.app.publish.channel("x", "secret")

    assert await heard(site, socket) == [[]]


async def test_a_browser_publishes_only_where_it_may(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Wall(Talking):
        def may_publish(self, channel: str) -> bool | Awaitable[bool]:
            assert channel.isprintable()  # what is no name need not be thought of here
            return self._ask(channel) if channel.startswith("slow-") else channel == "wall"

        async def _ask(self, channel: str) -> bool:
            await asyncio.sleep(0)
            return channel == "slow-yes"

    site = await serve_live(memory, ("/ws", Wall), ("/closed", Live))
    socket, closed = await site.browser().connect(), await site.browser().connect("/closed")
    await socket.call("join", "wall", "slow-yes", "slow-no", "secret")

    for channel in ("wall", "slow-yes"):
        await socket.call("sstream.publish", channel, "said", {"tea": 1}, 2)
    refusals = [
        (await refused(asking.call("sstream.publish", channel, "said"))).code
        for asking, channel in ((socket, "secret"), (socket, "slow-no"), (closed, "wall"))
    ]
    illegal = [
        (await refused(socket.call("sstream.publish", "wall", *rest))).code
        for rest in (("sstream:gap",), ("sstream:ticket", "x"), ("",), (), (7,))
    ]
    illegal += [(await refused(socket.call("sstream.publish", name, "said"))).code for name in ("", "\n" * 1000)]

    assert [await socket.receive_event("said") for _ in range(2)] == [
        ["said", [{"tea": 1}, 2], {"channel": "wall"}],
        ["said", [{"tea": 1}, 2], {"channel": "slow-yes"}],
    ]
    assert refusals == [4003] * 3
    assert illegal == [-32602] * 7
    assert await heard(site, socket, closed) == [[], []]


async def test_presence_lists_the_users_of_a_channel_to_those_who_are_in_it(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(presence=True) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

        def presence_about(self, channel: str) -> dict[str, Any]:
            return {"color": self.session.get("color")}

    site = await serve_live(memory, Room)
    fred, anna, nobody = site.browser(), site.browser(), site.browser()
    for browser, name, color in ((fred, "fred", "red"), (anna, "anna", "blue")):
        await browser.get(f"/put?color={color}")
        await browser.get(f"/login?name={name}")
    mine, twin, hers, guest = await fred.connect(), await fred.connect(), await anna.connect(), await nobody.connect()

    early = await refused(mine.call("sstream.presence", "room"))
    for socket in (mine, twin, hers, guest):
        await socket.call("sstream.subscribe", "room")
    together = await guest.call("sstream.presence", "room")
    joined = [await mine.receive("joined") for _ in range(2)]
    await mine.close()
    with_the_twin = await guest.call("sstream.presence", "room")

    assert early.code == 4003
    present = [{"user": "anna", "about": {"color": "blue"}}, {"user": "fred", "about": {"color": "red"}}]
    assert together == with_the_twin == present
    assert joined == [["fred", {"color": "red"}], ["anna", {"color": "blue"}]]
    anna_joined = ["joined", ["anna", {"color": "blue"}], {"channel": "room"}]
    assert await nothing_else(twin, hers, guest) == [[anna_joined], [anna_joined], []]


async def test_a_channel_with_history_gives_a_browser_that_comes_back_what_it_missed(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(10, 60)) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

    site = await serve_live(memory, Room)
    browser = site.browser()
    socket = await browser.connect()
    start = await socket.call("sstream.subscribe", "room")
    await site.app.publish.channel("room", "said", 1)
    _, args, meta = await socket.receive_event("said")
    await socket.close()
    await site.app.publish.channel("room", "said", 2)
    await site.app.publish.channel("room", "said", 3)

    back = await browser.connect()
    since = {"offset": meta["offset"], "epoch": meta["epoch"]}
    reply = await back.call("sstream.subscribe", "room", since)
    missed = [await back.receive("said"), await back.receive("said")]
    await site.app.publish.channel("room", "said", 4)

    assert (args, meta["channel"], start["epoch"]) == ([1], "room", meta["epoch"])
    assert (reply["recovered"], reply["offset"]) == (True, meta["offset"] + 2)
    assert missed == [[2], [3]]
    assert await back.receive("said") == [4]


@pytest.mark.parametrize("writer", ["socket", "page", "another process"])
async def test_channel_options_that_fail_hurt_their_own_channel_alone(
    writer: str, memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(int(channel.removeprefix("room-")), 60))

        @rpc(use=[load_session])
        async def stay(self) -> None:
            await self.session.channels.subscribe("room-1", "room-x", "room-2")

    class Stay(SessionMixin, RequestHandler):
        async def get(self) -> None:
            await self.session.channels.subscribe("room-1", "room-x", "room-2")

    told = expect_log(r"a session's sockets do not hear of channel:room-x", count=2)
    site = await serve_live(memory, Room, ("/stay", Stay))
    browser = site.browser()
    await browser.get("/put?a=1")
    first, second = await browser.connect(), await browser.connect()

    if writer == "socket":
        await first.call("stay")
    elif writer == "page":
        assert (await browser.get("/stay")).status == 200
    else:
        other = await (await serve_live(StoreProbe(memory.store.share()), Room)).app.sessions.get(browser.sid)
        assert other is not None
        await other.channels.subscribe("room-1", "room-x", "room-2")

    assert (await stored(memory, browser.sid) or {})["channels"] == ["room-1", "room-x", "room-2"]
    await eventually(lambda: len(told.records) == 2, "the failure is not told")
    assert "Room.channel_options('room-x') failed: invalid literal for int()" in str(told.records[0].exc_info[1])
    for name in ("room-1", "room-2"):
        await site.app.publish.channel(name, "said", name)
        assert [await socket.receive("said") for socket in (first, second)] == [[name], [name]]
    hub = site.app.hub
    assert "channel:room-x" not in hub.topics
    for socket in site.app.sockets.values():
        assert {f"channel:room-{name}" for name in (1, 2)} <= hub.topics_of(socket)


async def test_a_subscription_whose_channel_options_fail_is_an_error_of_ours(
    memory: StoreProbe, serve_live: ServeLive, expect_log: Callable[..., Any]
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> Any:
            return (10, 60) if channel == "pair" else ChannelOptions(history=(0, 60))

        def may_subscribe(self, channel: str) -> bool:
            return True

        may_publish = may_subscribe

    told = expect_log("sstream.(subscribe|publish)", count=4)
    site = await serve_live(memory, Room)
    socket = await site.browser().connect()

    for channel in ("pair", "empty"):
        for call in (("sstream.subscribe", channel), ("sstream.publish", channel, "said")):
            error = await refused(socket.call(*call))
            assert (error.code, error.message) == (-32603, "internal error")

    reasons = [str(record.exc_info[1]) for record in told.records]
    assert reasons[0] == "Room.channel_options('pair') gave (10, 60); legal are ChannelOptions and None"
    assert reasons[2].startswith("Room.channel_options('empty') failed: a history has at least one event")
    assert site.app.hub.topics == {"all", f"socket:{next(iter(site.app.sockets))}"}


async def test_a_socket_that_its_session_has_bound_and_that_follows_hears_each_event_once(
    memory: StoreProbe, serve_live: ServeLive
) -> None:
    class Room(Live):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(history=(10, 60)) if channel == "room" else None

        def may_subscribe(self, channel: str) -> bool:
            return True

        @rpc(use=[load_session])
        async def stay(self) -> None:
            await self.session.channels.subscribe("room")

    site = await serve_live(memory, Room)
    browser = site.browser()
    await browser.get("/put?a=1")
    first = await browser.connect()
    await first.call("stay")
    since = await first.call("sstream.subscribe", "room")
    await first.close()

    back = await browser.connect()  # in the channel by its session, before it asks
    await site.app.publish.channel("room", "said", 1)
    heard = [await back.receive("said")]
    reply = await back.call("sstream.subscribe", "room", {"offset": since["offset"], "epoch": since["epoch"]})
    await site.app.publish.channel("room", "said", 2)
    heard.append(await back.receive("said"))

    assert reply["recovered"] is True
    assert heard == [[1], [2]]
    await back.assert_silent("said")


async def test_a_sessions_channels_are_bounded_as_well(store: StoreProbe, serve_live: ServeLive) -> None:
    site = await serve_live(store, Talking, limits=Limits(channels=3))
    browser = site.browser()
    await browser.get("/put?a=1")
    socket = await browser.connect()
    await socket.call("join_all", "a", "b")

    error = await refused(socket.call("join_all", "c", "d"))

    assert error.code == 4029
    assert await stored(store, browser.sid) == {"a": "1", "channels": ["a", "b"]}
    await site.app.publish.channel(["a", "b", "c", "d"], "news")
    assert await heard(site, socket) == [["news", "news"]]


async def test_the_server_calls_what_the_browser_exposes(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Asking(Live):
        @rpc
        async def ask_back(self, question: str) -> Any:
            return await self.call("answer", question)

    def answer(question: str) -> str:
        if question == "refuse":
            raise RPCError(4003, "I will not", [1])
        return question.upper()

    site = await serve_live(memory, Asking)
    socket = await site.browser().connect()
    socket.expose("answer", answer)

    result = await socket.call("ask_back", "tea?")
    error = await refused(socket.call("ask_back", "refuse"))

    assert result == "TEA?"
    assert (error.code, error.message, error.data) == (4003, "I will not", [1])


async def test_who_leaves_a_sessions_channel_leaves_its_list_too(memory: StoreProbe, serve_live: ServeLive) -> None:
    class Hall(Talking):
        @classmethod
        def channel_options(cls, channel: str) -> ChannelOptions | None:
            return ChannelOptions(presence=True)

    site = await serve_live(memory, Hall)
    browser = site.browser()
    await browser.get("/login?name=fred")
    socket = await browser.connect()
    await socket.call("join_all", "hall", "room")
    await socket.receive("joined")
    await socket.receive("joined")
    (handler,) = site.app.sockets.values()

    await socket.call("leave_all", "room")
    await eventually(lambda: len(site.app.presence._sockets[handler]) == 1, "it is still in the room")

    assert list(site.app.presence._sockets[handler]) == ["channel:hall"]
