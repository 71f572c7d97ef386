"""Know every method that may be called, under which name, with which types, through which middleware.

Everything here happens once, when a class is created; whatever is wrong with a method is told then, not when it is
called. A call only looks up a name.
"""

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any, ClassVar, Final, TypeVar, overload
from weakref import WeakKeyDictionary

import msgspec
from msgspec import inspect as types

from sstream.counters import CallCounts, MethodCounts
from sstream.errors import ConfigurationError
from sstream.rpc.codec import CODECS, Bounds, Codec
from sstream.rpc.middleware import Middleware, Next, Request, load_session, require_user

__all__ = [
    "CHAIN",
    "COROUTINE",
    "PLAIN",
    "SESSION",
    "Actions",
    "Entry",
    "Method",
    "Parameter",
    "Registry",
    "Table",
    "load_actions",
    "rpc",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
PLAIN: Final = 0
COROUTINE: Final = 1
SESSION: Final = 2
CHAIN: Final = 3

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
# How msgspec words its objections.
_COUNT: Final = re.compile(r"Expected array of (?:at least |at most )?length \d+(?: to \d+)?(?:, got (?P<got>\d+))?")
_PLACE: Final = re.compile(r"(?P<key>key in )?\$\[(?P<position>\d+)\](?P<rest>.*)", re.DOTALL)
_DEFAULT: Final = -1.0  # the application's call timeout


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None
    use: tuple[Middleware, ...]
    timeout: float | None
    detached: bool


@overload
def rpc(function: _Function, /) -> _Function: ...
@overload
def rpc(
    *, name: str | None = None, use: Sequence[Middleware] = (), timeout: float | None = _DEFAULT, detached: bool = False
) -> Callable[[_Function], _Function]: ...
def rpc(
    function: _Function | None = None,
    /,
    *,
    name: str | None = None,
    use: Sequence[Middleware] = (),
    timeout: float | None = _DEFAULT,
    detached: bool = False,
) -> _Function | Callable[[_Function], _Function]:
    """Mark a method as one that browsers may call; nothing else is callable.

    A ``def`` method is answered at once, an ``async def`` method may wait, an async generator streams its items.
    Arguments are checked against their annotations before the method runs; without annotations anything goes.

    Args:
        name: What it is called by, instead of its Python name.
        use: Middleware for this method, inside of that of its class.
        timeout: Seconds it may take instead of the application's ``call_timeout``; None for no end. Streams have none,
            unless it is given.
        detached: It goes on when its socket closes; else it is cancelled.
    """

    def mark(function: _Function) -> _Function:
        if not isinstance(function, FunctionType):
            raise ConfigurationError(f"@rpc marks functions, not {function!r}; put it below other decorators")
        if timeout is not None and timeout is not _DEFAULT and not timeout > 0:
            raise ConfigurationError(f"timeout must be more than 0 seconds, or None: {timeout!r}")
        function.__dict__["__rpc__"] = _Mark(name, tuple(use), timeout, detached)
        return function

    return mark if function is None else mark(function)


class Actions:
    """A group of methods under a name: ``actions = {"cart": Cart}`` makes ``Cart.add`` callable as ``cart.add``.

    ``middleware`` stands around all its methods; ``actions`` mounts further groups below it. There is one instance for
    a socket, made at the first call; ``handler`` is the socket's handler.
    """

    middleware: ClassVar[Sequence[Middleware]] = ()
    actions: ClassVar[Mapping[str, type["Actions"]]] = {}

    __slots__ = ("handler",)

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    @property
    def session(self) -> Any:
        """The caller's session; wants ``load_session``."""
        return self.handler.session

    @property
    def publish(self) -> Any:
        """The publisher: ``all``, ``user``, ``channel``, ``socket``."""
        return self.handler.publish

    async def subscribe(self, *channels: str) -> None:
        """Subscribe the caller's socket to channels."""
        await self.handler.subscribe(*channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe the caller's socket from channels."""
        await self.handler.unsubscribe(*channels)

    async def call(self, method: str, *params: Any, timeout: float | None = None) -> Any:
        """Call a function that the browser exposes, and get its result."""
        return await self.handler.call(method, *params, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument as it is declared; ``type`` is ``Any`` without an annotation, ``variadic`` tells ``*args``."""

    name: str
    type: Any
    required: bool
    default: Any = None
    variadic: bool = False


class Method:
    """One callable method: what it takes and gives, and how it is run.

    Attributes:
        name: The dotted name it is called by.
        function: The function as written.
        owner: The Actions class it belongs to, or None for a method of the handler.
        middleware: Around it, the outermost first.
        timeout: Seconds, None for no end; ``DEFAULT_TIMEOUT`` for the application's.
        detached: It survives its socket.
        parameters: What it takes.
        returns: The annotation of the result, or of a stream's items; ``Any`` without one.
        is_stream: It is an async generator.
        is_coroutine: It is an ``async def``.
    """

    DEFAULT_TIMEOUT: Final = _DEFAULT

    def __init__(
        self,
        name: str,
        function: FunctionType,
        owner: type[Actions] | None,
        middleware: Sequence[Middleware],
        mark: _Mark,
    ) -> None:
        self.name = name
        self.function = function
        self.owner = owner
        self.middleware = tuple(dict.fromkeys(middleware))
        self.detached = mark.detached
        written = inspect.unwrap(function)
        self.is_stream = inspect.isasyncgenfunction(written)
        self.is_coroutine = inspect.iscoroutinefunction(written)
        # Who streams does so for as long as it is listened to.
        self.timeout = None if self.is_stream and mark.timeout == _DEFAULT else mark.timeout
        self._check()
        self.parameters, self.returns = self._read_signature()
        self.is_open, self.has_timestamps = self._read_types()
        self._decoders = {codec.subprotocol: self._build_decoder(codec) for codec in CODECS.values()}

    def __repr__(self) -> str:
        return f"<Method {self.name}>"

    @cached_property
    def doc(self) -> str:
        """The docstring, or an empty text."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def where(self) -> str:
        """Where it stands in the code, for messages to its author."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def decoder(self, codec: Codec, bounds: Bounds) -> Callable[[Any], Sequence[Any]]:
        """Build the function that turns raw params into arguments, or raises one of ``DECODE_ERRORS``."""
        decode = self._decoders[codec.subprotocol]
        if not self.is_open:
            return decode

        def decode_open(raw: Any) -> Sequence[Any]:
            # Scalars need no look at the bytes, which takes 0.6 us. Whoever hands in more than ``SMALL`` bytes has
            # counted the containers before.
            arguments = decode(raw)
            for argument in arguments:
                if type(argument) not in _SCALARS:
                    codec.check(bytes(raw), bounds, 1, timestamps=self.has_timestamps)
                    break
            return arguments

        return decode_open

    def explain(self, error: Exception) -> str:
        """Say why params were not accepted, as in ``params[1].qty (count): expected int, got str``."""
        if isinstance(error, RecursionError):
            return "params: nested too deeply"
        if not isinstance(error, msgspec.ValidationError):
            return "params: malformed"
        # In the browser's words. Names may be long, and the caller's own.
        text = str(error)[:500].replace("`None`", "null").replace("| None", "| null").replace("`", "")
        if count := _COUNT.fullmatch(text):
            fewest = sum(parameter.required for parameter in self.parameters)
            most = len(self.parameters)
            if any(parameter.variadic for parameter in self.parameters):
                takes = f"at least {fewest}"
            else:
                takes = str(most) if fewest == most else f"{fewest} to {most}"
            got = f", got {count['got']}" if count["got"] else ""
            return f"{self.name} takes {takes} argument{'' if takes.endswith('1') else 's'}{got}"
        text, _, path = text.partition(" - at ")
        text = text[:1].lower() + text[1:]
        if place := _PLACE.fullmatch(path):
            name = self.parameters[min(int(place["position"]), len(self.parameters) - 1)].name
            return f"{place['key'] or ''}params[{place['position']}]{place['rest']} ({name}): {text}"
        return f"params: {text}"

    def _check(self) -> None:
        for part in self.name.split("."):
            if not part.isidentifier() or part.startswith("_"):
                raise ConfigurationError(
                    f"{self.where} cannot be called {self.name!r}: names are identifiers joined by dots, "
                    "none with an underscore in front; give it another by @rpc(name=...)"
                )
        if inspect.isgeneratorfunction(self.function):
            raise ConfigurationError(f"{self.where} is a generator; a stream is an async generator: write async def")
        for middleware in self.middleware:
            if not callable(middleware):
                raise ConfigurationError(f"{self.where}: {middleware!r} is no middleware")
        if (
            require_user in self.middleware
            and load_session not in self.middleware[: self.middleware.index(require_user)]
        ):
            raise ConfigurationError(f"{self.where}: require_user wants load_session before it")

    def _read_signature(self) -> tuple[tuple[Parameter, ...], Any]:
        signature = inspect.signature(self.function)
        namespace = dict(vars(self.owner)) if self.owner else {}
        try:
            hints = typing.get_type_hints(self.function, localns=namespace, include_extras=True)
        except (NameError, TypeError, SyntaxError, AttributeError) as error:
            raise ConfigurationError(f"{self.where}: an annotation cannot be resolved: {error}") from error
        declared = list(signature.parameters.values())
        if not declared or declared[0].kind not in {
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        }:
            raise ConfigurationError(f"{self.where} has no self")
        parameters = []
        for parameter in declared[1:]:
            if parameter.kind in {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
                raise ConfigurationError(
                    f"{self.where}: {parameter.name} is keyword-only, but calls carry positional arguments only; "
                    "move it before the *, or take one object"
                )
            required = parameter.default is parameter.empty
            parameters.append(
                Parameter(
                    parameter.name,
                    hints.get(parameter.name, Any),
                    required and parameter.kind is not parameter.VAR_POSITIONAL,
                    None if required else parameter.default,
                    parameter.kind is parameter.VAR_POSITIONAL,
                )
            )
        return tuple(parameters), hints.get("return", Any)

    def _read_types(self) -> tuple[bool, bool]:
        is_open = has_timestamps = False
        for position, parameter in enumerate(self.parameters):
            try:
                found = _Types(parameter.type)
            except (TypeError, ConfigurationError) as error:
                raise ConfigurationError(f"{self.where}, params[{position}] ({parameter.name}): {error}") from error
            is_open |= found.is_open
            has_timestamps |= found.has_timestamps
        return is_open, has_timestamps

    def _build_decoder(self, codec: Codec) -> Callable[[Any], Sequence[Any]]:
        *fixed, last = self.parameters or (None,)
        if last is None:
            return codec.decoder(tuple[()])
        if last.variadic:
            if not fixed:
                return codec.decoder(tuple[last.type, ...])  # type: ignore[name-defined]  # a type made at run time
            return self._build_variadic(codec)
        if last.required:
            return codec.decoder(tuple[tuple(parameter.type for parameter in self.parameters)])  # type: ignore[misc]  # as above
        return codec.decoder(_named_tuple(self.parameters))

    def _build_variadic(self, codec: Codec) -> Callable[[Any], Sequence[Any]]:
        *fixed, rest = self.parameters
        split = codec.decoder(list[msgspec.Raw])
        decoders = [codec.decoder(parameter.type) for parameter in fixed]
        decode_rest = codec.decoder(rest.type)
        fewest = sum(parameter.required for parameter in fixed)
        most = 255

        def decode(raw: Any) -> Sequence[Any]:
            # Counted first: a raw element costs 56 bytes.
            if codec.count_params(raw) > most:
                raise msgspec.ValidationError(f"Expected `array` of at most length {most}")
            parts = split(raw)
            if len(parts) < fewest:
                raise msgspec.ValidationError(f"Expected `array` of at least length {fewest}, got {len(parts)}")
            if len(parts) > most:
                raise msgspec.ValidationError(f"Expected `array` of at most length {most}, got {len(parts)}")
            arguments = []
            for position, part in enumerate(parts):
                try:
                    arguments.append((decoders[position] if position < len(decoders) else decode_rest)(part))
                except msgspec.ValidationError as error:
                    text, _, path = str(error).partition(" - at `$")
                    raise msgspec.ValidationError(f"{text} - at `$[{position}]{path or '`'}") from None
            arguments.extend(parameter.default for parameter in fixed[len(arguments) :])
            return arguments

        return decode


def _named_tuple(parameters: Sequence[Parameter]) -> Any:
    # msgspec fills defaults into a NamedTuple while it decodes; the names are our own, as a field may not begin with _.
    fields = [(f"p{position}", parameter.type) for position, parameter in enumerate(parameters)]
    defaults = tuple(parameter.default for parameter in parameters if not parameter.required)
    made: Any = typing.NamedTuple("Params", fields)  # type: ignore[misc]  # a type made at run time
    made.__new__.__defaults__ = defaults
    made._field_defaults = dict(zip(made._fields[-len(defaults) :], defaults, strict=True))
    return made


class _Types:
    """What must be known of an annotation before values are decoded into it.

    ``is_open``: it lets values through that no type bounds (``Any``, bare containers, types that hold themselves), so
    the bytes are checked as well. ``has_timestamps``: MessagePack's timestamps are wanted.
    """

    def __init__(self, annotation: Any) -> None:
        self.is_open = self.has_timestamps = False
        self._above: list[Any] = []
        self._done: set[Any] = set()
        msgspec.msgpack.Decoder(annotation)  # msgspec's own objections first: they are the clearest
        self._walk(types.type_info(annotation))

    def _walk(self, node: types.Type) -> None:
        match node:
            case types.AnyType():
                self.is_open = True
            case types.CustomType(cls=cls):
                if cls is not object:
                    raise ConfigurationError(
                        f"cannot decode into {cls!r}; legal are JSON's types, dataclasses, msgspec.Struct, TypedDict, "
                        "NamedTuple, Enum, Literal, datetime, UUID, Decimal and containers of them"
                    )
                self.is_open = True
            case types.ExtType():
                raise ConfigurationError("extension types are not accepted")
            case types.DateTimeType():
                self.has_timestamps = True
            case types.DictType(key_type=types.IntType() | types.FloatType() | types.BoolType() | types.BytesType()):
                raise ConfigurationError("keys of a dict are text: objects in a browser have no others")
            case types.StructType() | types.DataclassType() | types.TypedDictType() | types.NamedTupleType():
                cls = node.cls
                if cls in self._above:
                    self.is_open = True
                    return
                if cls in self._done:
                    return
                self._done.add(cls)
                self._above.append(cls)
                for field in node.fields:
                    self._walk(field.type)
                self._above.pop()
                return
        for child in _children(node):
            self._walk(child)


def _children(node: types.Type) -> Iterator[types.Type]:
    for name in ("item_type", "key_type", "value_type", "type"):
        child = getattr(node, name, None)
        if isinstance(child, types.Type):
            yield child
    for name in ("types", "item_types"):
        yield from getattr(node, name, ())


class Entry(MethodCounts):
    """A method as one application calls it, through one codec: the way from raw params to a result is ready.

    ``kind`` is one of ``PLAIN`` (``invoke(target, arguments)`` gives the result), ``COROUTINE`` (it gives a coroutine),
    ``SESSION`` (as ``PLAIN``, with the session loaded before and committed after), and ``CHAIN`` (``chain(request)``
    gives a coroutine). It counts its calls itself, and ``untimed`` gives for each what is needed first of all:
    ``(kind, owner, decode, invoke)``.
    """

    __slots__ = ("chain", "decode", "detached", "invoke", "is_stream", "kind", "method", "owner", "timeout")

    def __init__(self, method: Method, codec: Codec, bounds: Bounds, timeout: float | None, counts: CallCounts) -> None:
        self.method = method
        self.owner = method.owner
        self.detached = method.detached
        self.is_stream = method.is_stream
        self.timeout = timeout if method.timeout == Method.DEFAULT_TIMEOUT else method.timeout
        self.decode = method.decoder(codec, bounds)
        self.invoke = _spread(method)
        self.chain = _link(method)
        if counts.around is not None:
            self.invoke = counts.around(method.name, self.invoke, method.is_coroutine)
            self.chain = counts.around(method.name, self.chain, True)
        if method.is_stream or method.is_coroutine is not inspect.iscoroutinefunction(method.function):
            self.kind = CHAIN
        elif not method.middleware:
            self.kind = COROUTINE if method.is_coroutine else PLAIN
        elif method.middleware == (load_session,) and not method.is_coroutine:
            self.kind = SESSION
        else:
            self.kind = CHAIN
        super().__init__(method.name, counts.watch, (self.kind, self.owner, self.decode, self.invoke))
        if self.kind == CHAIN:
            self.stride = 0  # each is timed: that is little beside what a chain costs
        counts.methods.append(self)


def _spread(method: Method) -> Callable[[Any, Any], Any]:
    # On CPython 3.11 f(target, *arguments) takes 190 ns more than f(target, a, b): the calls are not inlined.
    function: Callable[..., Any] = method.function
    if any(parameter.variadic for parameter in method.parameters):
        return lambda target, arguments: function(target, *arguments)
    match len(method.parameters):
        case 0:
            return lambda target, _: function(target)
        case 1:

            def one(target: Any, arguments: Any) -> Any:
                (first,) = arguments
                return function(target, first)

            return one
        case 2:

            def two(target: Any, arguments: Any) -> Any:
                first, second = arguments
                return function(target, first, second)

            return two
        case 3:

            def three(target: Any, arguments: Any) -> Any:
                first, second, third = arguments
                return function(target, first, second, third)

            return three
        case _:
            return lambda target, arguments: function(target, *arguments)


def _link(method: Method) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    function: Callable[..., Any] = method.function

    async def stream(request: Request) -> Any:
        return await request.stream(function(request.target, *request.params))

    async def call(request: Request) -> Any:
        result = function(request.target, *request.params)
        # Asked of the result: a decorator may hide what is below it.
        return await result if inspect.isawaitable(result) else result

    chain: Callable[[Request], Coroutine[Any, Any, Any]] = stream if method.is_stream else call
    for middleware in reversed(method.middleware):
        chain = _around(middleware, chain)
    return chain


def _around(middleware: Middleware, call_next: Next) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    if inspect.iscoroutinefunction(middleware):
        return lambda request: middleware(request, call_next)

    async def step(request: Request) -> Any:
        return await middleware(request, call_next)

    return step


class Registry:
    """All methods of one handler class, by name; ``counts`` has the calls that belong to no application."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self.methods = methods
        # By application: each counts its own calls.
        self.counts = CallCounts()
        self._tables: WeakKeyDictionary[CallCounts, dict[tuple[str, Bounds, float | None], Table]] = WeakKeyDictionary()

    @classmethod
    def of(cls, handler: type) -> "Registry":
        """Collect the methods of a handler class and of the groups mounted on it.

        Raises:
            ConfigurationError: A name is taken twice, or a method cannot be called as it is declared.
        """
        methods: dict[str, Method] = {}
        _collect(methods, "", (handler,), ())
        return cls(methods)

    def table(self, codec: Codec, bounds: Bounds, timeout: float | None, counts: CallCounts | None = None) -> "Table":
        """Get the table of calls for one codec and the limits and counts of an application; made once for each."""
        counts = self.counts if counts is None else counts
        key = (codec.subprotocol, bounds, timeout)
        tables = self._tables.setdefault(counts, {})
        table = tables.get(key)
        if table is None:
            entries = {name: Entry(method, codec, bounds, timeout, counts) for name, method in self.methods.items()}
            table = tables[key] = Table(entries, codec.call_decoder(entries))
        return table


@dataclass(frozen=True, slots=True)
class Table:
    """The entries by name, and what decodes a common call of one of them: see ``Codec.call_decoder``."""

    entries: Mapping[str, Entry]
    decode_call: Callable[[Any], tuple[int, int | str, str, msgspec.Raw]]


def _collect(
    methods: dict[str, Method], prefix: str, holders: tuple[type, ...], middleware: tuple[Middleware, ...]
) -> None:
    """Add the methods of the last of ``holders``, which is mounted under ``prefix`` by those before it."""
    holder = holders[-1]
    owner = holder if issubclass(holder, Actions) else None
    middleware = (*middleware, *getattr(holder, "middleware", ()))
    for attribute in dir(holder):
        value = inspect.getattr_static(holder, attribute)
        # A static method and a class method hide the mark of what they wrap.
        mark = getattr(getattr(value, "__func__", value), "__rpc__", None)
        if not isinstance(mark, _Mark):
            continue
        if not isinstance(value, FunctionType):
            kind = type(value).__name__
            raise ConfigurationError(f"{holder.__qualname__}.{attribute}: @rpc marks plain methods, not a {kind}")
        method = Method(prefix + (mark.name or attribute), value, owner, (*middleware, *mark.use), mark)
        taken = methods.setdefault(method.name, method)
        if taken is not method:
            raise ConfigurationError(f"two methods are called {method.name!r}: {taken.where} and {method.where}")
    for name, group in getattr(holder, "actions", {}).items():
        if not (isinstance(group, type) and issubclass(group, Actions)):
            raise ConfigurationError(f"{holder.__qualname__}.actions[{name!r}] is no Actions class: {group!r}")
        if group in holders:
            raise ConfigurationError(f"{holder.__qualname__}.actions[{name!r}] is mounted within itself")
        _collect(methods, f"{prefix}{name}.", (*holders, group), middleware)


def load_actions(package: str) -> dict[str, type[Actions]]:
    """Get the Actions classes of a package's modules under the modules' names, to be mounted.

    ``shop/actions/app.py`` with ``class App(Actions)`` and its method ``test_action`` is called as ``app.test_action``;
    a package inside of the package gives a further part of the name. Names with an underscore in front are left out.

    Raises:
        ConfigurationError: There is no such package, or a module has not exactly one Actions class of its own.
    """
    try:
        root = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"there is no package {package!r}") from error
    if not hasattr(root, "__path__"):
        raise ConfigurationError(f"{package} is a module, not a package; mount its classes by hand")
    return dict(_load_package(root, ""))


def _load_package(package: ModuleType, prefix: str) -> Iterator[tuple[str, type[Actions]]]:
    for found in pkgutil.iter_modules(package.__path__):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        classes = [
            value
            for name, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, Actions)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
        if len(classes) == 1:
            yield prefix + found.name, classes[0]
        elif classes or not found.ispkg:
            names = ", ".join(cls.__name__ for cls in classes) or "none"
            raise ConfigurationError(f"{module.__name__} must have one Actions class of its own; it has {names}")
        if found.ispkg:
            yield from _load_package(module, f"{prefix}{found.name}.")
