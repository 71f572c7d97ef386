"""sstream/client: its own tests under node, against a fake server and the real one; its size, package and types."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sstream import Application, RPCError, RPCHandler, SessionOptions, load_session, rpc
from sstream.limits import Limits
from sstream.pubsub import ChannelOptions
from sstream.testing import Process, npm_command, serve
from sstream.version import __version__

CLIENT = Path(__file__).parents[2] / "sstream" / "client"
HERE = Path(__file__).parent
DEADLINE = 180.0  # seconds, for a whole file of tests

BUDGET = 10_000  # bytes, gzipped: the client and its codec


def run(*command: str | Path, cwd: Path | None = None, node: Path | None = None) -> str:
    environment = dict(os.environ)
    if node is not None:
        environment["PATH"] = f"{node.parent}{os.pathsep}{environment['PATH']}"
    ended = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


# Its behaviour


@pytest.mark.parametrize("name", ["calls", "channels", "codec", "reconnect", "streams", "tickets"])
def test_client_against_a_fake_server(node: Path, name: str) -> None:
    run(node, HERE / f"{name}.test.mjs")


class Live(RPCHandler):
    """What server.test.mjs calls."""

    @classmethod
    def channel_options(cls, channel: str) -> ChannelOptions | None:
        if channel.startswith("history:"):
            return ChannelOptions(history=(10, 60))
        return ChannelOptions(presence=True) if channel == "house" else None

    def may_subscribe(self, channel: str) -> bool:
        return channel != "secret"

    def session_view(self) -> dict[str, Any] | None:
        return {"user": self.session.user_id, "teas": self.session.get("teas", [])}

    @rpc
    def add(self, a: int, b: int) -> int:
        return a + b

    @rpc
    def echo(self, value: Any) -> Any:
        return value

    @rpc
    def bytes(self, value: bytes) -> bytes:
        return value[::-1]

    @rpc
    def integer(self, value: int) -> int:
        return value

    @rpc
    def number(self, value: float) -> float:
        return value

    @rpc
    def later(self, moment: datetime) -> datetime:
        return moment + timedelta(seconds=1)

    @rpc(name="break")
    def break_(self) -> None:
        raise ZeroDivisionError("secret")

    @rpc
    async def slow(self) -> None:
        await self._tell_when_cancelled("slow")

    async def _tell_when_cancelled(self, name: str) -> None:
        await self.publish.socket(self.id, "started", name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.ws_connection is not None:
                await self.publish.socket(self.id, "cancelled", name)
            raise

    @rpc
    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @rpc
    async def forever(self) -> AsyncIterator[int]:
        i = 0
        try:
            while True:
                yield i
                i += 1
        finally:
            await self.publish.socket(self.id, "cancelled", "forever")

    @rpc
    async def ask(self, method: str, text: str) -> Any:
        try:
            return await self.call(method, text)
        except RPCError as error:
            return [error.code, error.message, error.data]

    @rpc
    def drop(self, code: int) -> None:
        self.close(code, "dropped")

    @rpc
    async def tell(self, channel: str, event: str, text: str) -> None:
        await self.publish.socket(self.id, "mine", "to the socket")
        await self.publish.all("everybody", "to all")
        await self.publish.channel(channel, event, text)

    @rpc
    async def say(self, channel: str, n: int) -> None:
        await self.publish.channel(channel, "said", n)

    @rpc
    async def offer(self, ticket: str) -> None:
        self.session_offered(ticket)

    @rpc(use=[load_session])
    def add_tea(self, tea: str) -> None:
        self.session.setdefault("teas", []).append(tea)

    @rpc(use=[load_session])
    def teas(self) -> list[str]:
        return list(self.session.get("teas", []))

    @rpc(use=[load_session])
    async def log_in(self, user: str) -> None:
        await self.session.set_user_id(user)

    @rpc(use=[load_session])
    async def log_out(self) -> None:
        await self.session.destroy()


@pytest.mark.gen_test(timeout=2 * DEADLINE)
async def test_client_against_the_real_server(node: Path, expect_log: Any) -> None:
    expect_log("break", count=2)
    limits = Limits(message_rate=None, message_burst=None)  # a thousand calls at once
    application = Application([("/ws", Live)], session=SessionOptions(secret="tea" * 20), limits=limits, debug=True)

    async with serve(application) as site:
        with Process(node, HERE / "server.test.mjs", env={"SERVER": f"{site.url}/ws"}) as tests:
            returncode = await asyncio.to_thread(tests.wait, DEADLINE)

    assert returncode == 0, tests.log


# What is shipped


def test_client_and_codec_stay_within_their_budget() -> None:
    files = [CLIENT / "sstream.js", CLIENT / "vendor" / "msgpack.js"]

    sizes = [len(gzip.compress(file.read_bytes(), 9)) for file in files]

    assert sum(sizes) <= BUDGET, dict(zip(files, sizes, strict=True))


def test_client_needs_nothing_but_the_codec() -> None:
    imports = re.findall(
        r"^\s*(?:import|export)\b.*?from\s+\"(.+?)\"|\bimport\(", (CLIENT / "sstream.js").read_text(), re.MULTILINE
    )

    assert imports == ["./vendor/msgpack.js"]


def test_vendored_codec_is_the_recorded_one() -> None:
    record = json.loads((CLIENT / "vendor" / "msgpack.json").read_text())
    package = json.loads((CLIENT / "package.json").read_text())
    content = (CLIENT / "vendor" / "msgpack.js").read_bytes()

    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert record["version"] == package["devDependencies"][record["name"]]
    assert f"{record['name']} {record['version']}".encode() in content
    assert "Permission to use, copy, modify" in (CLIENT / "vendor" / "LICENSE").read_text()


def test_vendored_codec_is_what_the_script_builds(node: Path, tmp_path: Path) -> None:
    run(node, CLIENT / "vendor.mjs", tmp_path)

    for name in ("msgpack.js", "msgpack.json", "LICENSE"):
        assert (tmp_path / name).read_bytes() == (CLIENT / "vendor" / name).read_bytes(), f"{name}: run `make vendor`"


def test_versions_are_pinned_and_one() -> None:
    package = json.loads((CLIENT / "package.json").read_text())

    assert package["version"] == __version__
    assert "dependencies" not in package
    assert all(re.fullmatch(r"[\d.]+", version) for version in package["devDependencies"].values())


def test_package_has_what_it_needs_and_can_be_imported(node: Path, need: Any, tmp_path: Path) -> None:
    npm = need(npm_command)
    run(*npm, "pack", "--offline", "--ignore-scripts", "--pack-destination", tmp_path, cwd=CLIENT, node=node)
    (archive,) = tmp_path.glob("sstream-*.tgz")
    files = run("tar", "tzf", archive).split()
    (tmp_path / "package.json").write_text('{"type": "module"}')
    run(*npm, "install", "--offline", "--no-audit", "--no-fund", archive, cwd=tmp_path, node=node)

    printed = run(
        node,
        "--input-type=module",
        "-e",
        'import * as sstream from "sstream"; console.log(Object.keys(sstream).join())',
        cwd=tmp_path,
    )

    assert printed.strip() == "ClosedError,RPCError,TimeoutError,connect"
    assert sorted(name.removeprefix("package/") for name in files) == [
        "README.md",
        "package.json",
        "sstream.d.ts",
        "sstream.js",
        "vendor/LICENSE",
        "vendor/msgpack.js",
        "vendor/msgpack.json",
    ]


def test_names_of_errors_outlive_a_minifier(node: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.mjs"
    options = {"entryPoints": ["sstream.js"], "bundle": True, "minify": True, "format": "esm", "outfile": str(bundle)}
    run(
        node,
        "--input-type=module",
        "-e",
        f'import {{ build }} from "esbuild"; await build({json.dumps(options)});',
        cwd=CLIENT,
    )

    printed = run(
        node,
        "--input-type=module",
        "-e",
        f"import {{ ClosedError, RPCError, TimeoutError }} from {json.dumps(bundle.as_uri())};"
        "console.log([new ClosedError({}), new RPCError(1), new TimeoutError(1)].map((error) => error.name).join())",
    )

    assert printed.strip() == "ClosedError,RPCError,TimeoutError"


def test_types_hold_under_strict(node: Path) -> None:
    run(node, CLIENT / "node_modules" / "typescript" / "bin" / "tsc", "--project", HERE / "types")


def test_types_name_what_the_module_exports(node: Path) -> None:
    client = (CLIENT / "sstream.js").as_uri()
    script = f"import * as client from {json.dumps(client)}; console.log(Object.keys(client).join())"
    exported = run(node, "--input-type=module", "-e", script).strip().split(",")
    declared = re.findall(r"^export (?:class|function) (\w+)", (CLIENT / "sstream.d.ts").read_text(), re.MULTILINE)

    assert sorted(declared) == sorted(exported)
