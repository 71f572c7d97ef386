"""The store in Redis: the contract, and everything that a Redis can do to it."""

import asyncio
import contextlib
import gc
import ssl
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import redis.asyncio as aioredis

from sstream import ConfigurationError, RedisStore, SessionStore, StoreError
from sstream.testing import Fault, FaultProxy, RedisServer, eventually, within
from tests.lasting import Lasting
from tests.ticking import ticking

from .contract import KEY, StoreContract, listen

CERTIFICATE = Path(__file__).parents[1] / "testing" / "localhost.pem"

# What an ACL user of the store needs, besides the keys `sess:*` and `sstream:*` and the channel `__redis__:invalidate`.
# SELECT is for a database other than 0; EVAL for a Redis that has forgotten its scripts.
COMMANDS = [
    "get",
    "set",
    "del",
    "expire",
    "exists",
    "pttl",
    "eval",
    "evalsha",
    "ping",
    "subscribe",
    "client|id",
    "client|tracking",
]
NEEDED_RIGHTS = ["~sess:*", "~sstream:*", "&__redis__:invalidate", *(f"+{command}" for command in COMMANDS)]

AWAY = r"Redis cannot be reached"  # in the log, once, while it is away
BACK = r"Redis is back"

SOON = 1.0  # seconds: the deadline of stores that are to meet it
PATIENCE = 20.0  # seconds: the deadline of all others, which wait for a machine that stands still


@pytest.fixture
def start_redis(need):
    """Starts Redis servers with lines of configuration of their own; they end with the test."""
    with contextlib.ExitStack() as servers:

        def start_redis(config: str = "", **options) -> RedisServer:
            return servers.enter_context(need(lambda: RedisServer(config, **options)))

        yield start_redis


