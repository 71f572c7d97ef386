"""Runs tests with the parts in C built under the address and undefined behaviour sanitizers.

    make sanitize ARGS="[pytest arguments; default: tests/websocket and tests/rpc]"

Needs gcc and its libasan; where they are missing this says so and succeeds, unless --needed is the first argument.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = {
    "sstream.websocket._speedups": ROOT / "sstream" / "websocket" / "_speedups.c",
    "sstream.rpc._speedups": ROOT / "sstream" / "rpc" / "_speedups.c",
}
FLAGS = ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

# What it measures says nothing of a build that is many times slower.
MEASURES = "tests/rpc/test_dispatch.py::test_bomb_is_refused_at_little_cost"

# Python imports this before anything else, so that the sanitized modules are there when the package asks for them.
SITECUSTOMIZE = """
import importlib.util, sys
for name, path in {modules!r}.items():
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
"""


def find_runtime() -> str | None:
    gcc = shutil.which("gcc")
    if gcc is None:
        return None
    found = subprocess.run(
        [gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return found if Path(found).is_absolute() else None


def main() -> None:
    arguments = sys.argv[1:]
    needed = arguments[:1] == ["--needed"]
    arguments = arguments[needed:] or ["tests/websocket", "tests/rpc", "-q"]
    runtime = find_runtime()
    if runtime is None:
        print("• gcc or its libasan is missing: nothing was run")
        sys.exit(1 if needed else 0)
    with tempfile.TemporaryDirectory() as directory:
        include = sysconfig.get_path("include")
        modules = {}
        for name, source in SOURCES.items():
            folder = Path(directory, name)  # the file's name is the module's, in both
            folder.mkdir()
            modules[name] = str(folder / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}")
            command = ["gcc", *FLAGS, "-shared", "-fPIC", f"-I{include}", "-o", modules[name], str(source)]
            subprocess.run(command, check=True)
        Path(directory, "sitecustomize.py").write_text(SITECUSTOMIZE.format(modules=modules))
        environment = os.environ | {
            "LD_PRELOAD": runtime,
            # Python's own allocator hides what the sanitizer looks for; what Python never frees is no leak of ours.
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": directory,
            "SSTREAM_PURE_PYTHON": "0",
        }
        command = [sys.executable, "-m", "pytest", f"--deselect={MEASURES}", *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
