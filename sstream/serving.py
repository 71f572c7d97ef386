"""Serves until a signal asks the process to end, then lets it go down gently."""

import asyncio
import importlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from sstream.errors import ConfigurationError

__all__ = ["LOOPS", "SIGNALS", "end_by", "loop_factory", "serve_until_signal", "urls_of"]

_log = logging.getLogger("sstream")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
LOOPS: Final = ("auto", "asyncio", "uvloop")


class Serving(Protocol):
    """What is asked of an `Application`."""

    @property
    def in_flight(self) -> str: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...


async def serve_until_signal(
    application: Serving, ending: asyncio.Event | None = None, *, hurry: Collection[signal.Signals] = SIGNALS
) -> None:
    """Return when SIGTERM or SIGINT has come, and the application has answered what was in flight and closed.

    A second signal ends the process at once, by that signal, and a line in the log says what was cut.

    Args:
        ending: Whoever sets it asks for the end as well.
        hurry: Which signals end it at once when they come second; others say nothing new then.
    """
    loop = asyncio.get_running_loop()
    asked = ending if ending is not None else asyncio.Event()
    came = False  # a signal; `ending` may have been set without one

    def on_signal(number: signal.Signals) -> None:
        nonlocal came
        if came and number not in hurry:
            return
        if came:
            _log.warning("%s came again: ending at once, which cuts %s", number.name, application.in_flight)
            end_by(number)
        came = True
        _log.info("%s: going down", number.name)
        asked.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await asked.wait()
        await application.drain()
    finally:
        await application.close()
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def end_by(number: signal.Signals) -> None:
    """End this process by a signal, as if it had never been caught; does not return."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def loop_factory(name: str = "auto") -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop of a program: "asyncio", "uvloop", or with "auto" uvloop where it is installed.

    Raises:
        ConfigurationError: There is no such loop, or it is not installed.
    """
    if name not in LOOPS:
        raise ConfigurationError(f"there is no event loop {name!r}; legal are {', '.join(LOOPS)}")
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError as error:
        if name == "auto":
            return asyncio.new_event_loop
        raise ConfigurationError("uvloop is not installed: pip install uvloop") from error
    return factory


def urls_of(sockets: Iterable[socket.socket], scheme: str = "http") -> str:
    """Where a browser finds what listens on ``sockets``: ``http://127.0.0.1:8888 and http://[::1]:8888``."""
    urls = []
    for listening in sockets:
        host, port, *_ = listening.getsockname()
        urls.append(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    return " and ".join(sorted(urls, key=len, reverse=True))
