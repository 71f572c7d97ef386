"""Runs the Autobahn testsuite, the yardstick of websocket servers, against the engine.

    make autobahn ARGS="[--fast] [--wire socket,stream] [--parser c,python] [--cases 1.*,12.1.1]"

The testsuite is a Python 2.7 program; it is installed once into build/autobahn. Where there is no Python 2.7 this says
so and succeeds, unless --needed is given. All 517 cases take half an hour a server, the 247 of --fast ten seconds;
those are among the tests, too.
"""

import argparse
import asyncio
import collections
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from sstream.limits import Limits
from sstream.websocket import upgrade, websocket_protocol

SUITE = "autobahntestsuite==25.10.1"
ROOT = Path(__file__).parents[2]
HOME = ROOT / "build" / "autobahn"
WSTEST = HOME / "python" / "bin" / "wstest"

NO_PYTHON2 = "the Autobahn testsuite needs a Python 2.7 (python2.7 on PATH, or pyenv's): there is none"

WIRES = ["socket", "stream"]
PARSERS = ["c", "python"]

# Without 9 (limits and speed) and 12 and 13 (compression), which take long.
FAST = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
GOOD = {"OK", "INFORMATIONAL"}

# For an answer, and for the end. The suite by itself gives a server half a second, or one, and then calls it wrong; a
# case ends as soon as all has come that may, so only a failure meets this.
PATIENCE = 60.0  # seconds
PATIENT_SUITE = f"""
import sys
from autobahntestsuite import fuzzing, wstest

def with_patience(wait):
    return lambda self, delay: wait(self, {PATIENCE})

for name in ("closeAfter", "killAfter"):
    setattr(fuzzing.FuzzingProtocol, name, with_patience(getattr(fuzzing.FuzzingProtocol, name).__func__))
sys.exit(wstest.run())
"""

# The largest message of the suite has 16 MiB.
LIMITS = Limits(
    message_size=32 << 20, inflated_size=32 << 20, message_rate=None, ping_interval=None, send_queue=None, send_stall=60
)


class Echo(WebSocketHandler):
    def get_websocket_protocol(self) -> Any:
        return websocket_protocol(self, LIMITS)

    def get_compression_options(self) -> dict[str, Any]:
        return {}

    def check_origin(self, origin: str) -> bool:
        return True

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


async def serve(wire: str) -> None:
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    if wire == "stream":
        upgrade.may_take = lambda stream: False
        upgrade._tell_once = lambda: None  # type: ignore[assignment]
    server = HTTPServer(Application([("/", Echo)]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def find_python2() -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which("python2.7"), *map(str, sorted(pyenv.glob("versions/2.7.*/bin/python2.7")))]
    for python in filter(None, found):
        # pyenv's command of that name is there where the Python behind it is not.
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def install(python2: str) -> None:
    """Make a Python 2.7 environment with the suite; virtualenv, for pip's --target breaks zope's namespace."""
    if WSTEST.exists():
        return
    print(f"• installing {SUITE} with {python2}", flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    pip = [python2, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    tool = HOME / "virtualenv"
    run([*pip, "--target", str(tool), "virtualenv==20.15.1"])
    run(
        [python2, "-m", "virtualenv", "--quiet", "--no-periodic-update", str(HOME / "python")],
        {"PYTHONPATH": str(tool)},
    )
    python = str(HOME / "python" / "bin" / "python")
    run([python, *pip[1:], SUITE])


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def examine(wire: str, parser: str, cases: list[str], reports: Path) -> tuple[str, list[str]]:
    """Run the suite against one server; give the sum of it in a line, and a line for each case that is not good."""
    name = f"{wire}-{parser}"
    report = reports / name
    environment = os.environ | {"SSTREAM_PURE_PYTHON": "1" if parser == "python" else "0"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.websocket.autobahn", "--serve", wire],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    with server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            settings = {
                "outdir": str(report),
                "servers": [{"agent": name, "url": f"ws://127.0.0.1:{port}"}],
                "options": {
                    "openHandshakeTimeout": PATIENCE,
                    "closeHandshakeTimeout": PATIENCE,
                    "serverConnectionDropTimeout": PATIENCE,
                },
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            report.mkdir(parents=True, exist_ok=True)
            (report / "settings.json").write_text(json.dumps(settings))
            python = str(WSTEST.with_name("python"))
            run([python, "-c", PATIENT_SUITE, "-m", "fuzzingclient", "-s", str(report / "settings.json")])
        finally:
            server.kill()
    results = json.loads((report / "index.json").read_text())[name]
    behaviour = collections.Counter(result["behavior"] for result in results.values())
    closing = collections.Counter(result["behaviorClose"] for result in results.values())
    bad = [
        f"{case}: {result['behavior']}, closing {result['behaviorClose']}; see {report / result['reportfile']}"
        for case, result in results.items()
        if {result["behavior"], result["behaviorClose"]} - GOOD
    ]
    return f"{name}: {len(results)} cases, {dict(behaviour)}, closing {dict(closing)}", bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="the 247 cases that take no time")
    parser.add_argument("--needed", action="store_true", help="fail where there is no Python 2.7")
    parser.add_argument("--wire", default=",".join(WIRES))
    parser.add_argument("--parser", default=",".join(PARSERS))
    parser.add_argument("--cases", help="as the suite names them")
    parser.add_argument("--install", action="store_true", help="install the testsuite, and run nothing")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return
    python2 = find_python2()
    if python2 is None:
        print(f"• {NO_PYTHON2}, its cases are left out")
        sys.exit(1 if options.needed else 0)
    install(python2)
    if options.install:
        return
    cases = options.cases.split(",") if options.cases else FAST if options.fast else ["*"]
    failed = False
    for wire in options.wire.split(","):
        for parser_name in options.parser.split(","):
            summary, bad = examine(wire, parser_name, cases, HOME / "reports")
            print(summary, *bad, sep="\n  ", flush=True)
            failed |= bool(bad)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
