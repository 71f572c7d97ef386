"""Describe to others what may be called: as JSON with JSON Schema, as Markdown, as TypeScript.

Told are methods with their types and docstrings, the events of ``events`` on handlers and groups, and what
``session_view`` gives. ``events`` maps names to the types of their arguments, and is there for this alone:

    events = {"cart": dict[str, int], "moved": (str, Point), "closed": ()}
"""

import collections.abc
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sstream.rpc.codec import CODECS
from sstream.rpc.middleware import Middleware
from sstream.rpc.registry import Actions, Method, Parameter, Registry
from sstream.rpc.typescript import TypeScript, comment, identifier, parameter_name

__all__ = ["Description", "SocketDescription"]

# What the browser's client calls by itself.
_OURS: Final = "sstream."
_STREAMS: Final = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


@dataclass(frozen=True, slots=True)
class SocketDescription:
    """One handler class: where it is, what it offers.

    Attributes:
        path: The route, as it stands in the application.
        name: The class's name.
        doc: Its docstring, or an empty text.
        methods: In alphabetical order, without those of the protocol itself.
        events: Event names, and the annotations of their arguments.
        session: The annotation of what ``session_view`` gives.
    """

    path: str
    name: str
    doc: str
    methods: tuple[Method, ...]
    events: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    session: Any = None

    @classmethod
    def of(cls, path: str, handler: type) -> "SocketDescription":
        """Read a handler class."""
        registry = getattr(handler, "registry", None) or Registry.of(handler)
        methods = sorted(registry.methods.items())
        return cls(
            path,
            handler.__name__,
            inspect.cleandoc(vars(handler).get("__doc__") or ""),
            tuple(method for name, method in methods if not name.startswith(_OURS)),
            dict(sorted(_events(handler))),
            _session(handler),
        )


class Description:
    """All handler classes of an application, ready to be written down.

    Args:
        sockets: Handler classes by the path of their route.
    """

    def __init__(self, sockets: Mapping[str, type]) -> None:
        self.sockets = [SocketDescription.of(path, handler) for path, handler in sockets.items()]

    # JSON

    def json(self) -> dict[str, Any]:
        """Get everything as JSON values; types are JSON Schema 2020-12, shared ones under ``$defs``."""
        schemas = _Schemas(self.sockets)
        return {
            "sockets": [
                {
                    "path": socket.path,
                    "handler": socket.name,
                    "doc": socket.doc,
                    "subprotocols": list(CODECS),
                    "methods": {method.name: self._method_json(method, schemas) for method in socket.methods},
                    "events": {
                        name: {"params": [schemas.of(annotation) for annotation in annotations]}
                        for name, annotations in socket.events.items()
                    },
                    "session": schemas.of(socket.session),
                }
                for socket in self.sockets
            ],
            "$defs": schemas.definitions,
        }

    def _method_json(self, method: Method, schemas: "_Schemas") -> dict[str, Any]:
        described: dict[str, Any] = {
            "doc": method.doc,
            "kind": "stream" if method.is_stream else "call",
            "params": [_parameter_json(parameter, schemas) for parameter in method.parameters],
            "items" if method.is_stream else "result": schemas.of(_given(method)),
            "middleware": [_name(middleware) for middleware in method.middleware],
            "detached": method.detached,
        }
        if method.timeout != Method.DEFAULT_TIMEOUT:
            described["timeout"] = method.timeout
        return described

    # TypeScript

    def typescript(self) -> str:
        """Get declarations for the browser's client: ``connect<Api>(url)``.

        With several handler classes each has its own: ``LiveApi``, named after the class.
        """
        writer = TypeScript()
        bodies = []
        for socket in self.sockets:
            name = "Api" if len(self.sockets) == 1 else f"{identifier(socket.name)}Api"
            bodies.append(f"{comment(_where(socket))}export interface {name} {{\n{_api(socket, writer)}}}\n")
        head = "// Written by `python -m sstream describe --typescript`; do not edit.\n"
        declarations = [f"{text}\n" for text in writer.declarations.values()]
        return "\n".join([head, *bodies, *declarations])

    # Markdown

    def markdown(self) -> str:
        """Get a page to read; types are written as TypeScript."""
        writer = TypeScript()
        lines: list[str] = []
        for socket in self.sockets:
            lines += [f"# `{socket.path}`: {socket.name}", "", *_paragraph(socket.doc)]
            if socket.session is not None:
                lines += [f"Session in the browser: `{writer.expression(socket.session)}`", ""]
            for method in socket.methods:
                lines += [f"## `{method.name}({_params(method, writer)})`", "", *_paragraph(method.doc)]
                kind = "Streams" if method.is_stream else "Gives"
                lines += [f"{kind} `{writer.expression(_given(method))}`{_conditions(method)}.", ""]
            for name, annotations in socket.events.items():
                lines += [f"## Event `{name}({_event_params(annotations, writer)})`", ""]
        if writer.declarations:
            lines += ["# Types", "", "```typescript", "\n\n".join(writer.declarations.values()), "```", ""]
        return "\n".join(lines)


