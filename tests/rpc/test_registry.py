"""Which methods may be called, under which names, with which arguments."""

import dataclasses
import datetime
import decimal
import enum
import functools
import sys
import textwrap
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sstream.errors import ConfigurationError
from sstream.rpc.codec import DECODE_ERRORS, JSON, MSGPACK, Bounds
from sstream.rpc.middleware import load_session, require_user
from sstream.rpc.registry import CHAIN, COROUTINE, PLAIN, SESSION, Actions, Entry, Registry, load_actions, rpc


def names(holder: type) -> list[str]:
    """The names under which a class can be called."""
    return sorted(Registry.of(holder).methods)


def entry(function: Callable[..., Any], codec: Any = MSGPACK) -> Entry:
    """The one method of a handler that has only this function."""
    holder = type("Holder", (), {"method": rpc(function)})
    return Registry.of(holder).table(codec, Bounds(), 30.0).entries["method"]


def decode(function: Callable[..., Any], params: Any, codec: Any = MSGPACK) -> tuple[Any, ...]:
    """The arguments that a method would be called with."""
    raw = msgspec.Raw(codec.encode(params) if codec is MSGPACK else codec.encode(params).encode())
    return tuple(entry(function, codec).decode(raw))


def complaint(function: Callable[..., Any], params: Any, codec: Any = MSGPACK) -> str:
    """What a caller hears about params that are not accepted."""
    raw = msgspec.Raw(codec.encode(params) if codec is MSGPACK else codec.encode(params).encode())
    made = entry(function, codec)
    with pytest.raises(DECODE_ERRORS) as caught:
        made.decode(raw)
    return made.method.explain(caught.value)


# Names


def test_only_marked_methods_are_callable():
    class Base:
        def inherited(self) -> None: ...

        @rpc
        def marked(self) -> None: ...

    class Holder(Base):
        attribute = 5

        @property
        def computed(self) -> int:
            return 5

        def unmarked(self) -> None: ...

        @rpc
        def own(self) -> None: ...

    assert names(Holder) == ["marked", "own"]


def test_method_overridden_without_a_mark_is_not_callable():
    class Base:
        @rpc
        def method(self) -> None: ...

    class Holder(Base):
        def method(self) -> None: ...

    assert names(Holder) == []


def test_method_can_have_another_name():
    class Holder:
        @rpc(name="cart.add")
        def _add(self) -> None: ...

    assert names(Holder) == ["cart.add"]


def test_groups_are_mounted_under_dotted_names():
    class Users(Actions):
        @rpc
        def ban(self) -> None: ...

    class Admin(Actions):
        actions = {"users": Users}

        @rpc
        def stop(self) -> None: ...

    class Holder:
        actions = {"admin": Admin, "staff.people": Users}

    assert names(Holder) == ["admin.stop", "admin.users.ban", "staff.people.ban"]


def test_name_taken_twice_is_an_error():
    class Cart(Actions):
        @rpc
        def add(self) -> None: ...

    class Holder:
        actions = {"cart": Cart}

        @rpc(name="cart.add")
        def add(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"two methods are called 'cart.add': .*Holder.add and .*Cart.add"):
        Registry.of(Holder)


@pytest.mark.parametrize("name", ["", "_private", "a._b", "a..b", ".a", "a b", "1a", "__init__"])
def test_name_that_is_no_name_is_an_error(name):
    class Holder:
        @rpc(name=name)
        def method(self) -> None: ...

    # An empty name is no name given.
    if name == "":
        assert names(Holder) == ["method"]
        return
    with pytest.raises(ConfigurationError, match="names are identifiers joined by dots"):
        Registry.of(Holder)


def test_private_method_needs_another_name():
    class Holder:
        @rpc
        def _method(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"give it another by @rpc\(name=...\)"):
        Registry.of(Holder)


def test_group_that_is_no_actions_class_is_an_error():
    class Holder:
        actions = {"cart": dict}

    with pytest.raises(ConfigurationError, match="is no Actions class"):
        Registry.of(Holder)


