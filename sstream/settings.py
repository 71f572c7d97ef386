"""Options from outside: what code leaves open is read from the environment, then from ``tornado.options``.

Nothing is listed here. The names, types, defaults and words of the settings are those of the keywords of `Application`,
and of the sets of options among these: ``Limits(drain=)`` is ``SSTREAM_LIMITS_DRAIN``.
"""

import difflib
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Final, Literal, TypeVar

import tornado.options
from tornado.options import OptionParser

from sstream.errors import ConfigurationError
from sstream.options import Options

__all__ = [
    "PREFIX",
    "Found",
    "Setting",
    "all_settings",
    "check_names",
    "choose",
    "define",
    "fill",
    "groups",
    "markdown",
    "read",
    "settings_of",
    "suggestion",
    "without_password",
]

T = TypeVar("T", bound=Options)
Maker = Callable[..., Any]  # a class whose keywords are settings

PREFIX: Final = "SSTREAM_"

_BOOLEANS: Final = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip
_TEXTS: Final = frozenset({bool, int, float, str, Sequence[str]})
_SECTION: Final = re.compile(r"^(?:Args|Attributes):\n((?:    .*\n|\n)*)", re.MULTILINE)
_ENTRY: Final = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One option that can be set from outside.

    Attributes:
        code: How code gives it: ``Limits(drain=)``.
        name: Its keyword.
        variable: Its name in the environment; the same in small letters is that in ``tornado.options``.
        kind: Its type.
        default: What holds where nobody says anything.
        text: What it means.
        is_secret: Must its value never be shown?
    """

    code: str
    name: str
    variable: str
    kind: Any
    default: Any
    text: str
    is_secret: bool

    @property
    def is_text(self) -> bool:
        """Can its value be written as text? What cannot, a function for instance, is given in code alone."""
        return any(kind in _TEXTS or isinstance(kind, str) for kind in _members(self.kind))

    @property
    def legal(self) -> str:
        """What may be written in the environment."""
        kinds = _members(self.kind)
        words = [f"`{kind}`" for kind in kinds if isinstance(kind, str)]
        if bool in kinds:
            words += ["`true`", "`false`"]
        if int in kinds or float in kinds:
            words.append("a number" if float in kinds else "a whole number")
        if Sequence[str] in kinds:
            words.append("texts, separated by commas or line ends")
        elif str in kinds:
            words.append("text")
        if type(None) in kinds and self.default is not None:
            words.append("`none`")
        return ", ".join(words)

    def parse(self, text: str) -> Any:
        """The value that ``text`` means.

        Raises:
            ValueError: It means none.
        """
        kinds, word = _members(self.kind), text.strip().lower()
        if word in kinds:
            return word
        if bool in kinds and word in _BOOLEANS:
            return _BOOLEANS[word]
        if type(None) in kinds and word == "none":
            return None
        if Sequence[str] in kinds:
            return tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
        if int in kinds and float not in kinds:
            return int(word)
        if float in kinds and math.isfinite(number := float(word)):
            return number
        if str in kinds:
            return text
        raise ValueError(text)


@dataclass(frozen=True, slots=True)
class Found:
    """A setting that was found outside: its value, and what the place is called where it stood."""

    setting: Setting
    value: Any
    place: str

    @property
    def shown(self) -> str:
        """Its value for people, without secrets."""
        if self.setting.is_secret:
            return "(not shown)"
        if isinstance(self.value, str):
            return without_password(self.value)
        return ", ".join(self.value) if isinstance(self.value, tuple) else str(self.value)


# --- reading ----------------------------------------------------------------------------------------------------------


def read(maker: Maker, prefix: str = PREFIX, *, given: Container[str] = ()) -> dict[str, Found]:
    """What is found outside of the keywords of ``maker``, by keyword, without those that are ``given``.

    A variable that is set and empty counts as not set.

    Raises:
        ConfigurationError: A value is none that the option can have; the message names the variable.
    """
    places = ((setting, place) for setting in settings_of(maker, prefix) if setting.name not in given
              for place in (_environment(setting), _tornado_option(setting)))  # fmt: skip
    found: dict[str, Found] = {}
    for setting, place in places:
        if place is not None and setting.name not in found:
            found[setting.name] = _parse(setting, *place)
    return found


def choose(maker: Maker, **given: Any) -> dict[str, Any]:
    """What ``maker`` goes by: of its keywords those ``given``, the others as found outside; ``None`` is not given.

    Raises:
        ConfigurationError: As `read` does.
    """
    said = {name for name, value in given.items() if value is not None}
    return given | {name: one.value for name, one in read(maker, given=said).items()}


def fill(options: T, prefix: str) -> T:
    """The same options, and those that code has not given as they are found outside.

    Raises:
        ConfigurationError: They cannot work, or not together; the message names the variables.
    """
    found = read(type(options), prefix, given=options.given)
    if not found:
        return options
    try:
        return options.but(**{name: one.value for name, one in found.items()})
    except ConfigurationError as error:
        named = [one for name, one in found.items() if re.search(rf"\b{name}\b", str(error))]
        places = " and ".join(one.place for one in named or found.values())
        raise ConfigurationError(f"{places}: {error}") from error


def check_names(maker: Maker) -> None:
    """Look for a variable that looks like a setting and is none.

    Raises:
        ConfigurationError: There is one below ``SSTREAM_SESSION_`` or the name of another set of options.
    """
    settings = {setting.variable: setting for setting in all_settings(maker)}
    ours = tuple(groups(maker))
    for variable in sorted(os.environ):
        setting = settings.get(variable)
        if setting is not None and not setting.is_text and os.environ[variable]:
            raise ConfigurationError(f"{variable} cannot be set from outside; give {setting.code} in code")
        if setting is None and variable.startswith(ours):
            raise ConfigurationError(f"{variable} is no setting{suggestion(variable, settings)}")


def suggestion(variable: str, settings: Mapping[str, Setting]) -> str:
    """A question whether one of ``settings`` was meant, or nothing."""
    close = difflib.get_close_matches(variable, [name for name, one in settings.items() if one.is_text], 1, 0.75)
    return f"; do you mean {close[0]}?" if close else ""


def define(maker: Maker, parser: OptionParser = tornado.options.options) -> None:
    """Let ``parser`` know every setting, for the command line and configuration files.

    All are texts there, written as in the environment: ``--sstream-limits-drain=60``.
    """
    for setting in all_settings(maker):
        if setting.is_text:
            parser.define(setting.variable.lower(), type=str, help=_one_line(setting.text), group="sstream")


def _environment(setting: Setting) -> tuple[str, str] | None:
    text = os.environ.get(setting.variable, "") if setting.is_text else ""
    return (text, setting.variable) if text.strip() else None


def _tornado_option(setting: Setting) -> tuple[Any, str] | None:
    # Whoever defined it may have given it a type of its own.
    name, parser = setting.variable.lower(), tornado.options.options
    value = parser[name] if name in parser else None  # noqa: SIM401 - it has no get()
    return None if value is None or value == "" else (value, "--" + name.replace("_", "-"))


def _parse(setting: Setting, value: Any, place: str) -> Found:
    try:
        return Found(setting, setting.parse(value) if isinstance(value, str) else value, place)
    except ValueError:
        legal = setting.legal.replace("`", "")
        raise ConfigurationError(f"{place}={value!r}; legal are {legal}: {_one_line(setting.text)}") from None


def without_password(text: str) -> str:
    """A text as it may be shown: of a URL without what it has to log in with, before the host or behind ``?``."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    # Who forgot to quote a password may have any of / ? # [ @ in it.
    login, at, address = rest.rpartition("@")
    if "?" in login or ("[" in address and "]" not in address):
        return "(not shown)"
    return f"{scheme}://{'***' if at else ''}{at}{address.partition('?')[0]}"


