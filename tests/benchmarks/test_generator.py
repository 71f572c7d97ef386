"""The load generator against real servers: every answer is counted, and nothing else."""

import json
import resource
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from benchmarks.generator import CompilerMissing, Generator, GeneratorError, Programs, encode_request
from benchmarks.histogram import bucket_of
from benchmarks.servers import BareEcho, Server

SECONDS = 0.2
LONG = 2.0  # where a machine that stands still for some tenths of a second would leave nothing to look at


@pytest.fixture
def load(programs: Programs, server: Server) -> Iterator[Generator]:
    with server.load(programs) as generator:
        yield generator


@pytest.mark.parametrize("depth", [1, 16])
def test_closed_loop_counts_what_the_server_answered(load: Generator, depth: int) -> None:
    load.open(5)
    load.request("add", 2, 3)

    began = time.monotonic()
    measured = load.closed(depth, LONG, 0.05)
    took = time.monotonic() - began

    assert measured.messages > 0
    assert measured.errors == {}
    assert measured.unanswered == 0
    # Timed is what left within the time, counted what was answered within it.
    assert abs(measured.histogram.total - measured.messages) <= 5 * depth
    assert 0 < measured.fewest <= measured.messages / 5 <= measured.most
    assert measured.seconds >= LONG
    assert 0 < measured.cpu <= took  # it has one core, and each thread is counted once


def test_schedule_is_kept_and_latency_counts_from_when_a_call_was_due(load: Generator) -> None:
    load.open(4)
    load.request("add", 2, 3)

    measured = load.paced(500, 0.4, 0.0)

    assert measured.unanswered == measured.unsent == 0
    assert measured.histogram.total == pytest.approx(200, rel=0.1)


def test_server_that_stands_still_is_charged_for_all_who_wait(programs: Programs) -> None:
    # It answers the handshake at once, and the first call 0.3 s late; over 100 calls fall due in that time.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        still = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                waiting, data = b"", connection.recv(65536)
                still.wait(0.3)  # it never comes
                size = 6 + len(encode_request("msgpack", "add", 2, 3)[0])
                while data:
                    waiting += data
                    while len(waiting) >= size:
                        frame, waiting = waiting[:size], waiting[size:]
                        payload = bytes(byte ^ frame[2 + at % 4] for at, byte in enumerate(frame[6:]))
                        connection.sendall(bytes([0x82, len(payload)]) + payload)
                    data = connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        with Generator(programs.find("load"), listener.getsockname()[1]) as load:
            load.open(1)
            load.request("add", 2, 3)

            measured = load.paced(400, 0.5, 0.0)

        thread.join()

    assert measured.unanswered == 0
    assert measured.histogram.total == pytest.approx(200, rel=0.1)
    assert measured.histogram.percentile(60) > 50_000_000
    assert measured.histogram.percentile(100) > 250_000_000


def test_fan_out_counts_each_delivery(load: Generator) -> None:
    load.open(11)
    load.request("publish", "hello")

    measured = load.fanout(16, SECONDS, 0.05)

    assert measured.errors == {}
    assert measured.histogram.total == measured.messages
    assert measured.seconds >= SECONDS


def test_fan_out_measures_whole_batches(load: Generator) -> None:
    load.open(11)
    load.request("publish", "hello")

    measured = load.fanout(16, SECONDS, 0.05)
    one = load.fanout(16, 0.0, 0.0)

    # Everybody has got all that was published, and the publisher is not counted.
    assert measured.fewest == measured.most >= 16
    assert measured.most % 16 == 0
    assert measured.messages == 10 * measured.most
    assert one.messages == 160


def test_batch_that_takes_as_long_as_was_asked_for_is_measured_though_it_is_the_first(programs: Programs) -> None:
    # It waits before it sends the events, longer than both times together.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        event = msgspec.msgpack.encode([2, "message", ["hello"]])
        slow = threading.Event()
        batches = []

        def serve() -> None:
            with ExitStack() as stack:
                connections = []
                for _ in range(2):
                    connections.append(stack.enter_context(listener.accept()[0]))
                    connections[-1].recv(4096)
                    connections[-1].sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                while connections[0].recv(4096):
                    batches.append(1)
                    slow.wait(0.3)  # it never comes
                    connections[1].sendall((bytes([0x82, len(event)]) + event) * 16)

        thread = threading.Thread(target=serve)
        thread.start()
        with Generator(programs.find("load"), listener.getsockname()[1]) as load:
            load.open(2, 1)
            load.request("publish", "hello")
            measured = load.fanout(16, 0.1, 0.1)
        thread.join()

    assert measured.messages == 16
    assert measured.seconds >= 0.3
    assert len(batches) == 1


def test_some_call_and_the_others_rest(load: Generator) -> None:
    load.open(5)
    load.request("add", 2, 3)

    measured = load.closed(1, SECONDS, 0.05, callers=2)

    assert measured.errors == {}
    assert measured.fewest > 0
    assert measured.messages == measured.fewest + measured.most
    assert measured.open == 5
    with pytest.raises(GeneratorError, match="not so many connections were opened"):
        load.closed(1, SECONDS, callers=6)


def test_errors_are_counted_by_code(load: Generator) -> None:
    load.open(2)
    load.request("no_such_method")

    measured = load.closed(1, SECONDS, 0.05)

    assert list(measured.errors) == ["error -32601"]
    # The last ones come home after the time is over.
    assert 0 <= measured.errors["error -32601"] - measured.messages <= 2


