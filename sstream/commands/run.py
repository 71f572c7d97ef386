"""Serves an application, in one process or in several that share what they listen to."""

import argparse
import asyncio
import contextlib
import inspect
import logging
import os
import socket
import sys
from typing import Any, Final

from tornado.netutil import bind_sockets

from sstream.application import Application
from sstream.commands.supervisor import HURRY, Leash, Supervisor
from sstream.commands.target import load, their_code
from sstream.errors import ConfigurationError
from sstream.pubsub import MemoryBroker
from sstream.serving import LOOPS, loop_factory, serve_until_signal, urls_of
from sstream.session.store import MemoryStore

__all__ = ["add_command"]

_log = logging.getLogger("sstream")

_BACKLOG: Final = 1024  # connections that may wait to be accepted
_FORMAT: Final = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def add_command(commands: Any) -> None:
    """Add ``run``."""
    parser = commands.add_parser(
        "run",
        help="serve an application, in one process or in several",
        description="Serve an application. SIGTERM or Ctrl-C lets it answer what is in flight and end with status 0; "
        "a second one ends it at once. With debug=True and one process it begins anew when a file was changed.",
    )
    parser.add_argument("app", metavar="module:app", help="an Application, or a function that makes one")
    parser.add_argument("--port", type=port, default=8888, help="where to listen (8888); 0 chooses a free one")
    parser.add_argument(
        "--address",
        default="localhost",
        help="on which address (localhost); 0.0.0.0 is every one of IPv4, '' every one",
    )
    parser.add_argument(
        "--processes", type=count, default=1, metavar="N", help="so many, a dead one is replaced (1); auto: one a core"
    )
    parser.add_argument("--loop", choices=LOOPS, default="auto", help="the event loop; auto is uvloop if installed")
    parser.add_argument("--no-reload", action="store_true", help="do not begin anew when a file was changed")
    parser.add_argument(
        "--xheaders",
        action="store_true",
        help="trust X-Forwarded-For, X-Forwarded-Proto and their like, of a proxy in front",
    )
    # What a supervisor gives to the processes that it starts.
    parser.add_argument("--sockets", type=descriptors, default=[], help=argparse.SUPPRESS)
    parser.add_argument("--leash", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def count(text: str) -> int:
    """A number of processes; ``auto`` is one for each core that this process may use."""
    number = _cores() if text == "auto" else int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _cores() -> int:
    # macOS does not say which of them this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def port(text: str) -> int:
    """A port. Of a larger number the system would take what is left of it in 16 bits."""
    number = int(text)
    if not 0 <= number < 65536:
        raise ValueError(text)
    return number


def descriptors(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(number) for number in text.split(",")]


def run(options: argparse.Namespace) -> int:
    """Serve, until a signal asks for the end."""
    factory = loop_factory(options.loop)
    with contextlib.ExitStack() as closing:
        if options.leash is not None:
            leash = Leash(closing.enter_context(socket.socket(fileno=options.leash)))
            sockets = [closing.enter_context(socket.socket(fileno=number)) for number in options.sockets]
            return _run_here(factory, serve(options, sockets, leash))
        try:
            sockets = bind_sockets(options.port, options.address, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {options.address}:{options.port}: {error.strerror}") from error
        for listening in sockets:
            closing.enter_context(listening)
        if options.processes == 1:
            return _run_here(factory, serve(options, sockets))
        logging.basicConfig(level=logging.INFO, format=_FORMAT)
        return asyncio.run(Supervisor(_command(options), options.processes, sockets).run())


def _command(options: argparse.Namespace) -> list[str]:
    """What starts one of several processes."""
    arguments = [options.app, "--loop", options.loop, *(["--xheaders"] if options.xheaders else [])]
    return [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-m", "sstream", "run", *arguments]


def _run_here(factory: Any, serving: Any) -> int:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serving)
    return 0


async def serve(options: argparse.Namespace, sockets: list[socket.socket], leash: Leash | None = None) -> None:
    """Serve in this process.

    Raises:
        ConfigurationError: There is no such application, or it cannot run in several processes.
        SStreamError: Its own code has failed.
    """
    application = load(options.app)
    if inspect.isawaitable(application):
        with their_code(options.app):
            application = await application
    if not isinstance(application, Application):
        raise ConfigurationError(f"{options.app!r} is a {type(application).__name__}, not a sstream.Application")
    # After the application is loaded: if it has said how to log, this changes nothing.
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    if leash is not None:
        _check_shared(application)
    if options.no_reload or leash is not None:
        application.settings["autoreload"] = False
    where = urls_of(sockets)
    application.listen_on(sockets, xheaders=options.xheaders)
    # Said in the next turn of the loop: whoever hears it may send a signal, and that must find its handler.
    soon = asyncio.get_running_loop().call_soon
    if leash is None:
        soon(_log.info, "listening on %s", where)
        await serve_until_signal(application)
    else:
        soon(leash.tell_up, application.limits.drain)
        await serve_until_signal(application, leash.watch(), hurry={HURRY})


def _check_shared(application: Application) -> None:
    for what, kept in (("sessions", application.store), ("events", application.broker)):
        if isinstance(kept, MemoryStore | MemoryBroker):
            raise ConfigurationError(
                f"{what} are kept in memory, where no other process sees them; several processes need a Redis: "
                "Application(redis=...)"
            )
