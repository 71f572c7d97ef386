import asyncio
import re
from pathlib import Path

import msgspec
import pytest
import redis
import redis.asyncio as aioredis

from sstream.errors import BrokerError, ConfigurationError
from sstream.pubsub import RedisBroker
from sstream.pubsub.channels import History
from sstream.pubsub.message import encode_event
from sstream.pubsub.scripts import PUBLISH
from sstream.pubsub.topics import channel_topic
from sstream.testing import Fault, FaultProxy, RedisServer
from tests.ticking import ticking

from .contract import ABOUT, LOBBY, BrokerContract, event
from .listening import LAST_TEN, Ear, eventually

FORMAT = (Path(__file__).parents[2] / "docs" / "reference-publish-format.md").read_text("utf-8")
SOON = 1.0  # seconds: the deadline of brokers that are to meet it
PATIENCE = 20.0  # seconds: the deadline of all others, which wait for a machine that stands still
LOST = "the listening connection to Redis was lost"
BACK = "listening to Redis again"
SILENT = "no sign of life"


class Broker(RedisBroker):
    """A broker with its ear, for ``async with``."""

    def __init__(self, url: str, *, deadline: float = PATIENCE, **options: object) -> None:
        super().__init__(url, deadline=deadline, **options)
        self.ear = Ear()

    async def __aenter__(self) -> "Broker":
        await self.start(self.ear)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@pytest.fixture
async def client(redis_url):
    async with aioredis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def proxy(redis_server, redis_url):
    async with FaultProxy(redis.ConnectionPool.from_url(redis_server).connection_kwargs["port"]) as proxy:
        yield proxy


class TestRedisBroker(BrokerContract):
    @pytest.fixture
    def broker(self, redis_url):
        return RedisBroker(redis_url, deadline=PATIENCE)

    @pytest.fixture
    def other(self, redis_url):
        return RedisBroker(aioredis.Redis.from_url(redis_url), deadline=PATIENCE)

    @pytest.fixture
    def pass_time(self, client):
        async def pass_time(seconds):
            """Bring everything that far nearer to its end; an hour's wait would do the same."""
            for key in await client.keys("sstream:*"):
                if b":until:" in key:
                    for member in await client.zrange(key, 0, -1):
                        await client.zincrby(key, -seconds * 1000, member)
                elif b":users:" not in key:
                    left = await client.pttl(key) - round(seconds * 1000)
                    await (client.pexpire(key, left) if left > 0 else client.delete(key))

        return pass_time

    @pytest.fixture
    def set_offset(self, client):
        async def set_offset(topic, offset):
            await client.hset(f"sstream:position:{{sstream:{topic}}}", "offset", offset)

        return set_offset

    async def test_every_key_is_ours_and_ends_by_itself(self, broker, ear, client):
        await broker.publish(LOBBY, event(1), LAST_TEN)
        await broker.history("channel:quiet", None, LAST_TEN)
        await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)

        keys = await client.keys("*")

        assert sorted(keys) == [
            b"sstream:log:{sstream:channel:lobby}",
            b"sstream:position:{sstream:channel:lobby}",
            b"sstream:position:{sstream:channel:quiet}",
            b"sstream:until:{sstream:channel:lobby}",
            b"sstream:users:{sstream:channel:lobby}",
        ]
        assert all([await client.ttl(key) > 0 for key in keys])

    async def test_history_keeps_its_size_and_its_seconds(self, broker, ear, client):
        for number in range(30):
            await broker.publish(LOBBY, event(number), History(7, 100))

        assert await client.xlen("sstream:log:{sstream:channel:lobby}") == 7
        assert 90 <= await client.ttl("sstream:log:{sstream:channel:lobby}") <= 100

    async def test_any_program_can_publish(self, broker, ear, client):
        await broker.subscribe([LOBBY])

        await client.publish("sstream:channel:lobby", msgspec.msgpack.encode([2, "n", [1], {"channel": "lobby"}]))

        assert await ear.hears(1) == [["n", [1], {"channel": "lobby"}]]

    async def test_any_program_can_listen(self, broker, ear, client):
        async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("sstream:user:42")
            await pubsub.parse_response()  # the acknowledgement

            await broker.publish("user:42", event(1))

            assert (await pubsub.parse_response())[2] == msgspec.msgpack.encode([2, "n", [1]])

    async def test_no_subscription_is_left_behind(self, broker, ear, client):
        await broker.subscribe([LOBBY, "all"])
        await broker.unsubscribe([LOBBY])
        await broker.subscribe(["user:1"])  # a marker: acknowledged after the former

        assert sorted(await client.pubsub_channels()) == [b"sstream:all", b"sstream:user:1"]
        assert await client.pubsub_numpat() == 0

    async def test_prefixes_are_kept_apart(self, redis_url, broker, ear):
        async with Broker(redis_url, prefix="second:") as second:
            await broker.subscribe([LOBBY])
            await second.subscribe([LOBBY])

            await broker.publish(LOBBY, event(1))
            await second.publish(LOBBY, event(2))

            assert await ear.hears(1) == [["n", [1]]]
            assert await second.ear.hears(1) == [["n", [2]]]

    @pytest.mark.parametrize("prefix", ["sess:", "sess:events:", "a*:", "{a}:", "a b:"])
    def test_prefix_that_would_do_harm_is_refused(self, prefix):
        with pytest.raises(ConfigurationError, match="prefix"):
            RedisBroker("redis://localhost", prefix=prefix)

    @pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis+sentinel://localhost:26379"])
    def test_url_that_cannot_be_read_is_refused(self, url):
        with pytest.raises(ConfigurationError, match="URL"):
            RedisBroker(url)

    async def test_publishes_of_one_turn_leave_in_one_write(self, broker, ear, client):
        await broker.publish("all", event("connected"))
        before = (await client.info("stats"))["total_reads_processed"]

        await asyncio.gather(*(broker.publish("all", event(number)) for number in range(200)))

        after = (await client.info("stats"))["total_reads_processed"]
        assert after - before < 50  # ours, in the pieces that arrive; the second INFO is one

    async def test_publish_after_close_is_an_error(self, broker):
        await broker.close()

        with pytest.raises(BrokerError, match="closed"):
            await broker.publish("all", event(1))

    async def test_publish_before_start_works(self, broker, other, other_ear):
        await other.subscribe(["all"])

        await broker.publish("all", event(1))

        assert await other_ear.hears(1) == [["n", [1]]]
        await broker.close()