def test_group_that_mounts_itself_is_an_error():
    class Group(Actions):
        @rpc
        def method(self) -> None: ...

    Group.actions = {"again": Group}
    holder = type("Holder", (), {"actions": {"group": Group}})

    with pytest.raises(ConfigurationError, match="is mounted within itself"):
        Registry.of(holder)


def test_groups_that_mount_each_other_are_an_error():
    class One(Actions): ...

    class Two(Actions):
        actions = {"one": One}

    One.actions = {"two": Two}
    holder = type("Holder", (), {"actions": {"one": One}})

    with pytest.raises(ConfigurationError, match="is mounted within itself"):
        Registry.of(holder)


# What may be marked


def test_mark_leaves_the_function_as_it_is():
    def function(self: Any) -> int:
        return 5

    assert rpc(function) is function
    assert rpc(name="x")(function) is function


@pytest.mark.parametrize("thing", [5, property(lambda self: 5), classmethod(lambda cls: 5), len])
def test_mark_on_what_is_no_function_is_an_error(thing):
    with pytest.raises(ConfigurationError, match="@rpc marks functions"):
        rpc(thing)


def test_static_method_is_an_error():
    class Holder:
        @staticmethod
        @rpc
        def method() -> None: ...

    with pytest.raises(ConfigurationError, match="@rpc marks plain methods, not a staticmethod"):
        Registry.of(Holder)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeout_that_is_none_is_an_error(timeout):
    with pytest.raises(ConfigurationError, match="timeout must be more than 0 seconds"):
        rpc(timeout=timeout)(lambda self: None)


def test_generator_is_an_error():
    def method(self: Any) -> Any:
        yield 1

    with pytest.raises(ConfigurationError, match="write async def"):
        entry(method)


def test_method_without_self_is_an_error():
    def method() -> None: ...

    with pytest.raises(ConfigurationError, match="has no self"):
        entry(method)


@pytest.mark.parametrize(
    "source",
    ["def method(self, *, a: int): ...", "def method(self, a, *rest, b=1): ...", "def method(self, **rest): ..."],
)
def test_keyword_only_argument_is_an_error(source):
    space: dict[str, Any] = {}
    exec(source, space)

    with pytest.raises(ConfigurationError, match=r"method: (a|b|rest) is keyword-only, but calls carry positional"):
        entry(space["method"])


def test_require_user_without_load_session_is_an_error():
    class Holder:
        @rpc(use=[require_user, load_session])
        def method(self) -> None: ...

    with pytest.raises(ConfigurationError, match="require_user wants load_session before it"):
        Registry.of(Holder)


def test_middleware_that_cannot_be_called_is_an_error():
    class Holder:
        @rpc(use=["load_session"])
        def method(self) -> None: ...

    with pytest.raises(ConfigurationError, match="'load_session' is no middleware"):
        Registry.of(Holder)


# Annotations


class Unknown:
    """A class that nobody can decode into."""


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Unknown, "cannot decode into"),
        (list[Unknown], "cannot decode into"),
        (complex, "cannot decode into"),
        (Callable[[], int], "cannot decode into"),
        (dict[int, str], "keys of a dict are text"),
        (list[dict[float, str]], "keys of a dict are text"),
        (msgspec.msgpack.Ext, "extension types are not accepted"),
        (int | Unknown, "not supported"),
        (list[int] | tuple[int, int], "not supported"),
        (str | bytes, "not supported"),
        (5, "not supported"),
    ],
)
def test_annotation_that_cannot_work_is_told_with_its_argument(annotation, text):
    def method(self, first: int, second): ...

    method.__annotations__["second"] = annotation

    with pytest.raises(ConfigurationError, match=rf"method, params\[1\] \(second\): .*{text}"):
        entry(method)


def test_annotation_that_is_not_defined_is_an_error():
    def method(self, a: "Nowhere"): ...  # noqa: F821

    with pytest.raises(ConfigurationError, match="annotation cannot be resolved: name 'Nowhere' is not defined"):
        entry(method)


