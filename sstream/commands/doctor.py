"""Looks at this machine and says what is installed, found, reachable or misconfigured."""

import argparse
import asyncio
import importlib.metadata
import importlib.util
import os
import re
import resource
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import sstream
from sstream import compiled, settings
from sstream.application import Application
from sstream.commands.redis_checkup import check_redis
from sstream.commands.report import Finding, Mark, print_report
from sstream.commands.servers import add_url
from sstream.errors import ConfigurationError
from sstream.session.options import DEFAULT_SECRET, SessionOptions
from sstream.version import __version__

__all__ = ["add_command"]

_OLDEST: Final = (3, 11)
_NEWEST: Final = (3, 13)
_FEW_FILES: Final = 4096
_C_PARTS: Final = {"websocket": "sockets take", "rpc": "calls of coroutine functions take"}
_SHORTEST_SECRET: Final = 16  # characters
# Variables that are ours and no settings.
_OTHERS: Final = {"SSTREAM_PURE_PYTHON", "SSTREAM_REDIS_URL"}


def add_command(commands: Any) -> None:
    """Add ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="look for what is missing or misconfigured",
        description="Look at this machine: what is installed, what the environment says, whether Redis can be reached "
        "and lets us do what we must. The status is 1 where something is wrong, 0 where there are but warnings.",
    )
    add_url(parser)
    parser.set_defaults(run=examine)


def examine(options: argparse.Namespace) -> int:
    """Print what is found; tell whether all is well."""
    findings = [check_python(), *check_packages(), *check_speedups(), check_uvloop(), check_files()]
    findings += check_settings()
    findings += check_redises(options.redis)
    print_report(f"sstream {__version__}", findings)
    return 1 if any(finding.mark is Mark.WRONG for finding in findings) else 0


# --- what is installed ------------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Is this a Python that sstream was tested with?"""
    text = ".".join(map(str, version))
    if version[:2] < _OLDEST:
        return Finding(Mark.WRONG, "Python", f"{text} is too old: 3.11 or newer is needed")
    if version[:2] > _NEWEST:
        return Finding(Mark.DOUBT, "Python", f"{text} is newer than the newest that sstream was tested with, 3.13")
    return Finding(Mark.GOOD, "Python", f"{text}, {sys.executable}")


def check_packages() -> Iterator[Finding]:
    """Is all that sstream stands on here, and new enough?"""
    for name, least in _needed():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(Mark.WRONG, name, f"is not installed: pip install '{name}>={least}'")
            continue
        if _numbers(version) < _numbers(least):
            yield Finding(Mark.WRONG, name, f"{version} is too old: {least} or newer is needed")
        else:
            yield Finding(Mark.GOOD, name, version)


def _needed() -> list[tuple[str, str]]:
    """What the package's own metadata ask for, ``(name, least version)``, without the extras."""
    texts = [text for text in importlib.metadata.requires("sstream") or () if "extra ==" not in text]
    found = []
    for text in texts:
        match = re.match(r"([\w-]+)(?:\[(\w+)\])?.*?>=([\d.]+)", text)
        if match is not None:
            found.append((match[1], match[3]))
            if match[2]:
                found.append((match[2], "0"))  # redis[hiredis]: the extra has the name of a package
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def check_speedups() -> Iterator[Finding]:
    """Are the parts in C at work, and if not, why?"""
    for wing, takes in _C_PARTS.items():
        module = f"sstream.{wing}._speedups"
        subject = f"C part, {wing}"
        # What is at work was imported by what works with it.
        if module in compiled.amiss:
            text = f"{compiled.amiss[module]}: install sstream anew; without it {takes} more CPU time"
            yield Finding(Mark.DOUBT, subject, text)
        elif module in sys.modules:
            yield Finding(Mark.GOOD, subject, "at work")
        else:
            yield Finding(Mark.DOUBT, subject, f"{_why_absent(module)}; without it {takes} more CPU time")


