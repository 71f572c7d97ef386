"""A Redis server of one's own."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from sstream.testing import ProcessError, RedisServer, redis as testing_redis


@pytest.fixture
def server(own_redis: RedisServer) -> RedisServer:
    return own_redis


@pytest.fixture
def start(need: Callable[..., Any]) -> Iterator[Callable[..., RedisServer]]:
    servers: list[RedisServer] = []

    def start(*args: Any, **options: Any) -> RedisServer:
        server: RedisServer = need(lambda: RedisServer(*args, **options))
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def connect(server: RedisServer, **options: Any) -> redis.Redis:
    return redis.Redis.from_url(server.url, retry=None, socket_timeout=5, **options)


def test_it_answers_as_soon_as_it_is_made(server: RedisServer) -> None:
    with connect(server) as client:
        assert client.ping()


def test_it_listens_on_this_machine_alone_and_keeps_nothing(server: RedisServer) -> None:
    with connect(server) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert Path(client.config_get("dir")["dir"]) == server.directory


def test_stop_removes_its_directory_and_frees_the_port(server: RedisServer) -> None:
    server.stop()

    assert not server.directory.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_stop_is_safe_to_call_twice(server: RedisServer) -> None:
    server.stop()
    server.stop()


def test_restart_comes_back_empty_on_the_same_port(server: RedisServer) -> None:
    port, pid = server.port, server.pid
    with connect(server) as client:
        client.set("tea", "green")

    server.restart()

    assert server.port == port
    assert server.pid != pid
    with connect(server) as client:
        assert client.get("tea") is None


def test_restart_after_kill(server: RedisServer) -> None:
    server.kill()
    with connect(server) as client, pytest.raises(redis.ConnectionError):
        client.ping()

    server.restart()

    with connect(server) as client:
        assert client.ping()


def test_restart_after_stop(server: RedisServer) -> None:
    server.stop()

    server.restart()

    with connect(server) as client:
        assert client.ping()


def test_data_outlives_a_restart_where_the_config_says_so(start: Callable[..., RedisServer]) -> None:
    server = start("appendonly yes\nappendfsync always")
    with connect(server) as client:
        client.set("tea", "green")

    server.restart()

    with connect(server) as client:
        assert client.get("tea") == b"green"


def test_frozen_server_accepts_and_does_not_answer_until_thawed(server: RedisServer) -> None:
    server.freeze()

    with socket.create_connection(("127.0.0.1", server.port), timeout=0.1) as connection:
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(64)
        server.thaw()
        connection.settimeout(5)
        assert connection.recv(64) == b"+PONG\r\n"


def test_server_with_a_password_is_up(start: Callable[..., RedisServer]) -> None:
    server = start("requirepass secret")

    with connect(server, password="secret") as client:
        assert client.ping()


def test_server_with_users_is_up(start: Callable[..., RedisServer]) -> None:
    server = start("user default off\nuser tea on >secret ~sess:* +get +ping")

    with connect(server, username="tea", password="secret") as client:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.set("sess:1", "x")


def test_cluster_of_one_node(start: Callable[..., RedisServer]) -> None:
    server = start("cluster-enabled yes")

    with connect(server) as client:
        assert client.info("cluster")["cluster_enabled"] == 1


def test_sentinel_finds_its_primary(server: RedisServer, start: Callable[..., RedisServer]) -> None:
    sentinel = start(f"sentinel monitor tea 127.0.0.1 {server.port} 1", sentinel=True)

    with connect(sentinel) as client:
        address = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tea")

    assert [bytes(part) if isinstance(part, bytes) else str(part).encode() for part in address] == [
        b"127.0.0.1",
        str(server.port).encode(),
    ]


def test_bad_config_is_told_with_the_log(start: Callable[..., RedisServer]) -> None:
    with pytest.raises(ProcessError, match=r"on port \d+ ended; it wrote:(?s:.*)no-such-directive"):
        start("no-such-directive yes")


def test_port_in_use_is_told(server: RedisServer, start: Callable[..., RedisServer]) -> None:
    with pytest.raises(ProcessError, match=rf"on port {server.port} ended; it wrote:(?s:.*)[Aa]ddress already in use"):
        start(port=server.port)


def test_free_port_that_was_taken_in_between_is_tried_anew(
    server: RedisServer, start: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([server.port, testing_redis._free_port()])
    monkeypatch.setattr(testing_redis, "_free_port", lambda: next(ports))

    second = start()

    assert second.port != server.port
    with connect(second) as client:
        assert client.info("server")["process_id"] == second.pid


def test_server_that_never_answers_is_told(
    start: Callable[..., RedisServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = tmp_path / "mute-server"
    spoken = tmp_path / "spoken"
    mute.write_text(f"#!/bin/sh\necho I shall say nothing\ntouch {spoken}\nexec sleep 60\n")
    mute.chmod(0o755)
    # Time passes when it has said so.
    clock = SimpleNamespace(monotonic=lambda: 60.0 if spoken.exists() else 0.0, sleep=time.sleep)
    monkeypatch.setattr(testing_redis, "time", clock)

    with pytest.raises(ProcessError, match=r"did not answer within 30 s; it wrote:\nI shall say nothing"):
        start(binary=mute)


def test_log_is_the_servers_own(server: RedisServer) -> None:
    assert re.search("Ready to accept connections", server.log)
