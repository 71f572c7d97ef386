"""One Redis server and its two connections, which are given up together, and alone."""

import asyncio

from sstream.backend.connector import Connector
from sstream.session.server import Server
from sstream.testing import eventually, within


async def test_whoever_hears_of_the_end_of_an_old_connection_late_leaves_the_new_one_alone(redis_url, expect_log):
    expect_log("Redis cannot be reached: it is slow", count=1)
    expect_log("Redis is back", count=1)
    lost = []
    server = Server(
        Connector(redis_url, timeout=20.0),
        deadline=20.0,
        max_waiting=100,
        on_report=lambda key: None,
        on_away=lambda: lost.append("once"),
    )
    server.start()
    try:
        await eventually(lambda: server.coherent, "it did not connect")
        old = server._ears
        server._pipe.lose(ConnectionError("it is slow"))
        await eventually(lambda: server.coherent, "it did not connect again")

        # As it would be if its task had got no turn until now.
        await within(asyncio.create_task(server._hear(old)), "it hears of no end")

        assert server.coherent
        assert lost == ["once"]
        assert await server.send("key", "PING") == b"PONG"
    finally:
        await server.close()