@pytest.fixture
async def open_store():
    """Makes stores that are closed in the end; they wait for a machine that stands still."""
    stores = []

    def open_store(*args, deadline=PATIENCE, **options) -> RedisStore:
        stores.append(RedisStore(*args, deadline=deadline, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


@pytest.fixture
def away(expect_log):
    """Expects the two log lines of a Redis that is away and comes back."""

    def away(*, comes_back: bool = True):
        if comes_back:
            expect_log(BACK, logger="sstream.session")
        return expect_log(AWAY, logger="sstream.session")

    return away


@contextlib.asynccontextmanager
async def client_of(server):
    client = aioredis.Redis.from_url(server if isinstance(server, str) else server.url)
    try:
        yield client
    finally:
        await client.aclose()


async def works(store) -> bool:
    try:
        await store.get("sess:is-it-there")
    except StoreError:
        return False
    return True


class Took(NamedTuple):
    """The seconds that an operation took: by the clock, and as the loop waited for it."""

    in_all: float
    waiting: float


async def failure_of(operation) -> tuple[StoreError, Took]:
    """The error of an operation, and when it came."""
    begin = time.monotonic()
    async with ticking() as ticks:
        with pytest.raises(StoreError) as failed:
            await operation
    return failed.value, Took(time.monotonic() - begin, ticks.seconds)


async def failures_in_order(operations) -> list[str]:
    """What operations that begin together failed with, those first that failed first."""
    failures = []

    async def fail(operation) -> None:
        failures.append(str((await failure_of(operation))[0]))

    await asyncio.gather(*map(fail, operations))
    return failures


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def new_store(self, redis_url, open_store):
        async def new_store() -> RedisStore:
            return open_store(redis_url)

        return new_store

    @pytest.fixture
    def pass_time(self):
        return asyncio.sleep


# --- what stands in Redis ---------------------------------------------------------------------------------------------


async def test_a_text_stands_in_redis_as_connect_redis_puts_it_there(redis_url, open_store):
    store = open_store(redis_url)
    a_minute = Lasting(60)
    await store.swap(KEY, None, b'{"cookie":{}}', 60)

    async with client_of(redis_url) as client:
        assert await client.keys("*") == [KEY.encode()]
        assert await client.type(KEY) == b"string"
        assert await client.get(KEY) == b'{"cookie":{}}'
        assert await client.ttl(KEY) == a_minute


@pytest.mark.parametrize(
    "command",
    [
        ("SET", KEY, "other"),
        ("SETRANGE", KEY, 0, "T"),
        ("APPEND", KEY, "!"),
        ("DEL", KEY),
        ("UNLINK", KEY),
        ("EXPIRE", KEY, 0),
        ("RENAME", KEY, "elsewhere"),
        ("FLUSHDB",),
        ("FLUSHALL",),
    ],
    ids=lambda command: command[0],
)
async def test_whatever_anybody_does_to_a_key_is_reported(redis_url, open_store, command):
    store = open_store(redis_url)
    heard = await listen(store)
    await store.swap(KEY, None, b"text", 60)
    await store.get(KEY)

    async with client_of(redis_url) as client:
        await client.execute_command(*command)

    await eventually(lambda: KEY in heard or None in heard, "it was not reported")


async def test_a_foreign_write_is_reported_once_for_each_read(redis_url, open_store):
    store = open_store(redis_url)
    heard = await listen(store)
    await store.get("sess:last")
    await store.get(KEY)
    heard.clear()

    async with client_of(redis_url) as client:
        await client.set(KEY, "one")
        await client.set(KEY, "two")
        await client.set("sess:last", "x")

    await eventually(lambda: "sess:last" in heard, "the marker was not reported")
    assert heard == [KEY, "sess:last"]


async def test_an_end_by_time_that_we_are_the_first_to_meet_is_reported(start_redis, open_store):
    server = start_redis("enable-debug-command local")
    store = open_store(server.url)
    heard = await listen(store)
    operations = {
        "sess:get": store.get,
        "sess:swap": lambda key: store.swap(key, b"text", b"new", 60),
        "sess:delete": store.delete,
        "sess:touch": lambda key: store.touch(key, 60),
        "sess:ttl": store.ttl,
    }
    async with client_of(server) as client:
        await client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", 0)
        await asyncio.gather(*(store.swap(key, None, b"text", 1) for key in operations))
        written = await now_in(client)

        async def are_over() -> bool:
            return await now_in(client) > written + 1.0

        await eventually(are_over, "time stands still")
        before = list(heard)

        await asyncio.gather(*(operation(key) for key, operation in operations.items()))

    assert (before, sorted(heard)) == ([], sorted(operations))


async def now_in(client) -> float:
    seconds, microseconds = await client.time()
    return seconds + microseconds / 1e6


async def test_an_evicted_text_is_reported(start_redis, open_store):
    server = start_redis("maxmemory-policy allkeys-lru")
    store = open_store(server.url)
    heard = await listen(store)
    await store.swap(KEY, None, b"text", 60)

    async with client_of(server) as client:
        await client.config_set("maxmemory", "1")
        # The next write makes room.
        with contextlib.suppress(redis.RedisError):
            await client.set("other", "x")

    await eventually(lambda: KEY in heard, "the eviction was not reported")


async def test_a_text_that_somebody_stored_without_an_end_has_a_long_life(redis_url, open_store):
    store = open_store(redis_url)
    async with client_of(redis_url) as client:
        await client.set(KEY, "text")

    assert await store.ttl(KEY) > 30 * 86400
    a_minute = Lasting(60)
    assert await store.swap(KEY, b"text", b"new", 60) == (True, b"new")
    assert await store.ttl(KEY) == a_minute


# --- errors of Redis --------------------------------------------------------------------------------------------------


async def test_scripts_that_redis_has_forgotten_are_sent_again(redis_url, open_store):
    store = open_store(redis_url)
    await store.swap(KEY, None, b"0", 60)
    async with client_of(redis_url) as client:
        await client.script_flush()

        results = await asyncio.gather(*(store.swap(f"sess:{n}", None, b"text", 60) for n in range(50)))
        await client.script_flush()
        lasting = Lasting(90)
        await store.touch(KEY, 90)

    assert results == [(True, b"text")] * 50
    assert await store.ttl(KEY) == lasting


async def test_a_key_of_the_wrong_type_is_one_clear_error_and_can_be_deleted(redis_url, open_store):
    store = open_store(redis_url)
    async with client_of(redis_url) as client:
        await client.lpush(KEY, "a", "list")

        for operation in (store.get(KEY), store.swap(KEY, None, b"text", 60), store.swap(KEY, b"a", None, 60)):
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await operation
        assert await client.lrange(KEY, 0, -1) == [b"list", b"a"]

    assert await store.get("sess:other") is None
    assert await store.delete(KEY) is True


async def test_a_full_redis_refuses_writes_and_still_reads_touches_and_deletes(start_redis, open_store):
    server = start_redis("maxmemory-policy noeviction")
    store = open_store(server.url)
    await store.swap(KEY, None, b"text", 60)
    async with client_of(server) as client:
        await client.config_set("maxmemory", "1")

        with pytest.raises(StoreError, match="OOM"):
            await store.swap("sess:new", None, b"text", 60)
        with pytest.raises(StoreError, match="OOM"):
            await store.swap(KEY, b"text", b"other", 60)
        assert await store.get(KEY) == b"text"
        lasting = Lasting(90)
        await store.touch(KEY, 90)
        assert await store.ttl(KEY) == lasting
        assert await store.delete(KEY) is True

        await client.config_set("maxmemory", "0")
        assert await store.swap(KEY, None, b"again", 60) == (True, b"again")


async def test_a_read_only_replica_refuses_writes_and_another_connection_is_sought(start_redis, open_store, away):
    away()
    server = start_redis()
    store = open_store(server.url)
    heard = await listen(store)
    async with client_of(server) as client:
        await client.replicaof("127.0.0.1", 1)
        before = int((await client.info("stats"))["total_connections_received"])

        with pytest.raises(StoreError, match="READONLY"):
            await store.swap(KEY, None, b"text", 60)
        await eventually(lambda: store.coherent, "the store is not coherent")
        after = int((await client.info("stats"))["total_connections_received"])
        await client.replicaof("NO", "ONE")

    assert after - before == 2
    assert None in heard
    assert await store.swap(KEY, None, b"text", 60) == (True, b"text")


@pytest.mark.parametrize("message", ["READONLY You can't write", "LOADING Redis is loading", "MASTERDOWN Link is down"])
async def test_a_server_that_cannot_serve_is_left_for_a_new_connection(
    redis_server, redis_url, open_store, away, message
):
    away()
    async with FaultProxy(redis.connection.parse_url(redis_url)["port"]) as proxy:
        store = open_store(proxy.url)
        await store.get(KEY)
        accepted = proxy.accepted
        proxy.on("GET", Fault.ERROR, message=message)

        with pytest.raises(StoreError, match=message.split()[0]):
            await store.get(KEY)

        assert await store.get(KEY) is None
        assert proxy.accepted == accepted + 2
        await store.close()


# --- a Redis that is away ---------------------------------------------------------------------------------------------


async def test_a_redis_that_is_down_at_start_is_an_error_in_time_and_used_as_soon_as_it_comes(
    own_redis, open_store, away
):
    away()
    own_redis.kill()
    store = open_store(own_redis.url, deadline=SOON)

    await store.start()
    failures = await asyncio.gather(*(failure_of(store.get(KEY)) for _ in range(20)))
    await asyncio.to_thread(own_redis.restart)
    await eventually(lambda: works(store), "it did not come back")

    assert all(took.in_all > SOON / 2 and took.waiting < 2 * SOON for _, took in failures)
    await eventually(lambda: store.coherent, "the store is not coherent")


async def test_a_redis_that_comes_within_the_deadline_is_waited_for(own_redis, open_store, away):
    away()
    own_redis.kill()
    store = open_store(own_redis.url)
    writing = asyncio.ensure_future(store.swap(KEY, None, b"text", 60))
    await asyncio.sleep(0)

    await asyncio.to_thread(own_redis.restart)

    assert await writing == (True, b"text")


async def test_a_frozen_redis_is_an_error_in_about_a_second_and_heals_by_itself(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url, deadline=SOON)
    heard = await listen(store)
    await store.swap(KEY, None, b"text", 60)
    own_redis.freeze()

    failures = await asyncio.gather(*(failure_of(store.get(KEY)) for _ in range(20)))
    was_coherent = store.coherent
    reported = None in heard
    failures.append(await failure_of(store.get(KEY)))
    own_redis.thaw()
    await eventually(lambda: works(store), "it did not come back")

    assert all(took.in_all > SOON / 2 and took.waiting < 2 * SOON for _, took in failures)
    assert (was_coherent, reported) == (False, True)
    assert await store.get(KEY) == b"text"
    gc.collect()  # tells of exceptions that nobody has fetched


async def test_a_redis_that_freezes_while_nobody_asks_makes_copies_stale(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url, deadline=SOON)
    heard = await listen(store)

    own_redis.freeze()
    await eventually(lambda: not store.coherent, "it was not noticed")
    own_redis.thaw()
    await eventually(lambda: store.coherent, "the store is not coherent")

    assert set(heard) == {None}


async def test_a_redis_that_dies_makes_copies_stale_at_once(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url)
    heard = await listen(store)

    own_redis.kill()
    await eventually(lambda: not store.coherent, "it was not noticed")
    reported = list(heard)
    await asyncio.to_thread(own_redis.restart)
    await eventually(lambda: store.coherent, "the store is not coherent")

    assert set(reported) == {None}  # once for the loss, and again for each try that failed meanwhile
    assert set(heard) == {None}
    assert len(heard) >= 2  # after coming back, too: whatever was written meanwhile


async def test_losing_the_connection_for_reports_alone_makes_copies_stale(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url)
    heard = await listen(store)
    await store.swap(KEY, None, b"text", 60)

    async with client_of(own_redis) as client:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: None in heard, "the loss was not reported")
        await eventually(lambda: store.coherent, "the store is not coherent")
        assert await store.get(KEY) == b"text"
        heard.clear()
        await client.set(KEY, "other")

    await eventually(lambda: KEY in heard, "the change was not reported")


async def test_a_lasting_loss_is_logged_once(own_redis, open_store, away):
    lines = away()
    store = open_store(own_redis.url, deadline=0.1)
    own_redis.kill()

    for _ in range(5):
        await failure_of(store.get(KEY))

    assert len(lines.records) == 1
    await asyncio.to_thread(own_redis.restart)
    await eventually(lambda: works(store), "it did not come back")


# --- faults on the way ------------------------------------------------------------------------------------------------


@pytest.fixture
async def proxy(redis_url):
    async with FaultProxy(redis.connection.parse_url(redis_url)["port"]) as proxy:
        yield proxy


@pytest.fixture
async def store_behind(proxy, open_store):
    store = open_store(proxy.url)
    await store.swap(KEY, None, b"one", 60)
    yield store
    await store.close()


async def test_a_cut_before_the_command_arrives_stores_nothing_and_says_so(store_behind, proxy, away):
    away()
    proxy.on("EVALSHA", Fault.CUT_BEFORE)

    with pytest.raises(StoreError):
        await store_behind.swap(KEY, b"one", b"two", 60)

    assert await store_behind.get(KEY) == b"one"
    assert await store_behind.swap(KEY, b"one", b"two", 60) == (True, b"two")


async def test_a_cut_before_the_reply_is_never_a_success(store_behind, proxy, away):
    away()
    proxy.on("EVALSHA", Fault.CUT_REPLY)

    with pytest.raises(StoreError):
        await store_behind.swap(KEY, b"one", b"two", 60)

    assert await store_behind.get(KEY) == b"two"  # it is unknown to the caller
    assert proxy.commands["EVALSHA"] == 2  # and was not done twice


async def test_a_cut_after_the_reply_is_a_success(store_behind, proxy, away):
    away()
    proxy.on("EVALSHA", Fault.CUT_AFTER)

    assert await store_behind.swap(KEY, b"one", b"two", 60) == (True, b"two")
    assert await eventually(lambda: works(store_behind), "it did not come back")
    assert await store_behind.get(KEY) == b"two"


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_REPLY])
async def test_a_cut_in_the_middle_of_many_gives_each_its_own_answer_or_an_error(store_behind, proxy, away, fault):
    away()
    keys = [f"sess:{number}" for number in range(100)]
    await asyncio.gather(*(store_behind.swap(key, None, key.encode(), 60) for key in keys))
    proxy.on("GET", fault, chance=0.02)

    results = await asyncio.gather(*(store_behind.get(key) for key in keys), return_exceptions=True)
    proxy.clear()
    again = await asyncio.gather(*(store_behind.get(key) for key in keys))

    for key, result in zip(keys, results, strict=True):
        assert result == key.encode() or isinstance(result, StoreError)
    assert any(isinstance(result, StoreError) for result in results)
    assert again == [key.encode() for key in keys]