class TestScripts:
    async def test_flushed_scripts_are_sent_again_in_order(self, redis_url, client):
        async with Broker(redis_url) as broker:
            await broker.subscribe([LOBBY])
            await client.script_flush()

            await asyncio.gather(*(broker.publish(LOBBY, event(number), LAST_TEN) for number in range(300)))

            heard = await broker.ear.hears(300)
        assert [args for _, args, _ in heard] == [[number] for number in range(300)]
        assert [meta["offset"] for _, _, meta in heard] == list(range(1, 301))

    async def test_wrong_type_at_a_key_is_a_clear_error_for_that_channel_alone(self, redis_url, client):
        await client.set("sstream:position:{sstream:channel:lobby}", "somebody else's")
        async with Broker(redis_url) as broker:
            results = await asyncio.gather(
                broker.publish("channel:other", event(1), LAST_TEN),
                broker.publish(LOBBY, event(1), LAST_TEN),
                broker.publish("channel:other", event(2), LAST_TEN),
                return_exceptions=True,
            )

        assert [getattr(result, "offset", None) for result in results] == [1, None, 2]
        assert isinstance(results[1], BrokerError)
        assert "WRONGTYPE" in str(results[1])

    async def test_log_without_its_count_is_begun_anew(self, redis_url, client):
        async with Broker(redis_url) as broker:
            for number in range(3):
                old = await broker.publish(LOBBY, event(number), LAST_TEN)
            await client.delete("sstream:position:{sstream:channel:lobby}")

            new = await broker.publish(LOBBY, event("new"), LAST_TEN)
            recovery = await broker.history(LOBBY, new._replace(offset=0), LAST_TEN)

        assert new.offset == 1
        assert new.epoch != old.epoch
        assert len(recovery.missed) == 1

    async def test_refused_write_publishes_nothing(self, redis_url, proxy):
        async with Broker(proxy.url) as broker:
            await broker.subscribe([LOBBY, "all"])
            proxy.on("EVALSHA", Fault.ERROR, message="OOM command not allowed when used memory > 'maxmemory'.")

            with pytest.raises(BrokerError, match="OOM"):
                await broker.publish(LOBBY, event(1), LAST_TEN)
            await broker.publish("all", event("marker"))

            assert await broker.ear.hears(1) == [["n", ["marker"]]]


