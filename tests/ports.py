"""Ports for programs that want to be told one."""

import os
import random
import socket

__all__ = ["free_port"]

# Of several processes that share the tests each has its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10


def free_port() -> int:
    """A port that was free a moment ago, with free ones behind it.

    The kernel gives none from there to those who ask for any (Linux: from 32768 on), so they stay free.
    """
    while True:
        port = random.randrange(20_000 + 1000 * _WORKER, 21_000 + 1000 * _WORKER, 10)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