async def test_a_reply_that_comes_too_late_reaches_nobody(open_store, proxy, away):
    away()
    store = open_store(proxy.url, deadline=SOON)
    await store.swap("sess:b", None, b"b's", 60)
    proxy.on("GET", Fault.DELAY, seconds=1.3)

    error, _ = await failure_of(store.get(KEY))
    others = await asyncio.gather(*(store.get("sess:b") for _ in range(5)))

    assert "no answer" in str(error)
    assert others == [b"b's"] * 5


async def test_a_cancelled_operation_whose_reply_is_late_shifts_no_answer(store_behind, proxy):
    await store_behind.swap("sess:b", None, b"b's", 60)
    proxy.on("GET", Fault.DELAY, seconds=0.2)
    cancelled = asyncio.ensure_future(store_behind.get(KEY))
    await eventually(lambda: proxy.commands["GET"] == 1, "it was not sent")

    cancelled.cancel()
    answer = await store_behind.get("sess:b")

    assert answer == b"b's"
    assert cancelled.cancelled()


async def test_no_error_tells_a_key_or_a_text(store_behind, proxy, away, expect_log):
    away()
    failures = []
    for fault in (Fault.CUT_BEFORE, Fault.CUT_REPLY, Fault.ERROR):
        proxy.on("EVALSHA", fault)
        failures.append((await failure_of(store_behind.swap(KEY, b"one", b"secret text", 60)))[0])

    assert len(failures) == 3
    for failure in failures:
        assert KEY not in str(failure) + repr(failure)
        assert "secret" not in str(failure) + repr(failure)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def test_operations_that_wait_for_a_redis_that_is_down_are_bounded(own_redis, open_store, away):
    away(comes_back=False)
    own_redis.kill()
    store = open_store(own_redis.url, deadline=SOON, max_waiting=10)

    failures = await failures_in_order(store.get(KEY) for _ in range(1000))

    assert ["10 commands wait" in failure for failure in failures] == [True] * 990 + [False] * 10