def _why_absent(module: str) -> str:
    if os.environ.get("SSTREAM_PURE_PYTHON") == "1":
        return "left out, as SSTREAM_PURE_PYTHON=1 asks"
    folder = Path(sstream.__file__).parent / module.split(".")[1]
    ours = folder / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}"
    others = sorted(file.name for file in folder.glob("_speedups.*.so"))
    if others and not ours.exists():
        return f"built for another Python ({', '.join(others)}): install sstream anew with this one"
    return "not built: install sstream anew where there is a C compiler, or from a wheel for this machine"


def check_uvloop() -> Finding:
    """Is uvloop here?"""
    if importlib.util.find_spec("uvloop") is None:
        return Finding(Mark.NOTE, "uvloop", 'not installed; pip install "sstream[fast]" saves some CPU time')
    return Finding(Mark.GOOD, "uvloop", importlib.metadata.version("uvloop"))


def check_files() -> Finding:
    """How many sockets may this process open?"""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding(Mark.GOOD, "open files", "no limit")
    if soft >= _FEW_FILES:
        return Finding(Mark.GOOD, "open files", f"{soft} a process; a websocket takes one")
    more = "" if hard == soft else f" (up to {'any number' if hard == resource.RLIM_INFINITY else hard} by ulimit -n)"
    text = f"{soft} a process, and a websocket takes one: raise it{more}, or LimitNOFILE= in systemd"
    return Finding(Mark.DOUBT, "open files", text)


# --- what is set ------------------------------------------------------------------------------------------------------


def check_settings() -> Iterator[Finding]:
    """What does the environment say, and would an application start with it?"""
    known = {setting.variable: setting for setting in settings.all_settings(Application)}
    for variable in sorted(os.environ):
        if variable.startswith(settings.PREFIX) and variable not in known.keys() | _OTHERS:
            hint = settings.suggestion(variable, known)
            yield Finding(Mark.DOUBT, variable, f"is no setting, and does nothing{hint}")
    try:
        settings.check_names(Application)
        found = settings.read(Application)
        said = [*found.values()]
        for prefix, options in settings.groups(Application).items():
            said += settings.read(options, prefix).values()
            settings.fill(options(), prefix)
        session = settings.fill(SessionOptions(), "SSTREAM_SESSION_")
    except ConfigurationError as error:
        yield Finding(Mark.WRONG, "settings", str(error))
        return
    for one in said:
        yield Finding(Mark.GOOD, one.place, one.shown)
    production = bool(found["production"].value) if "production" in found else False
    yield check_secret(session, production=production)
    if production and "debug" in found and found["debug"].value:
        yield Finding(Mark.WRONG, "debug", "is on in production, and shows tracebacks to visitors")


def check_secret(session: SessionOptions, *, production: bool) -> Finding:
    """Can somebody guess what signs the cookies?"""
    if DEFAULT_SECRET in session.secrets:
        text = "SSTREAM_SESSION_SECRET is not set: unless code gives one, it is the public default, and anybody can"
        return Finding(Mark.WRONG if production else Mark.DOUBT, "secret", f"{text} forge a session")
    if min(map(len, session.secrets)) < _SHORTEST_SECRET:
        return Finding(Mark.DOUBT, "secret", f"is shorter than {_SHORTEST_SECRET} characters: it may be guessed")
    count = len(session.secrets)
    return Finding(Mark.GOOD, "secret", "one of your own" if count == 1 else f"{count} of your own, the first signs")


def check_redises(given: str | None) -> Iterator[Finding]:
    """Can every Redis be reached that is spoken of, and used?"""
    try:
        found = {name: one.value for name, one in settings.read(Application).items() if one.value}
        prefix = settings.fill(SessionOptions(), "SSTREAM_SESSION_").prefix
    except ConfigurationError:
        return  # said above
    redis = found.get("redis")
    urls = [given] if given is not None else [found.get("store", redis), found.get("broker", redis)]
    if not any(urls):
        text = "SSTREAM_REDIS is not set: unless code gives one, sessions and events stay in one process's memory"
        yield Finding(Mark.DOUBT, "Redis", text)
    for url in dict.fromkeys(filter(None, urls)):
        yield from asyncio.run(check_redis(url, prefix))