def test_postponed_annotations_are_resolved_in_their_own_module(tmp_path, monkeypatch):
    (tmp_path / "postponed_actions.py").write_text(
        textwrap.dedent(
            """
            from __future__ import annotations
            import dataclasses
            from sstream.rpc.registry import Actions, rpc

            @dataclasses.dataclass
            class Item:
                name: str
                count: int = 1

            class Cart(Actions):
                Number = int

                @rpc
                def add(self, item: Item, more: list[Item] | None = None, number: Number = 0) -> dict[str, Item]: ...
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    import postponed_actions

    holder = type("Holder", (), {"actions": {"cart": postponed_actions.Cart}})
    made = Registry.of(holder).table(MSGPACK, Bounds(), None).entries["cart.add"]

    assert made.decode(msgpack.packb([{"name": "tea"}])) == (postponed_actions.Item("tea", 1), None, 0)
    monkeypatch.delitem(sys.modules, "postponed_actions")


def test_method_without_annotations_takes_anything():
    def method(self, a, b): ...

    assert decode(method, [{"x": [1, b"2"]}, None]) == ({"x": [1, b"2"]}, None)


# Arguments


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Item:
    name: str
    qty: int = 1


class Tree(msgspec.Struct):
    name: str
    children: "list[Tree]" = []


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Options(TypedDict, total=False):
    verbose: bool


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
UUID = uuid.UUID("12345678123456781234567812345678")


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
@pytest.mark.parametrize(
    ("annotation", "sent", "expected"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (str, "tea", "tea"),
        (bool, True, True),
        (None, None, None),
        (int | None, None, None),
        (int | str, "x", "x"),
        (list[int], [1, 2], [1, 2]),
        (Sequence[int], [1, 2], [1, 2]),
        (set[str], ["a", "a"], {"a"}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (dict[Color, int], {"red": 1}, {Color.RED: 1}),
        (Literal["a", "b"], "b", "b"),
        (Color, "blue", Color.BLUE),
        (Level, 2, Level.HIGH),
        (Item, {"name": "tea"}, Item("tea", 1)),
        (list[Item], [{"name": "tea", "qty": 2}], [Item("tea", 2)]),
        (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
        (Point, [1.5], Point(1.5)),
        (Options, {"verbose": True}, {"verbose": True}),
        (datetime.datetime, "2026-01-02T03:04:05Z", MOMENT),
        (datetime.date, "2026-01-02", MOMENT.date()),
        (uuid.UUID, str(UUID), UUID),
        (decimal.Decimal, "1.5", decimal.Decimal("1.5")),
        (Annotated[int, msgspec.Meta(ge=1, le=5)], 5, 5),
        (object, {"a": 1}, {"a": 1}),
        (Any, [1, {"a": None}], [1, {"a": None}]),
        (list, [1, "a"], [1, "a"]),
        (dict, {"a": 1}, {"a": 1}),
    ],
)
def test_argument_is_decoded_into_its_annotation(codec, annotation, sent, expected):
    def method(self, value): ...

    method.__annotations__["value"] = annotation

    assert decode(method, [sent], codec) == (expected,)


def test_timestamp_of_messagepack_is_a_datetime():
    def method(self, when: datetime.datetime, anything): ...

    assert decode(method, [MOMENT, 1]) == (MOMENT, 1)


@pytest.mark.parametrize(
    ("annotation", "sent", "text"),
    [
        (int, "x", "params[0] (value): expected int, got str"),
        (int, 1.5, "params[0] (value): expected int, got float"),
        (int, True, "params[0] (value): expected int, got bool"),
        (int | None, "x", "params[0] (value): expected int | null, got str"),
        (str, 5, "params[0] (value): expected str, got int"),
        (list[int], [1, "x"], "params[0][1] (value): expected int, got str"),
        (Item, {"name": "tea", "qty": "2"}, "params[0].qty (value): expected int, got str"),
        (Item, {}, "params[0] (value): object missing required field name"),
        (list[Item], [{"name": "a"}, {"name": 1}], "params[0][1].name (value): expected str, got int"),
        (dict[str, Item], {"a": {"name": 1}}, "params[0][...].name (value): expected str, got int"),
        (dict[str, int], {1: 1}, "key in params[0] (value): expected str, got int"),
        (Color, "green", "params[0] (value): invalid enum value 'green'"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "params[0] (value): expected int >= 1"),
        (Any, {1: 1}, "params: map keys must be text"),
        (
            Tree,
            {"name": "a", "children": [{"name": "a", "children": [{}]}]},
            "params[0].children[0].children[0] (value): object missing required field name",
        ),
    ],
)
def test_wrong_argument_is_named_with_its_path(annotation, sent, text):
    def method(self, value): ...

    method.__annotations__["value"] = annotation

    assert complaint(method, [sent]) == text


def test_tree_that_is_too_deep_is_refused():
    def method(self, tree: Tree): ...

    tree: dict[str, Any] = {"name": "leaf"}
    for _ in range(20):
        tree = {"name": "branch", "children": [tree]}

    assert complaint(method, [tree]) == "params: nested more than 32 deep"


def test_long_complaint_is_cut():
    def method(self, color: Color): ...

    assert len(complaint(method, ["x" * 60_000])) < 600


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
@pytest.mark.parametrize(("params", "expected"), [([], (1, [])), ([5], (5, [])), ([5, [1]], (5, [1]))])
def test_defaults_are_filled_in(codec, params, expected):
    def method(self, a: int = 1, b: list[int] = []): ...  # noqa: B006

    assert decode(method, params, codec) == expected


def test_default_is_the_very_object():
    default = object()

    def method(self, a: Any = default): ...

    assert decode(method, [])[0] is default


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
@pytest.mark.parametrize("params", [["x"], ["x", 2], ["x", 2, True], ["x", 2, True, False]])
def test_rest_of_the_arguments_is_typed(codec, params):
    def method(self, a: str, b: int = 1, *flags: bool): ...

    assert decode(method, params, codec) == (*params, 1)[: max(2, len(params))]


def test_all_of_the_arguments_may_be_the_rest():
    def method(self, *numbers: int): ...

    assert decode(method, list(range(1000))) == tuple(range(1000))
    assert complaint(method, [1, "x"]) == "params[1] (numbers): expected int, got str"


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
def test_wrong_argument_in_the_rest_is_named(codec):
    def method(self, a: str, *items: Item): ...

    assert (
        complaint(method, ["x", {"name": "a"}, {"name": 5}], codec) == "params[2].name (items): expected str, got int"
    )
    assert complaint(method, [5], codec) == "params[0] (a): expected str, got int"


@pytest.mark.parametrize("codec", [MSGPACK, JSON])
@pytest.mark.parametrize(
    ("source", "params", "text"),
    [
        ("def method(self): ...", [1], "method takes 0 arguments"),
        ("def method(self, a): ...", [], "method takes 1 argument"),
        ("def method(self, a): ...", [1, 2], "method takes 1 argument"),
        ("def method(self, a, b=1): ...", [], "method takes 1 to 2 arguments"),
        ("def method(self, a, b=1): ...", [1, 2, 3], "method takes 1 to 2 arguments"),
        ("def method(self, a, *b): ...", [], "method takes at least 1 argument"),
        ("def method(self, a, *b): ...", [1] * 256, "method takes at least 1 argument"),
    ],
)
def test_wrong_number_of_arguments_is_told(codec, source, params, text):
    space: dict[str, Any] = {}
    exec(source, space)

    assert complaint(space["method"], params, codec).removesuffix(f", got {len(params)}") == text


# How a method is run


async def coroutine(self): ...


def plain(self): ...


async def stream(self):
    yield 1


async def middleware(request, call_next):
    return await call_next(request)


@pytest.mark.parametrize(
    ("function", "use", "kind"),
    [
        (plain, [], PLAIN),
        (plain, [load_session], SESSION),
        (plain, [load_session, load_session], SESSION),
        (plain, [middleware], CHAIN),
        (plain, [load_session, middleware], CHAIN),
        (coroutine, [], COROUTINE),
        (coroutine, [load_session], CHAIN),
        (stream, [], CHAIN),
        (functools.wraps(coroutine)(lambda self: coroutine(self)), [], CHAIN),
    ],
)
def test_method_is_run_in_the_cheapest_way_that_is_right(function, use, kind):
    holder = type("Holder", (), {"method": rpc(use=use)(function)})

    assert Registry.of(holder).table(MSGPACK, Bounds(), 30.0).entries["method"].kind == kind


@pytest.mark.parametrize(
    ("function", "options", "expected"),
    [
        (plain, {}, 30.0),
        (plain, {"timeout": 5}, 5),
        (plain, {"timeout": None}, None),
        (stream, {}, None),
        (stream, {"timeout": 5}, 5),
    ],
)
def test_timeout_is_the_methods_or_the_applications(function, options, expected):
    holder = type("Holder", (), {"method": rpc(**options)(function)})

    assert Registry.of(holder).table(MSGPACK, Bounds(), 30.0).entries["method"].timeout == expected


def test_tables_are_made_once_for_the_same_limits():
    registry = Registry.of(type("Holder", (), {"method": rpc(plain)}))

    assert registry.table(MSGPACK, Bounds(), 30.0) is registry.table(MSGPACK, Bounds(), 30.0)
    assert registry.table(MSGPACK, Bounds(), 30.0) is not registry.table(JSON, Bounds(), 30.0)


@pytest.mark.parametrize("count", range(7))
def test_arguments_are_spread_whatever_their_number(count):
    names = ", ".join(f"a{n}" for n in range(count))
    space: dict[str, Any] = {}
    exec(f"def method(self, {names}): return [self, {names}]", space)

    assert entry(space["method"]).invoke("self", tuple(range(count))) == ["self", *range(count)]


# Packages of actions


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``package({"app.py": source})`` writes a package and gives its name; the sources may use Actions and rpc."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(files: dict[str, str]) -> str:
        for name, source in {"__init__.py": "", **files}.items():
            path = tmp_path / "shop" / "actions" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("from sstream.rpc.registry import Actions, rpc\n" + textwrap.dedent(source))
        (tmp_path / "shop" / "__init__.py").write_text("")
        return "shop.actions"

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("shop"):
            del sys.modules[name]


ONE = """
class {name}(Actions):
    @rpc
    def test_action(self): ...
"""


def test_modules_of_a_package_are_mounted_under_their_names(package):
    name = package(
        {
            "app.py": ONE.format(name="App"),
            "cart.py": "from shop.actions.app import App\n" + ONE.format(name="Cart") + ONE.format(name="_Base"),
            "_hidden.py": "raise ImportError",
            "admin/__init__.py": ONE.format(name="Admin"),
            "admin/users.py": ONE.format(name="Users"),
            "empty/__init__.py": "",
        }
    )

    holder = type("Holder", (), {"actions": load_actions(name)})

    assert names(holder) == ["admin.test_action", "admin.users.test_action", "app.test_action", "cart.test_action"]


@pytest.mark.parametrize("source", ["", ONE.format(name="One") + ONE.format(name="Two")])
def test_module_without_exactly_one_group_is_an_error(package, source):
    name = package({"app.py": source})

    with pytest.raises(
        ConfigurationError, match=r"shop.actions.app must have one Actions class of its own; it has (none|One, Two)"
    ):
        load_actions(name)


def test_package_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigurationError, match="there is no package 'nowhere.at_all'"):
        load_actions("nowhere.at_all")


def test_module_instead_of_a_package_is_an_error():
    with pytest.raises(ConfigurationError, match="textwrap is a module, not a package"):
        load_actions("textwrap")


def test_import_that_fails_inside_of_a_package_is_passed_on(package):
    name = package({"app.py": "import nowhere_at_all"})

    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        load_actions(name)


# Against an independent model


def is_int(value: Any) -> bool:
    return type(value) is int


MODEL: dict[Any, Callable[[Any], bool]] = {
    int: is_int,
    float: lambda value: type(value) in {int, float},
    str: lambda value: type(value) is str,
    bool: lambda value: type(value) is bool,
    bytes: lambda value: type(value) is bytes,
    int | None: lambda value: value is None or is_int(value),
    str | int: lambda value: type(value) in {str, int},
    list[int]: lambda value: type(value) is list and all(map(is_int, value)),
    dict[str, int]: lambda value: type(value) is dict and all(map(is_int, value.values())),
    tuple[int, str]: lambda value: (
        type(value) is list and len(value) == 2 and is_int(value[0]) and type(value[1]) is str
    ),
    Literal["a", "b"]: lambda value: type(value) is str and value in {"a", "b"},
    Item: lambda value: (
        type(value) is dict and type(value.get("name")) is str and ("qty" not in value or is_int(value["qty"]))
    ),
    Any: lambda value: True,
}
# Bytes instead of text are decoded from base64 by design: left out of what is sent to bytes.
some_texts = st.sampled_from(["a", "b", "tea", ""])
some_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.floats(-5, 5).filter(lambda f: not f.is_integer())
    | some_texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "qty", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
fitting = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False) | st.integers(-100, 100),
    str: st.text(max_size=10),
    bool: st.booleans(),
    bytes: st.binary(max_size=10),
    int | None: st.none() | st.integers(-100, 100),
    str | int: some_texts | st.integers(-100, 100),
    list[int]: st.lists(st.integers(-100, 100), max_size=4),
    dict[str, int]: st.dictionaries(some_texts, st.integers(-100, 100), max_size=4),
    tuple[int, str]: st.tuples(st.integers(-100, 100), some_texts).map(list),
    Literal["a", "b"]: st.sampled_from(["a", "b"]),
    Item: st.fixed_dictionaries({"name": some_texts}, optional={"qty": st.integers(0, 9), "x": st.none()}),
    Any: some_values,
}


@st.composite
def signatures_and_calls(draw: Any) -> tuple[list[Any], int, list[list[Any]]]:
    """Types of arguments, how many of them have defaults, and calls with params that mostly nearly fit."""
    annotations = draw(st.lists(st.sampled_from(list(MODEL)), max_size=4))
    defaults = draw(st.integers(0, len(annotations)))
    candidates = [
        draw(st.lists(fitting[annotation] | fitting[annotation] | some_values, min_size=4, max_size=8))
        for annotation in annotations
    ]
    spare = draw(some_values)
    chance = draw(st.randoms(use_true_random=False))
    calls = []
    for _ in range(100):
        params = [chance.choice(values) for values in candidates]
        cut = chance.randint(0, 12)
        calls.append([*params, spare] if cut == 12 else params[:cut])
    return annotations, defaults, calls


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(signatures_and_calls())
def test_ten_thousand_calls_are_accepted_or_refused_as_the_model_says(case):
    annotations, defaults, calls = case
    required = len(annotations) - defaults
    arguments = [f"a{n}: T{n}" + (" = None" if n >= required else "") for n in range(len(annotations))]
    space: dict[str, Any] = {f"T{n}": annotation for n, annotation in enumerate(annotations)}
    exec(f"def method(self, {', '.join(arguments)}): ...", space)
    made = entry(space["method"])

    for params in calls:
        expected = required <= len(params) <= len(annotations) and all(
            MODEL[annotation](value) for annotation, value in zip(annotations, params, strict=False)
        )
        if any(a is bytes and type(p) is str for a, p in zip(annotations, params, strict=False)):
            continue
        try:
            got = made.decode(msgspec.Raw(msgpack.packb(params)))
        except DECODE_ERRORS:
            got = None
        assert (got is not None) is expected
        assert got is None or len(got) == len(annotations)
