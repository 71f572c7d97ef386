"""Programs that are found, or whose absence is told in one line."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sstream.testing import ToolMissing, find_chromium, find_node, find_redis_server, npm_command, tools


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A PATH of which the test decides what is on it; packages with programs are hidden unless it says otherwise."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tools, "_packaged", lambda package, path: None)
    find_node.cache_clear()

    def add(name: str, script: str = "exit 0") -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    yield add
    find_node.cache_clear()


def test_redis_server_on_path_comes_first(only: Callable[..., Path]) -> None:
    valkey = only("valkey-server")
    assert find_redis_server() == valkey

    server = only("redis-server")
    assert find_redis_server() == server


def test_packaged_redis_server_runs(need: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    answer = subprocess.run([need(find_redis_server), "--version"], capture_output=True, text=True, check=True)

    assert re.search("(Valkey|Redis) server v=", answer.stdout)


def test_no_redis_server_is_one_line_that_says_how_to_get_it(only: Callable[..., Path]) -> None:
    with pytest.raises(ToolMissing, match=r"no Redis server: .*pip install \"sstream\[redis-server\]\"") as caught:
        find_redis_server()

    assert "\n" not in str(caught.value)


def test_node_on_path_that_is_new_enough_is_taken(only: Callable[..., Path]) -> None:
    node = only("node", "echo v22.4.0")

    assert find_node() == node


def test_packaged_node_takes_the_place_of_an_old_one(
    only: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("node", "echo v20.19.2")
    packaged = only("packaged-node", "echo v24.1.0")
    monkeypatch.setattr(tools, "_packaged", lambda package, path: packaged)

    assert find_node() == packaged


def test_old_node_alone_is_told_with_its_version(only: Callable[..., Path]) -> None:
    node = only("node", "echo v20.19.2")

    with pytest.raises(ToolMissing, match=rf"^no node of version 22 or newer: {node} is version 20; install"):
        find_node()


def test_no_node_is_told(only: Callable[..., Path]) -> None:
    with pytest.raises(ToolMissing, match="^no node of version 22 or newer: none is on PATH; install"):
        find_node()


@pytest.mark.parametrize("script", ["echo 22", "exit 1"])
def test_node_that_does_not_tell_its_version_is_none(only: Callable[..., Path], script: str) -> None:
    only("node", script)

    with pytest.raises(ToolMissing, match="is version 0"):
        find_node()


def test_node_that_cannot_run_is_none(only: Callable[..., Path]) -> None:
    only("node").write_bytes(b"\x7fELF, but not really")

    with pytest.raises(ToolMissing, match="is version 0"):
        find_node()


def test_found_node_runs(node: Path) -> None:
    answer = subprocess.run([node, "-p", "process.versions.node"], capture_output=True, text=True, check=True)

    assert int(answer.stdout.split(".")[0]) >= tools.NODE_MINIMUM


def test_npm_of_the_found_node_runs(need: Callable[..., Any]) -> None:
    answer = subprocess.run([*need(npm_command), "--version"], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"\d+\.\d+\.\d+\n", answer.stdout)


def test_npm_beside_node_comes_first(only: Callable[..., Path], tmp_path: Path) -> None:
    node = only("node", "echo v22.4.0")
    only("npm")
    script = tmp_path / "lib/node_modules/npm/bin/npm-cli.js"
    script.parent.mkdir(parents=True)
    script.touch()

    assert npm_command() == [str(node), str(script)]


def test_npm_on_path_that_is_a_script_of_node_runs_under_our_node(only: Callable[..., Path], tmp_path: Path) -> None:
    node = only("node", "echo v22.4.0")
    script = tmp_path / "share/npm-cli.js"
    script.parent.mkdir()
    script.touch(mode=0o755)
    (tmp_path / "bin/npm").symlink_to(script)

    assert npm_command() == [str(node), str(script)]


def test_npm_on_path_that_is_a_launcher_is_taken_as_it_is(only: Callable[..., Path]) -> None:
    only("node", "echo v22.4.0")
    npm = only("npm")

    assert npm_command() == [str(npm)]


def test_no_npm_is_told(only: Callable[..., Path]) -> None:
    node = only("node", "echo v22.4.0")

    with pytest.raises(ToolMissing, match=rf"^no npm: there is none on PATH, and none beside {node}$"):
        npm_command()


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_chromium_has_several_names(only: Callable[..., Path], name: str) -> None:
    program = only(name)

    assert find_chromium() == program


def test_no_chromium_is_told(only: Callable[..., Path]) -> None:
    with pytest.raises(ToolMissing, match="^no Chromium: "):
        find_chromium()


def test_package_without_the_file_is_passed_over() -> None:
    assert tools._packaged("sstream", "no/such/file") is None
    assert tools._packaged("no_such_package_here", "bin/node") is None


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sstream.testing", *arguments], capture_output=True, text=True, timeout=240, check=False
    )


def test_module_runs_node_with_itself_on_path(node: Path) -> None:
    script = "console.log(process.execPath, process.env.PATH.split(':')[0], process.env.NODE_USE_SYSTEM_CA)"

    done = run_module("node", "-e", script)

    assert done.stdout.split() == [str(node.resolve()), str(node.parent), "1"]  # node follows links to itself


def test_module_runs_npm(need: Callable[..., Any]) -> None:
    need(npm_command)

    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run_module("npm", "--version").stdout)


def test_module_tells_how_it_is_used() -> None:
    done = run_module("yarn")

    assert done.returncode == 1
    assert done.stderr == "usage: python -m sstream.testing (node|npm) [ARGUMENT...]\n"
