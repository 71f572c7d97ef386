"""The broker on a Redis Cluster of three shards and a replica, small and real."""

import contextlib
import time

import pytest
import redis
import redis.asyncio as aioredis
from redis.crc import key_slot

from sstream.errors import BrokerError
from sstream.pubsub import RedisBroker
from sstream.testing import RedisServer
from tests.ports import free_port

from .contract import LOBBY, BrokerContract, event
from .listening import LAST_TEN, Ear, eventually

SHARDS = 3
PATIENCE = 30.0  # seconds for the servers to agree; only a failure meets it


class SmallCluster:
    """Three primaries and one replica, of the first."""

    def __init__(self):
        with contextlib.ExitStack() as stack:
            config = "cluster-enabled yes\ncluster-node-timeout 500\ncluster-replica-validity-factor 0\n"
            config += "repl-diskless-sync-delay 0"  # the replica is copied to at once, not after 5 s
            self.servers = [stack.enter_context(RedisServer(config)) for _ in range(SHARDS + 1)]
            self.clients = [stack.enter_context(redis.Redis.from_url(server.url)) for server in self.servers]
            for client, one in zip(self.clients, self.servers, strict=True):
                for other in self.servers:
                    if other is not one:
                        client.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
            self.ids = [client.execute_command("CLUSTER MYID") for client in self.clients]
            self.until(lambda: all(self.known_by(client) == {*self.ids} for client in self.clients))
            step = -(-16384 // SHARDS)
            for number, client in enumerate(self.clients[:SHARDS]):
                client.execute_command("CLUSTER ADDSLOTSRANGE", step * number, min(step * (number + 1), 16384) - 1)
            self.clients[-1].execute_command("CLUSTER REPLICATE", self.ids[0])
            self.be_patient(60.0)
            self.until(lambda: all(self.info(client)["cluster_state"] == "ok" for client in self.clients))
            self.until(lambda: self.clients[-1].info("replication").get("master_link_status") == "up")
            self.stack = stack.pop_all()

    def be_patient(self, seconds):
        """Let the servers take a silent one for dead after so long; when the machine stands still, all are silent."""
        for client in self.clients:
            client.config_set("cluster-node-timeout", round(seconds * 1000))

    @staticmethod
    def info(client):
        return client.execute_command("CLUSTER INFO")

    @staticmethod
    def known_by(client):
        return {node["node_id"].encode() for node in client.execute_command("CLUSTER NODES").values()}

    @staticmethod
    def until(condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    @property
    def url(self):
        return f"redis+cluster://127.0.0.1:{self.servers[1].port},127.0.0.1:{self.servers[2].port}"

    def flush(self):
        for client in self.clients[:SHARDS]:
            client.flushall()

    def owner(self, channel):
        """The number of the shard that has the slot of a channel."""
        slot = key_slot(f"sstream:{channel}".encode())
        for first, last, (_, port, *_), *_ in self.clients[1].execute_command("CLUSTER SLOTS", NEVER_DECODE=1):
            if first <= slot <= last:
                return [server.port for server in self.servers].index(port)
        raise AssertionError(slot)

    def move(self, channel, to):
        """Hand the slot of a channel, empty, to another shard."""
        slot = key_slot(f"sstream:{channel}".encode())
        former = self.owner(channel)
        # As redis-cli does it; the first step gives the new owner a newer epoch, so that the others believe it.
        self.clients[to].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.ids[former])
        self.clients[former].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.ids[to])
        self.clients[to].execute_command("CLUSTER SETSLOT", slot, "NODE", self.ids[to])
        self.clients[former].execute_command("CLUSTER SETSLOT", slot, "NODE", self.ids[to])


@pytest.fixture(scope="module")
def cluster(need):
    cluster = need(SmallCluster)
    with cluster.stack:
        yield cluster


@pytest.fixture
def url(cluster):
    cluster.flush()
    return cluster.url