class _Schemas:
    """JSON Schemas that share their definitions."""

    def __init__(self, sockets: list[SocketDescription]) -> None:
        self._known = [item for socket in sockets for item in _annotations(socket) if _has_schema(item)]
        schemas, self.definitions = msgspec.json.schema_components(self._known, ref_template="#/$defs/{name}")
        # By identity: an annotation need not be hashable.
        self._written = {id(item): schema for item, schema in zip(self._known, schemas, strict=True)}

    def of(self, annotation: Any) -> dict[str, Any]:
        """Get the schema of an annotation; ``{}``, anything, if it has none."""
        return self._written.get(id(annotation), {})


def _annotations(socket: SocketDescription) -> Iterator[Any]:
    for method in socket.methods:
        for parameter in method.parameters:
            yield parameter.type
        yield _given(method)
    for annotations in socket.events.values():
        yield from annotations
    yield socket.session


def _has_schema(annotation: Any) -> bool:
    try:
        msgspec.json.schema(annotation)
    except (TypeError, NameError):
        return False
    return True


def _parameter_json(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"name": parameter.name, "schema": schemas.of(parameter.type)}
    if parameter.variadic:
        described["variadic"] = True
    else:
        described["required"] = parameter.required
    if not (parameter.required or parameter.variadic):
        try:
            described["default"] = msgspec.to_builtins(parameter.default)
        except (TypeError, msgspec.MsgspecError):
            pass  # a default that has no JSON is the server's own business
    return described


def _given(method: Method) -> Any:
    """Get the annotation of a result, or of a stream's items."""
    if method.is_stream and typing.get_origin(method.returns) in _STREAMS:
        return typing.get_args(method.returns)[0]
    return Any if method.is_stream else method.returns


def _events(holder: type) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, annotations in getattr(holder, "events", {}).items():
        yield name, annotations if isinstance(annotations, tuple) else (annotations,)
    for group in getattr(holder, "actions", {}).values():
        if issubclass(group, Actions):
            yield from _events(group)


def _session(handler: type) -> Any:
    view = getattr(handler, "session_view", None)
    if view is None:
        return None
    try:
        return typing.get_type_hints(view, include_extras=True).get("return", Any)
    except (NameError, TypeError):
        return Any


def _name(middleware: Middleware) -> str:
    """Get what its author calls a middleware: one with options by the function that made it."""
    name: str = getattr(middleware, "__qualname__", type(middleware).__qualname__)
    return name.partition(".<locals>")[0]


def _where(socket: SocketDescription) -> str:
    return f"{socket.name}, at {socket.path}" + (f"\n\n{socket.doc}" if socket.doc else "")


def _api(socket: SocketDescription, writer: TypeScript) -> str:
    lines = ["  methods: {\n"]
    for method in socket.methods:
        result = writer.expression(_given(method))
        wrapper = "AsyncIterable" if method.is_stream else "Promise"
        lines.append(comment(method.doc, "    "))
        lines.append(f'    "{method.name}": ({_params(method, writer)}) => {wrapper}<{result}>;\n')
    lines.append("  };\n  events: {\n")
    for name, annotations in socket.events.items():
        lines.append(f"    {msgspec.json.encode(name).decode()}: [{_event_params(annotations, writer)}];\n")
    lines.append(f"  }};\n  session: {writer.expression(socket.session)};\n")
    return "".join(lines)


def _params(method: Method, writer: TypeScript) -> str:
    written = []
    for parameter in method.parameters:
        name = parameter_name(parameter.name)
        expression = writer.expression(parameter.type)
        if parameter.variadic:
            expression = f"({expression})[]" if "|" in expression else f"{expression}[]"
            written.append(f"...{name}: {expression}")
        else:
            written.append(f"{name}{'' if parameter.required else '?'}: {expression}")
    return ", ".join(written)


def _event_params(annotations: tuple[Any, ...], writer: TypeScript) -> str:
    return ", ".join(writer.expression(annotation) for annotation in annotations)


def _paragraph(text: str) -> list[str]:
    # Docstrings mark code as reStructuredText does.
    return [re.sub(r"``(.+?)``", r"`\1`", text), ""] if text else []


def _conditions(method: Method) -> str:
    conditions = []
    if method.middleware:
        conditions.append("behind " + ", ".join(f"`{_name(middleware)}`" for middleware in method.middleware))
    if method.timeout is None and not method.is_stream:
        conditions.append("without a deadline")
    elif method.timeout is not None and method.timeout != Method.DEFAULT_TIMEOUT:
        conditions.append(f"within {method.timeout:g} s")
    if method.detached:
        conditions.append("goes on when the socket closes")
    return "".join(f"; {condition}" for condition in conditions)