async def test_operations_that_wait_for_a_frozen_redis_are_bounded(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url, deadline=SOON, max_waiting=10)
    await store.get(KEY)
    own_redis.freeze()
    waiting = [asyncio.ensure_future(failure_of(store.get(KEY))) for _ in range(5)]
    await asyncio.sleep(0.01)  # these are on the wire

    failures = await failures_in_order(store.get(KEY) for _ in range(1000))
    await asyncio.gather(*waiting)
    own_redis.thaw()
    await eventually(lambda: works(store), "it did not come back")

    assert all("10 commands wait" in failure for failure in failures[:990])


async def test_operations_of_one_turn_leave_in_one_write(redis_url, open_store):
    store = open_store(redis_url)
    await store.get(KEY)

    async with client_of(redis_url) as client:

        async def reads() -> int:
            return int((await client.info("stats"))["total_reads_processed"])

        before = await reads()
        await asyncio.gather(*(store.get(f"sess:{number}") for number in range(200)))
        after = await reads()

    # INFO itself, the store's pings that may fall in between, and the pipeline in the pieces that Redis reads.
    assert after - before < 50


# --- life -------------------------------------------------------------------------------------------------------------


async def test_close_leaves_no_task_and_no_connection(own_redis):
    store = RedisStore(own_redis.url)
    await listen(store)
    mine = asyncio.current_task()

    await store.close()

    assert [task for task in asyncio.all_tasks() if task is not mine] == []
    async with client_of(own_redis) as client:
        await eventually(lambda: only_one_client(client), "connections are left")