# --- what there is ----------------------------------------------------------------------------------------------------


@cache
def settings_of(maker: Maker, prefix: str = PREFIX) -> tuple[Setting, ...]:
    """The settings of the keywords of a class, without those of the sets of options among them."""
    texts = _texts(inspect.getdoc(maker) or "")
    hidden = {field.name for field in fields(maker) if not field.repr} if is_dataclass(maker) else set()
    return tuple(
        Setting(
            code=f"{maker.__name__}({name}=)",
            name=name,
            variable=prefix + name.upper(),
            kind=kind,
            default=default,
            text=texts.get(name, ""),
            is_secret=name in hidden,
        )
        for name, (kind, default) in _keywords(maker).items()
        if _options_class(kind) is None
    )


def all_settings(maker: Maker) -> Iterator[Setting]:
    """The same, and those of the sets of options among them."""
    yield from settings_of(maker)
    for prefix, options in groups(maker).items():
        yield from settings_of(options, prefix)


def markdown(maker: Maker) -> str:
    """All settings as a table for the documentation."""
    lines = ["| in code | in the environment | legal there | default | what it says |", "|---|---|---|---|---|"]
    for setting in all_settings(maker):
        default = "a function" if callable(setting.default) else f"`{setting.default!r}`".replace("`None`", "")
        outside = f"`{setting.variable}` | {setting.legal}" if setting.is_text else "in code alone |"
        text = setting.text.replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{setting.code}` | {outside} | {default} | {_one_line(text)} |")
    return "\n".join(lines) + "\n"


@cache
def groups(maker: Maker) -> dict[str, Maker]:
    """The sets of options among the keywords of a class, by how their variables begin: ``SSTREAM_LIMITS_``."""
    classes = {f"{PREFIX}{name.upper()}_": _options_class(kind) for name, (kind, _) in _keywords(maker).items()}
    return {prefix: options for prefix, options in classes.items() if options is not None}


@cache
def _keywords(maker: Maker) -> dict[str, tuple[Any, Any]]:
    """The keywords that a class takes: ``name -> (type, default)``."""
    hints = typing.get_type_hints(vars(maker)["__init__"])
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _options_class(kind: Any) -> type[Options] | None:
    return next((one for one in _members(kind) if isinstance(one, type) and issubclass(one, Options)), None)


def _members(kind: Any) -> dict[Any, None]:
    """The types of a union and the words of a ``Literal``, in order."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return {member: None for part in typing.get_args(kind) for member in _members(part)}
    if typing.get_origin(kind) is Literal:
        return dict.fromkeys(typing.get_args(kind))
    return {kind: None}


def _texts(docstring: str) -> dict[str, str]:
    section = _SECTION.search(docstring + "\n")
    entries = _ENTRY.findall(section[1]) if section is not None else []
    return {name: text for names, text in entries for name in names.split(", ")}


def _one_line(text: str) -> str:
    return " ".join(text.split())