class TestWhenRedisIsAway:
    async def test_start_needs_no_redis_and_listening_begins_when_it_comes(self, redis_url, proxy):
        proxy.refuse()
        async with Broker(proxy.url) as broker:
            assert not broker.connected
            subscribing = asyncio.create_task(broker.subscribe([LOBBY]))
            await proxy.accept()
            await subscribing

            await broker.publish(LOBBY, event(1))

            assert await broker.ear.hears(1) == [["n", [1]]]
            assert broker.ear.lost == []
            assert broker.connected

    async def test_subscription_that_came_too_late_is_made_up_for_and_told(self, proxy, expect_log):
        expect_log(BACK)
        proxy.refuse()
        async with Broker(proxy.url, deadline=SOON) as broker:
            with pytest.raises(BrokerError, match="acknowledge"):
                await broker.subscribe([LOBBY])
            await proxy.accept()

            await broker.ear.loses(LOBBY)
            await broker.publish(LOBBY, event(1))

            assert await broker.ear.hears(1) == [["n", [1]]]

    async def test_subscription_that_nobody_wants_any_more_is_not_made_up_for(self, proxy, client):
        proxy.refuse()
        async with Broker(proxy.url, deadline=SOON) as broker:
            with pytest.raises(BrokerError):
                await broker.subscribe([LOBBY])
            await broker.unsubscribe([LOBBY])
            await proxy.accept()
            await eventually(lambda: broker.connected)

            await broker.subscribe(["all"])

            assert await client.pubsub_channels() == [b"sstream:all"]
            assert broker.ear.lost == []

    async def test_publish_to_a_server_that_refuses_fails_in_time_and_says_why(self, proxy):
        proxy.refuse()
        async with Broker(proxy.url, deadline=SOON) as broker:
            async with ticking() as ticks:
                with pytest.raises(BrokerError, match="Redis: .*Connect call failed") as caught:
                    await broker.publish("all", event(1))

        assert ticks.seconds < 2 * SOON
        assert "unknown" not in str(caught.value)  # it cannot have been delivered

    async def test_publish_during_a_short_absence_succeeds(self, proxy):
        proxy.refuse()
        async with Broker(proxy.url) as broker:
            publishing = asyncio.create_task(broker.publish("all", event(1)))
            await asyncio.sleep(0)
            await proxy.accept()

            await publishing

    async def test_publish_to_a_frozen_server_fails_in_time(self, proxy, expect_log):
        expect_log(LOST, required=False)
        async with Broker(proxy.url, deadline=SOON) as broker:
            await broker.publish("all", event(1))
            proxy.freeze()

            async with ticking() as ticks:
                results = await asyncio.gather(
                    *(broker.publish("all", event(number)) for number in range(50)), return_exceptions=True
                )

            assert ticks.seconds < 2 * SOON
            assert all(isinstance(result, BrokerError) and "unknown" in str(result) for result in results)
            proxy.thaw()
            await broker.publish("all", event(1))

    async def test_lost_answer_is_an_error_and_the_event_is_not_sent_twice(self, proxy):
        async with Broker(proxy.url) as broker, Broker(proxy.url) as hearing:
            await hearing.subscribe(["all"])
            proxy.on("PUBLISH", Fault.CUT_REPLY)

            with pytest.raises(BrokerError, match="unknown"):
                await broker.publish("all", event(1))
            await broker.publish("all", event("marker"))

            assert await hearing.ear.hears(2) == [["n", [1]], ["n", ["marker"]]]

    async def test_connection_that_ended_while_idle_costs_no_event(self, proxy, expect_log):
        expect_log(LOST)
        async with Broker(proxy.url) as broker:
            for number in range(5):
                await broker.publish("all", event(number))
                proxy.cut()
                connection = broker._place._pipe._connection
                await eventually(lambda connection=connection: not connection.is_idle)  # it has heard of it
            await broker.publish("all", event("last"))

    async def test_listening_comes_back_and_tells_what_may_be_missing(self, proxy, expect_log):
        expect_log(LOST)
        expect_log(BACK)
        async with Broker(proxy.url) as broker:
            await broker.subscribe([LOBBY, "all", "user:42"])
            await broker.unsubscribe(["user:42"])
            proxy.cut()

            await broker.ear.loses(LOBBY, "all")
            await broker.publish(LOBBY, event(1))

            assert await broker.ear.hears(1) == [["n", [1]]]
            assert sorted(broker.ear.lost) == ["all", LOBBY]

    async def test_a_cut_while_coming_back_loses_nothing_of_what_is_to_be_told(self, proxy, expect_log):
        expect_log(LOST)
        expect_log(BACK)
        topics = [f"user:{number}" for number in range(3000)]
        async with Broker(proxy.url) as broker:
            await broker.subscribe(topics)
            proxy.on("SUBSCRIBE", Fault.CUT_BEFORE, times=3)
            proxy.cut()

            await broker.ear.loses(*topics)
            await asyncio.gather(*(broker.publish(topic, event(topic)) for topic in topics))

            assert await broker.ear.hears(3000) == [["n", [topic]] for topic in topics]

    async def test_silent_connection_is_noticed_and_replaced(self, proxy, expect_log):
        expect_log(SILENT)
        expect_log(BACK)
        async with Broker(proxy.url, deadline=SOON, ping_interval=0.05) as broker:
            await broker.subscribe([LOBBY])
            proxy.freeze()
            await eventually(lambda: not broker.connected)
            proxy.thaw()

            await broker.ear.loses(LOBBY)

    async def test_quiet_connection_that_answers_its_pings_is_kept(self, proxy):
        async with Broker(proxy.url, deadline=2 * SOON, ping_interval=0.01) as broker:
            await broker.subscribe([LOBBY])
            await eventually(lambda: proxy.commands["PING"] >= 2)  # so the first was answered in time
            await broker.publish(LOBBY, event(1))

            assert await broker.ear.hears(1) == [["n", [1]]]
            assert proxy.accepted == 2  # one listens, one publishes

    async def test_restart_of_the_server(self, own_redis, expect_log):
        expect_log(LOST)
        expect_log(BACK)
        async with Broker(own_redis.url) as broker:
            await broker.subscribe([LOBBY])
            first = await broker.publish(LOBBY, event(1), LAST_TEN)
            await broker.ear.hears(1)

            await asyncio.to_thread(own_redis.restart)
            await broker.ear.loses(LOBBY)
            second = await broker.publish(LOBBY, event(2), LAST_TEN)

            assert first.epoch != second.epoch
            assert not (await broker.history(LOBBY, first, LAST_TEN)).recovered

    async def test_replica_takes_no_events(self, own_redis):
        async with Broker(own_redis.url, deadline=SOON) as broker, aioredis.Redis.from_url(own_redis.url) as client:
            await broker.publish("all", event(1))
            await client.replicaof("127.0.0.1", 1)

            with pytest.raises(BrokerError, match="no primary"):
                await broker.publish("all", event(2))
            with pytest.raises(BrokerError, match="no primary"):
                await broker.publish(LOBBY, event(2), LAST_TEN)
            await client.replicaof("NO", "ONE")

            async def is_taken() -> bool:
                try:
                    await broker.publish("all", event(3))
                except BrokerError:  # the server was asked for its role a moment ago
                    return False
                return True

            await eventually(is_taken)

    async def test_who_gave_up_before_the_write_publishes_nothing(self, redis_url):
        async with Broker(redis_url) as broker:
            await broker.subscribe(["all"])
            giving_up = asyncio.create_task(broker.publish("all", event(1)))
            await asyncio.sleep(0)
            giving_up.cancel()

            await broker.publish("all", event("marker"))

            assert await broker.ear.hears(1) == [["n", ["marker"]]]

    async def test_who_gave_up_after_the_write_leaves_the_order_of_answers_alone(self, redis_url, proxy):
        async with Broker(proxy.url) as broker:
            first = await broker.publish(LOBBY, event(1), LAST_TEN)
            proxy.on("EVALSHA", Fault.DELAY, seconds=0.05)
            giving_up = asyncio.create_task(broker.publish(LOBBY, event(2), LAST_TEN))
            await eventually(lambda: proxy.commands["EVALSHA"] == 2)
            giving_up.cancel()

            positions = await asyncio.gather(*(broker.publish(LOBBY, event(n), LAST_TEN) for n in (3, 4)))

            assert positions == [first._replace(offset=3), first._replace(offset=4)]

    async def test_too_many_waiting_commands_are_refused_at_once(self, proxy, monkeypatch):
        monkeypatch.setattr("sstream.pubsub.server.WAITING", 10)
        proxy.refuse()
        async with Broker(proxy.url, deadline=SOON) as broker:
            results = await asyncio.gather(
                *(broker.publish("all", event(number)) for number in range(15)), return_exceptions=True
            )

        assert ["wait for Redis already" in str(result) for result in results] == [False] * 10 + [True] * 5

    async def test_listener_that_is_full_slows_the_reading(self, redis_url, client):
        async with Broker(redis_url) as broker:
            await broker.subscribe(["all"])
            broker.ear.full = True
            await broker.publish("all", event(0))
            await broker.ear.hears(1)
            for number in range(1, 50):
                await broker.publish("all", event(number))
            heard = len(broker.ear.payloads)

            broker.ear.make_room()

            assert heard == 1
            assert await broker.ear.hears(50) == [["n", [number]] for number in range(50)]

    async def test_closing_ends_those_who_wait(self, proxy):
        proxy.freeze()
        broker = Broker(proxy.url)
        await broker.start(broker.ear)
        subscribing = asyncio.create_task(broker.subscribe([LOBBY]))
        await asyncio.sleep(0)

        await broker.close()

        with pytest.raises(BrokerError, match="closed"):
            await subscribing