async def only_one_client(client) -> bool:
    return len(await client.client_list()) == 1


async def test_close_fails_what_waits_and_what_comes(own_redis, open_store):
    store = open_store(own_redis.url, deadline=10 * PATIENCE)
    await store.get(KEY)
    own_redis.freeze()
    waiting = [asyncio.ensure_future(failure_of(store.get(KEY))) for _ in range(5)]
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(failure_of(store.get(KEY)))  # not yet on the wire

    await within(store.close(), "it waits for Redis")

    assert all("closed" in str(error) for error, _ in await asyncio.gather(*waiting, late))
    error, _ = await failure_of(store.get(KEY))
    assert "closed" in str(error)
    own_redis.thaw()


async def test_close_while_connecting_is_quick(own_redis, open_store):
    own_redis.freeze()
    store = open_store(own_redis.url, deadline=10 * PATIENCE)
    waiting = asyncio.ensure_future(failure_of(store.get(KEY)))
    await asyncio.sleep(0.05)

    await within(store.close(), "it waits for Redis")

    error, _ = await waiting
    assert "closed" in str(error)
    own_redis.thaw()


async def test_many_outages_leave_nothing_behind(own_redis, open_store, away):
    away()
    store = open_store(own_redis.url)
    heard = await listen(store)

    async with client_of(own_redis) as client:
        for _ in range(10):
            heard.clear()
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await eventually(lambda: len(heard) >= 2 and store.coherent, "it did not come back")
        await eventually(lambda: three_clients(client), "connections are left")

    assert len(asyncio.all_tasks()) <= 5