def test_pages_are_counted_and_their_status_looked_at(programs: Programs, server: Server) -> None:
    with server.load(programs, dialect="http", path="/_sstream/health/live") as load:
        load.open(2)
        fine = load.closed(1, SECONDS, 0.05)
    with server.load(programs, dialect="http", path="/nowhere") as load:
        load.open(2)
        missing = load.closed(1, SECONDS, 0.05)

    assert fine.messages > 0
    assert fine.errors == {}
    assert list(missing.errors) == ["HTTP 404"]


def test_cookies_are_given_out_in_turn(programs: Programs, server: Server) -> None:
    cookies = server.cookies(2)
    with server.load(programs, path="/session", cookies=cookies) as load:
        load.open(4)
        load.request("write")
        load.closed(1, SECONDS, 0.0)

    counts = [server.call("read", cookie=cookie, path="/session") for cookie in cookies]

    assert all(count > 0 for count in counts)


def test_handshakes_are_timed_and_refusals_counted(programs: Programs, server: Server) -> None:
    with server.load(programs, path="/ws") as load:
        opened = load.open(20, 5)
        load.drop(20)
        again = load.open(20, 20)
    with server.load(programs, path="/nowhere") as load:
        refused = load.open(3)

    assert opened.opened == again.opened == opened.histogram.total == 20
    assert refused.opened == 0
    assert refused.errors == {"refused: HTTP 404": 3}


def test_as_many_connections_as_files_may_be_open_come_back_after_they_were_lost(
    programs: Programs, server: Server
) -> None:
    with server.load(programs) as load:
        resource.prlimit(load.pid, resource.RLIMIT_NOFILE, (250, 250))
        assert load.open(120).opened == 120

        for _ in range(3):
            load.drop(100)
            assert load.open(100, 100).opened == 100
        with pytest.raises(GeneratorError, match="more connections than files may be open: see ulimit -n"):
            load.open(100)


def test_lost_subscriber_is_counted_and_the_others_are_measured(programs: Programs) -> None:
    # Answers each publish with an event for everybody; one of the four listens no more after its first event. With the
    # fifth publish there is enough to look at.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        event = msgspec.msgpack.encode([2, "message", ["hello"]])
        frame = bytes([0x82, len(event)]) + event

        def serve() -> None:
            with ExitStack() as stack:
                connections = []
                for _ in range(4):
                    connections.append(stack.enter_context(listener.accept()[0]))
                    connections[-1].recv(4096)
                    connections[-1].sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                published = 0
                while connections[0].recv(4096):
                    published += 1
                    if published == 5:
                        load.interrupt()
                    for connection in connections[1:]:
                        connection.sendall(frame)
                    if len(connections) == 4:
                        connections.pop().close()

        thread = threading.Thread(target=serve)
        thread.start()
        with Generator(programs.find("load"), listener.getsockname()[1]) as load:
            load.open(4, 1)
            load.request("publish", "hello")
            measured = load.fanout(1, 60.0, 0.0)
        thread.join()

    assert measured.errors == {"connection lost": 1}
    assert measured.open == 3
    assert measured.messages > 5
    assert measured.most - measured.fewest <= 1


def test_calls_are_timed_while_everybody_hears_events(load: Generator) -> None:
    load.open(30)
    load.request("add", 2, 3)

    measured = load.paced_beside_events(200, 0.5, 0.0, callers=5, event=("publish", "hello"), every=0.1)

    assert measured.errors == {}
    assert measured.unanswered == 0
    assert measured.histogram.total == pytest.approx(100, rel=0.1)
    # Five or six events, each to everybody; those that come after the end are not counted.
    assert 30 <= measured.events <= 7 * 30
    assert measured.fewest == 0  # most only listen
    assert 0 < measured.most <= 22  # what five answered in the time; a stalled machine answers some after it
    assert measured.late > 0


def test_nobody_listening_is_told(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Generator(programs.find("load"), port) as load:
        assert load.open(2).errors == {"connection refused": 2}
        load.request("add", 2, 3)
        with pytest.raises(GeneratorError, match="no connections are open"):
            load.closed(1, SECONDS)


def test_bare_echo_sends_back_what_it_gets(programs: Programs) -> None:
    with BareEcho(programs) as echo, echo.load(programs) as load:
        load.open(3)
        load.request("echo", "x" * 900)
        measured = load.closed(16, SECONDS, 0.05)

    assert measured.messages > 0
    assert measured.errors == {}
    assert measured.unanswered == 0


def test_generator_puts_latencies_into_the_buckets_that_we_read(load: Generator) -> None:
    load.open(1)
    load.request("add", 2, 3)

    measured = load.closed(1, LONG, 0.0)

    # One connection, one call at a time: the latencies fill the time, but for what the generator itself takes.
    filled = sum(count * bucket for bucket, count in measured.histogram.counts)
    assert filled > 0
    assert bucket_of(round(measured.seconds * 1e9)) > max(bucket for bucket, _ in measured.histogram.counts)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with Programs() as programs, pytest.raises(CompilerMissing, match="install gcc"):
        programs.find("load")


def test_request_of_a_socketio_call_asks_for_an_ack_and_a_publish_for_none() -> None:
    assert encode_request("socketio", "add", 2, 3) == (b'420["add", 2, 3]', -1)
    assert json.loads(encode_request("socketio", "publish", "x")[0][2:]) == ["publish", "x"]
