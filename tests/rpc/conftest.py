"""Sockets for the tests of this wing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from tests.rpc.sockets import Socket


@pytest.fixture
def open_socket(io_loop: IOLoop) -> Iterator[Callable[..., Socket]]:
    """``open_socket(HandlerClass, codec, pauses=False, **limits)``; to be used on the running loop."""
    sockets = []

    def open_socket(*args: Any, **kwargs: Any) -> Socket:
        sockets.append(Socket(*args, **kwargs))
        return sockets[-1]

    yield open_socket

    async def close() -> None:
        for socket in sockets:
            socket.calls.close()

    io_loop.run_sync(close)