async def three_clients(client) -> bool:
    return len(await client.client_list()) == 3


# --- ways to reach it -------------------------------------------------------------------------------------------------


async def test_a_ready_client_lends_its_settings_and_keeps_its_connections(start_redis, open_store):
    server = start_redis("requirepass keyboard-cat")
    client = aioredis.Redis(port=server.port, password="keyboard-cat", db=3, decode_responses=True)
    store = open_store(client)

    await store.swap(KEY, None, "ä".encode(), 60)
    await store.close()

    assert await client.get(KEY) == "ä"
    await client.aclose()


async def test_a_unix_socket(start_redis, open_store, tmp_path):
    start_redis(f"unixsocket {tmp_path}/redis.sock")
    store = open_store(f"unix://{tmp_path}/redis.sock?db=2")

    assert await store.swap(KEY, None, b"text", 60) == (True, b"text")
    await eventually(lambda: store.coherent, "the store is not coherent")


async def test_a_wrong_password_is_an_error_and_told_to_nobody(start_redis, open_store, expect_log):
    told = expect_log("Redis cannot be reached", logger="sstream.session")
    server = start_redis("requirepass keyboard-cat")
    store = open_store(f"redis://:wrong-one@127.0.0.1:{server.port}", deadline=SOON)

    error, took = await failure_of(store.get(KEY))

    assert took.waiting < 2 * SOON
    assert "wrong-one" not in str(error) + told.records[0].getMessage()


async def test_settings_that_cannot_work_are_told_to_whoever_waits(own_redis, open_store, expect_log):
    expect_log("cannot be reached: unknown encoding", logger="sstream.session")
    store = open_store(aioredis.Redis(port=own_redis.port, encoding="no-such-encoding"), deadline=10 * PATIENCE)

    error, _ = await within(failure_of(store.get(KEY)), "it was not told")

    assert "no-such-encoding" in str(error)


@pytest.mark.parametrize("url", ["http://localhost", "redis+sentinel://localhost:1", "redis://localhost:port"])
async def test_what_is_no_url_of_redis_is_refused_at_once(url):
    with pytest.raises(ConfigurationError, match="not a Redis URL"):
        RedisStore(url)


async def test_tls(redis_url, open_store):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with FaultProxy(redis.connection.parse_url(redis_url)["port"], tls=context) as proxy:
        store = open_store(f"rediss://localhost:{proxy.port}/0?ssl_ca_certs={CERTIFICATE}")

        assert await store.swap(KEY, None, b"text", 60) == (True, b"text")
        await eventually(lambda: store.coherent, "the store is not coherent")
        await store.close()


async def test_an_unknown_certificate_is_refused(redis_url, open_store, expect_log):
    told = expect_log("certificate verify failed", logger="sstream.session")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with FaultProxy(redis.connection.parse_url(redis_url)["port"], tls=context) as proxy:
        store = open_store(f"rediss://localhost:{proxy.port}/0")
        asked = asyncio.ensure_future(failure_of(store.get(KEY)))

        await eventually(lambda: told.records, "it was not refused")
        await store.close()
        await asked


# --- rights -----------------------------------------------------------------------------------------------------------


async def use_everything(store) -> None:
    """All operations, on keys of all kinds, and a report of a change."""
    heard = await listen(store)
    for key in (KEY, "sstream:fate:x"):
        await store.swap(key, None, b"one", 60)
        await store.swap(key, b"one", b"two", 60)
        await store.get(key)
        lasting = Lasting(90)
        await store.touch(key, 90)
        assert await store.ttl(key) == lasting
        await store.delete(key)
    assert heard == []


async def denied(client) -> set[str]:
    """The commands that were refused for lack of a right; redis-py introduces itself with CLIENT SETINFO, in vain."""
    return {entry["object"] for entry in await client.acl_log()} - {"client|setinfo"}