class TestPlaces:
    async def test_user_with_only_the_needed_commands(self, need):
        rights = re.search(r"ACL SETUSER sstream on >password (.*)", FORMAT)[1]
        server = need(lambda: RedisServer(f"user sstream on >secret {rights}"))
        with server:
            async with Broker(f"redis://sstream:secret@127.0.0.1:{server.port}/0") as broker:
                await broker.subscribe([LOBBY])
                first = await broker.publish(LOBBY, event(1), LAST_TEN)
                await broker.publish(LOBBY, event(2), LAST_TEN)
                recovery = await broker.history(LOBBY, first, LAST_TEN)
                await broker.enter(LOBBY, "node1", {"42": ABOUT}, 20)
                await broker.leave(LOBBY, "node1", ["42"], 0)
                present = await broker.present(LOBBY)
                await broker.publish(LOBBY, event(3))

                assert len(await broker.ear.hears(5)) == 5
                assert len(recovery.missed) == 1
                assert present == {}

    async def test_user_who_may_not_listen_is_told_in_the_log(self, need, expect_log):
        expect_log("refuses to let us listen")
        with need(lambda: RedisServer("user sstream on >secret resetchannels +@all ~*")) as server:
            async with Broker(f"redis://sstream:secret@127.0.0.1:{server.port}/0", deadline=SOON) as broker:
                with pytest.raises(BrokerError, match="acknowledge"):
                    await broker.subscribe([LOBBY])

    async def test_sentinel_leads_to_the_primary(self, own_redis, need):
        config = f"sentinel monitor main 127.0.0.1 {own_redis.port} 1"
        with need(lambda: RedisServer(config, sentinel=True)) as sentinel:
            async with Broker(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as broker:
                await broker.subscribe([LOBBY])
                await broker.publish(LOBBY, event(1), LAST_TEN)

                assert len(await broker.ear.hears(1)) == 1


class TestFormat:
    """What the page says of the format is so."""

    async def test_python_example(self, redis_url):
        example = re.search(r"```python\n(.*?)```", FORMAT, re.DOTALL)[1]
        async with Broker(redis_url) as broker:
            await broker.subscribe([LOBBY, "user:42"])
            code = example.replace("redis://localhost:6379/0", redis_url) + "client.close()\n"
            exec(compile(code, "reference-publish-format.md", "exec"), {})

            assert await broker.ear.hears(2) == [
                ["message", ["hello"], {"channel": "lobby"}],
                ["cart", [{"tea": 1}]],
            ]

    def test_bytes(self):
        example = re.search(r"^ {4}(94 02 .*)$", FORMAT, re.MULTILINE)[1]

        assert bytes.fromhex(example) == encode_event("message", ["hello"], "lobby")

    async def test_script_run_by_another_program(self, redis_url, client):
        async with Broker(redis_url) as broker:
            await broker.subscribe([LOBBY])
            first = await broker.publish(LOBBY, event(1), LAST_TEN)
            channel = "sstream:channel:lobby"
            keys = [f"sstream:position:{{{channel}}}", f"sstream:log:{{{channel}}}", channel]
            answer = await client.eval(
                PUBLISH.text,
                3,
                *keys,
                "random",
                3600,
                60,
                10,
                "PUBLISH",
                "lobby",
                msgspec.msgpack.encode([2, "n", [2]]),
            )

            assert answer == [2, first.epoch.encode()]
            assert (await broker.ear.hears(2))[1] == [
                "n",
                [2],
                {"channel": "lobby", "offset": 2, "epoch": first.epoch},
            ]

    def test_alphabet(self):
        described = re.search(r"characters out of `([^`]*)`", FORMAT)[1]
        marks = described.removeprefix("A-Z a-z 0-9 ").split()

        assert sorted(marks) == sorted(c for c in map(chr, range(128)) if not c.isalnum() and is_legal(c))


def is_legal(name):
    try:
        channel_topic(name)
    except ValueError:
        return False
    return True