class TestClusterBroker(BrokerContract):
    @pytest.fixture
    def broker(self, url):
        return RedisBroker(url, deadline=10.0)

    @pytest.fixture
    def other(self, cluster, url):
        return RedisBroker(aioredis.RedisCluster(host="127.0.0.1", port=cluster.servers[0].port), deadline=10.0)

    @pytest.fixture
    def pass_time(self, cluster):
        async def pass_time(seconds):
            for client in cluster.clients[:SHARDS]:
                for key in client.keys("sstream:*"):
                    if b":until:" in key:
                        for member in client.zrange(key, 0, -1):
                            client.zincrby(key, -seconds * 1000, member)
                    elif b":users:" not in key:
                        left = client.pttl(key) - round(seconds * 1000)
                        client.pexpire(key, left) if left > 0 else client.delete(key)

        return pass_time

    @pytest.fixture
    def set_offset(self, cluster):
        async def set_offset(topic, offset):
            client = cluster.clients[cluster.owner(topic)]
            client.hset(f"sstream:position:{{sstream:{topic}}}", "offset", offset)

        return set_offset

    async def test_event_travels_in_its_shard_alone(self, broker, ear, cluster):
        await broker.subscribe([f"user:{number}" for number in range(60)])

        per_shard = [len(client.execute_command("PUBSUB SHARDCHANNELS")) for client in cluster.clients[:SHARDS]]

        assert sum(per_shard) == 60
        assert min(per_shard) > 0

    async def test_publish_follows_a_slot_that_has_moved(self, broker, ear, cluster):
        topic = "user:moving"
        await broker.publish(topic, event(1))
        cluster.move(topic, (cluster.owner(topic) + 1) % SHARDS)

        first = await broker.publish(topic, event(2), LAST_TEN)
        second = await broker.publish(topic, event(3), LAST_TEN)

        assert (first.offset, second.offset) == (1, 2)

    async def test_subscription_follows_a_slot_that_has_moved_and_tells(self, broker, ear, cluster, expect_log):
        expect_log("listening to Redis again")
        await broker.subscribe([LOBBY, "all"])
        cluster.move(LOBBY, (cluster.owner(LOBBY) + 1) % SHARDS)

        await ear.loses(LOBBY)
        await broker.publish(LOBBY, event(1))

        assert await ear.hears(1) == [["n", [1]]]
        assert ear.lost == [LOBBY]
        assert broker.connected

    async def test_subscription_made_after_the_move_goes_to_the_new_place(self, broker, ear, cluster):
        topic = "user:late"
        await broker.subscribe(["all"])
        cluster.move(topic, (cluster.owner(topic) + 1) % SHARDS)
        with contextlib.suppress(BrokerError):  # it asked the former place, and says so
            await broker.subscribe([topic])

        await eventually(lambda: broker.connected)
        await broker.subscribe([topic])
        await broker.publish(topic, event(1))

        assert await ear.hears(1) == [["n", [1]]]

    async def test_unsubscribed_channel_is_left_nowhere(self, broker, ear, cluster):
        await broker.subscribe([LOBBY, "all"])
        await broker.unsubscribe([LOBBY])
        await broker.subscribe(["user:marker"])

        channels = [name for client in cluster.clients for name in client.execute_command("PUBSUB SHARDCHANNELS")]
        assert sorted(channels) == [b"sstream:all", b"sstream:user:marker"]


async def test_cluster_that_is_away_is_an_error_in_time():
    broker = RedisBroker(f"redis+cluster://127.0.0.1:{free_port()}", deadline=0.2)
    await broker.start(Ear())

    with pytest.raises(BrokerError, match="in time"):
        await broker.publish("all", event(1))
    with pytest.raises(BrokerError, match="in time"):
        await broker.subscribe(["all"])

    assert not broker.connected
    await broker.close()
    await broker.close()


async def test_replica_that_takes_over_is_followed(cluster, url, expect_log):
    expect_log("", "sstream.pubsub", required=False)
    topic = next(f"user:{number}" for number in range(100) if cluster.owner(f"user:{number}") == 0)
    ear = Ear()
    broker = RedisBroker(url, deadline=PATIENCE, ping_interval=0.2)
    await broker.start(ear)
    await broker.subscribe([topic])

    cluster.be_patient(0.5)
    cluster.servers[0].kill()
    await ear.loses(topic)
    await broker.publish(topic, event(1))

    assert await ear.hears(1) == [["n", [1]]]
    await broker.close()