@pytest.fixture
def server_with_users(start_redis):
    """A Redis whose scripts are forgotten, so that EVAL is needed as well."""
    return start_redis()


async def test_a_user_needs_no_more_rights_than_are_told(server_with_users, open_store):
    async with client_of(server_with_users) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">word", *NEEDED_RIGHTS)
        store = open_store(f"redis://app:word@127.0.0.1:{server_with_users.port}/0")

        await use_everything(store)
        heard = await listen(store)
        await store.get(KEY)
        await admin.set(KEY, "foreign")
        await eventually(lambda: KEY in heard, "the change was not reported")

        assert await denied(admin) == set()


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_user_needs_each_of_these_rights(server_with_users, open_store, expect_log, command):
    expect_log(".", logger="sstream.session", required=False)
    rights = [right for right in NEEDED_RIGHTS if right != f"+{command}"]
    async with client_of(server_with_users) as admin:
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">word", *rights)
        store = open_store(f"redis://app:word@127.0.0.1:{server_with_users.port}/0", deadline=0.3)

        async def try_everything() -> bool:
            for operation in (
                lambda: store.swap(KEY, None, b"one", 60),
                lambda: store.get(KEY),
                lambda: store.touch(KEY, 90),
                lambda: store.ttl(KEY),
                lambda: store.delete(KEY),
            ):
                with contextlib.suppress(StoreError):
                    await operation()
            return command in await denied(admin)

        await eventually(try_everything, f"nobody missed {command}")


@pytest.mark.parametrize("right", ["+client|tracking", "+client|id", "+subscribe", "&__redis__:invalidate"])
async def test_without_the_right_to_hear_of_changes_every_read_goes_to_redis(
    server_with_users, open_store, expect_log, monkeypatch, right
):
    expect_log("every call reads its session anew", logger="sstream.session")
    monkeypatch.setattr("sstream.session.server._PING_INTERVAL", 0.05)
    async with client_of(server_with_users) as admin:
        rights = [needed for needed in NEEDED_RIGHTS if needed != right]
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">word", *rights)
        store = open_store(f"redis://app:word@127.0.0.1:{server_with_users.port}/0")

        assert await store.swap(KEY, None, b"text", 60) == (True, b"text")
        await admin.set(KEY, "foreign")

        assert await store.get(KEY) == b"foreign"
        assert store.coherent is False
        await asyncio.sleep(0.1)  # past a ping
        assert await store.get(KEY) == b"foreign"


# --- Sentinel ---------------------------------------------------------------------------------------------------------


async def test_a_sentinel_tells_where_the_primary_is_and_where_it_went(start_redis, open_store, expect_log):
    expect_log(".", logger="sstream.session", required=False)
    primary = start_redis("repl-diskless-sync-delay 0")  # a replica is copied to at once, not after 5 s
    replica = start_redis(f"replicaof 127.0.0.1 {primary.port}")
    async with client_of(primary) as client:

        async def is_followed() -> bool:
            return int((await client.info("replication"))["connected_slaves"]) == 1

        await eventually(is_followed, "the replica has not found its primary")  # a Sentinel looks every 10 s
    sentinel = start_redis(
        f"sentinel monitor tea 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds tea 60000\nsentinel failover-timeout tea 2000",
        sentinel=True,
    )
    store = open_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/tea/0")
    heard = await listen(store)
    await store.swap(KEY, None, b"text", 60)
    async with client_of(replica) as client, client_of(sentinel) as watcher:

        async def is_copied() -> bool:
            return await client.get(KEY) == b"text"

        async def is_known() -> bool:
            return len(await watcher.execute_command("SENTINEL", "REPLICAS", "tea")) == 1

        await eventually(is_copied, "the replica has no copy")
        await eventually(is_known, "the Sentinel does not know the replica")
        primary.kill()
        # Not before: a primary that stood still with the machine would be taken for dead.
        await watcher.execute_command("SENTINEL", "SET", "tea", "down-after-milliseconds", 300)

    async def can_write() -> bool:
        with contextlib.suppress(StoreError):
            return (await store.swap("sess:after", None, b"text", 60))[0]
        return False

    await eventually(can_write, "no primary was found", 3 * PATIENCE)
    assert await store.get(KEY) == b"text"
    assert None in heard
    await eventually(lambda: store.coherent, "the store is not coherent")


def test_it_is_a_session_store():
    assert isinstance(RedisStore(), SessionStore)
