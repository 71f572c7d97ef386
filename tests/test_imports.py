"""The house stands as it was drawn: who may import whom, read from the import statements."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sstream"

# A room may import what lies on a lower floor, and itself; rooms of one floor never each other.
FLOORS = {
    "options": -1,
    "errors": -1,
    "compiled": -1,
    "backend": 0,
    "counters": 0,
    "watch": 0,
    "limits": 0,
    "listening": 0,
    "version": 0,
    "session": 1,
    "rpc": 1,
    "pubsub": 1,
    "websocket": 1,
    "settings": 2,
    "handlers": 2,
    "client": 2,
    "serving": 2,
    "boundaries": 2,
    "logs": 2,
    "metrics": 2,
    "tracing": 3,
    "inspector": 3,
    "monitor": 4,
    "application": 5,
    "sstream": 6,  # the face
    "testing": 7,
    "commands": 7,
    "__main__": 8,
}
WINGS = {"session", "rpc", "pubsub"}
# No I/O is done there, so neither Tornado nor Redis is known, not even by way of what they import.
PURE = {
    "sstream.session.cookie",
    "sstream.session.express",
    "sstream.rpc.codec",
    "sstream.rpc.registry",
    "sstream.websocket.frames",
}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py")) if "node_modules" not in file.parts}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def statements(tree: ast.AST, *, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a module, those inside functions too; with ``types`` those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            if types:
                yield from statements(ast.Module(node.body, []), types=types)
            yield from statements(ast.Module(node.orelse, []), types=types)
        else:
            yield from statements(node, types=types)


def imports(source: str, module: str, *, is_package: bool = False, types: bool = False) -> set[str]:
    """Full names of all modules that a module imports; ``from sstream.session import cookie`` gives the file."""
    found = set()
    for node in statements(ast.parse(source), types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        origin = node.module or ""
        if node.level:
            package = module.split(".")
            package = package[: len(package) - node.level + is_package]
            origin = ".".join([*package, *([node.module] if node.module else [])])
        names = {f"{origin}.{alias.name}" for alias in node.names}
        submodules = names & FILES.keys()
        found |= submodules
        if submodules != names:
            found.add(origin)
    return found


def imports_of(module: str, *, types: bool = False) -> set[str]:
    file = FILES[module]
    return imports(file.read_text(encoding="utf-8"), module, is_package=file.stem == "__init__", types=types)


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "sstream"}


def may_import(module: str, other: str) -> bool:
    return room(module) == room(other) or FLOORS[room(other)] < FLOORS[room(module)]


def reach(module: str) -> set[str]:
    """All that a module imports, by way of our other modules too."""
    found: set[str] = set()
    todo = [module]
    while todo:
        new = imports_of(todo.pop()) - found
        found |= new
        todo += new & FILES.keys()
    return found


@pytest.mark.parametrize("module", FILES)
def test_every_room_is_on_the_plan(module: str) -> None:
    assert room(module) in FLOORS, f"{module}: give its room a floor, in FLOORS"


@pytest.mark.parametrize("module", FILES)
def test_imports_go_downward(module: str) -> None:
    wrong = {other for other in ours(imports_of(module)) if not may_import(module, other)}

    assert not wrong


@pytest.mark.parametrize("module", FILES)
def test_wings_never_meet_not_even_for_a_type(module: str) -> None:
    if room(module) in WINGS:
        others = {room(other) for other in ours(imports_of(module, types=True))}
        assert not others & (WINGS - {room(module)})


@pytest.mark.parametrize("module", FILES)
def test_tornado_is_known_to_handlers_application_and_websocket_alone(module: str) -> None:
    if room(module) in WINGS | {"backend", "errors", "limits", "version"}:
        assert "tornado" not in {name.partition(".")[0] for name in imports_of(module, types=True)}


@pytest.mark.parametrize("module", sorted(PURE))
def test_what_does_no_io_knows_neither_tornado_nor_redis(module: str) -> None:
    roots = {name.partition(".")[0] for name in reach(module)}

    assert not roots & {"tornado", "redis", "hiredis", "asyncio", "socket"}


def test_pytest_is_known_to_its_plugin_alone() -> None:
    knowing = {module for module in FILES if "pytest" in {name.partition(".")[0] for name in imports_of(module)}}

    assert knowing == {"sstream.testing.pytest"}
    assert not [module for module in FILES if "sstream.testing.pytest" in imports_of(module, types=True)]


def test_errors_imports_nothing_of_ours() -> None:
    assert not ours(imports_of("sstream.errors", types=True))


@pytest.mark.parametrize("module", [module for module in FILES if room(module) == "backend"])
def test_the_backend_knows_neither_sessions_nor_events(module: str) -> None:
    rooms = {room(other) for other in ours(imports_of(module, types=True))}

    assert rooms <= {"backend", "errors"}


@pytest.mark.parametrize("module", FILES)
def test_redis_is_spoken_with_in_the_backend_alone(module: str) -> None:
    if room(module) in WINGS:
        assert "hiredis" not in {name.partition(".")[0] for name in imports_of(module, types=True)}


def test_nothing_imports_itself_by_a_detour() -> None:
    graph = {module: imports_of(module) & FILES.keys() - {module} for module in FILES}

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])), pytrace=False)


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_docstring_that_opens_with_its_purpose(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8")))

    assert docstring, f"{module} has no docstring"
    assert docstring.splitlines()[0].rstrip().endswith((".", "?"))


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_all(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    targets = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }

    assert "__all__" in targets


def test_the_face_only_re_exports() -> None:
    docstring, *body = ast.parse(FILES["sstream"].read_text(encoding="utf-8")).body

    assert isinstance(docstring, ast.Expr)
    for node in body:
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_all or isinstance(node, ast.ImportFrom), ast.unparse(node)


# The reader itself


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import tornado.web", {"tornado.web"}),
        ("import redis.asyncio as aioredis", {"redis.asyncio"}),
        ("from sstream.errors import RPCError", {"sstream.errors"}),
        ("from sstream import errors", {"sstream.errors"}),
        ("from sstream import errors, Application", {"sstream.errors", "sstream"}),
        ("from ..errors import RPCError", {"sstream.errors"}),
        ("from .. import errors", {"sstream.errors"}),
        ("from .codec import decode", {"sstream.rpc.codec"}),
        ("def f():\n    if True:\n        import tornado", {"tornado"}),
        ("try:\n    import hiredis\nexcept ImportError:\n    import redis", {"hiredis", "redis"}),
        ("if TYPE_CHECKING:\n    import tornado\nelse:\n    import redis", {"redis"}),
        ("if typing.TYPE_CHECKING:\n    import tornado", set()),
    ],
)
def test_imports_are_read(source: str, expected: set[str]) -> None:
    assert imports(source, "sstream.rpc.dispatch") == expected


def test_imports_for_types_are_read_where_asked() -> None:
    assert imports("if TYPE_CHECKING:\n    import tornado", "sstream.rpc.dispatch", types=True) == {"tornado"}


def test_imports_relative_to_a_package_are_read() -> None:
    assert imports("from .codec import decode", "sstream.rpc", is_package=True) == {"sstream.rpc.codec"}
    assert imports("from ..errors import RPCError", "sstream.rpc", is_package=True) == {"sstream.errors"}


@pytest.mark.parametrize(
    ("module", "other", "legal"),
    [
        ("sstream.handlers", "sstream.rpc.codec", True),
        ("sstream.rpc.codec", "sstream.handlers", False),
        ("sstream.rpc.codec", "sstream.session.cookie", False),
        ("sstream.rpc.codec", "sstream.rpc.registry", True),
        ("sstream.rpc.codec", "sstream", False),
        ("sstream", "sstream.application", True),
        ("sstream.application", "sstream.testing", False),
    ],
)
def test_the_plan_is_read(module: str, other: str, legal: bool) -> None:
    assert may_import(module, other) is legal
