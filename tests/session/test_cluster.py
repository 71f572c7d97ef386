"""Sessions in a real Redis Cluster of three servers: every key finds its server, and every server reports changes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio as aioredis

from sstream.session.redis import RedisStore
from sstream.testing import RedisServer, find_redis_server

KEYS = [f"sess:{number}" for number in range(30)]  # they spread over all three servers
PATIENCE = 20.0


@pytest.fixture(scope="module")
def cluster(need: Callable[..., Any]) -> Iterator[list[RedisServer]]:
    """One for all tests; the last two change it."""
    need(find_redis_server)
    with contextlib.ExitStack() as stack:
        # A server that stands still with the machine is not dead.
        config = "cluster-enabled yes\ncluster-node-timeout 60000"
        servers = [stack.enter_context(RedisServer(config)) for _ in range(3)]
        clients = [stack.enter_context(redis.Redis(port=server.port)) for server in servers]
        bounds = [0, 5461, 10923, 16384]
        for client, first, end in zip(clients, bounds, bounds[1:], strict=False):
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for server in servers[1:]:
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port)
        deadline = time.monotonic() + PATIENCE
        while not all(_is_complete(client.execute_command("CLUSTER INFO")) for client in clients):
            assert time.monotonic() < deadline, "the servers do not agree"
            time.sleep(0.02)
        yield servers


def _is_complete(info: dict[str, str]) -> bool:
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", "3")


@pytest.fixture
async def store(cluster: list[RedisServer]) -> AsyncIterator[RedisStore]:
    for server in cluster:
        with redis.Redis(port=server.port) as client:
            client.flushall()
    # Only one address is given: the others are found.
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster[0].port}", deadline=PATIENCE)
    yield store
    await store.close()


@pytest.fixture
def server_of(cluster: list[RedisServer]) -> Callable[[str], RedisServer]:
    from redis.crc import key_slot

    return lambda key: cluster[min(key_slot(key.encode()) // 5461, 2)]


async def test_every_key_is_stored_read_swapped_and_removed_wherever_it_lies(store: RedisStore) -> None:
    made = await asyncio.gather(*(store.swap(key, None, b"1", 100) for key in KEYS))
    swapped = await asyncio.gather(*(store.swap(key, b"1", b"2", 100) for key in KEYS))
    read = await asyncio.gather(*(store.get(key) for key in KEYS))
    removed = await asyncio.gather(*(store.delete(key) for key in KEYS))

    assert made == [(True, b"1")] * len(KEYS)
    assert swapped == [(True, b"2")] * len(KEYS)
    assert read == [b"2"] * len(KEYS)
    assert all(removed)


async def test_a_foreign_write_on_any_server_is_reported(
    store: RedisStore, cluster: list[RedisServer], server_of: Callable[[str], RedisServer]
) -> None:
    reported: asyncio.Queue[str | None] = asyncio.Queue()
    await asyncio.gather(*(store.get(key) for key in KEYS))
    async with asyncio.timeout(PATIENCE):
        while not store.coherent:
            await asyncio.sleep(0.02)
    await asyncio.gather(*(store.get(key) for key in KEYS))
    store.watch(reported.put_nowait)

    for key in KEYS:
        client = aioredis.Redis(port=server_of(key).port)
        await client.set(key, "foreign")
        await client.aclose()
    async with asyncio.timeout(PATIENCE):
        heard = {await reported.get() for _ in KEYS}

    assert heard == set(KEYS)


async def test_a_slot_that_moved_is_found_on_its_new_server(
    store: RedisStore, cluster: list[RedisServer], server_of: Callable[[str], RedisServer]
) -> None:
    from redis.crc import key_slot

    key = KEYS[0]
    await store.swap(key, None, b"1", 100)
    source = server_of(key)
    target = next(server for server in cluster if server is not source)
    one, other = aioredis.Redis(port=source.port), aioredis.Redis(port=target.port)
    slot = key_slot(key.encode())
    source_id = (await one.execute_command("CLUSTER", "MYID")).decode()
    target_id = (await other.execute_command("CLUSTER", "MYID")).decode()
    await other.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    await one.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    await one.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 2000)
    for client in (other, one):
        await client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    text = await store.get(key)

    assert text == b"1"
    await one.aclose()
    await other.aclose()


async def test_a_server_that_is_lost_makes_copies_stale_and_its_keys_an_error(
    store: RedisStore,
    cluster: list[RedisServer],
    server_of: Callable[[str], RedisServer],
    expect_log: Callable[..., Any],
) -> None:
    await asyncio.gather(*(store.get(key) for key in KEYS))
    async with asyncio.timeout(PATIENCE):
        while not store.coherent:
            await asyncio.sleep(0.02)
    expect_log("cannot be reached", "sstream.session")
    expect_log("cluster cannot be reached", "sstream.session", required=False)
    reported: asyncio.Queue[str | None] = asyncio.Queue()
    store.watch(reported.put_nowait)

    cluster[1].kill()
    async with asyncio.timeout(PATIENCE):
        while await reported.get() is not None:
            pass

    assert not store.coherent
