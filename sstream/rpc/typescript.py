"""Write Python's types as TypeScript's, as they arrive in a browser that speaks MessagePack."""

import inspect
import json
import re
from typing import Any, Final

from msgspec import inspect as types

__all__ = ["TypeScript", "comment", "identifier", "parameter_name"]

# Names that a declaration of ours must not shadow.
_TAKEN: Final = frozenset({"Api", "AsyncIterable", "Date", "Partial", "Promise", "Record", "Uint8Array"})
# ECMAScript 2026, 12.7.2: words that cannot name a parameter.
_RESERVED: Final = frozenset(
    "arguments await break case catch class const continue debugger default delete do else enum eval export extends "
    "false finally for function if implements import in instanceof interface let new null package private protected "
    "public return static super switch this throw true try typeof var void while with yield".split()
)


class TypeScript:
    """Type expressions, and the declarations that they need.

    Attributes:
        declarations: By name, in the order in which they were first needed.
    """

    def __init__(self) -> None:
        self.declarations: dict[str, str] = {}
        self._names: dict[Any, str] = {}

    def expression(self, annotation: Any) -> str:
        """Get the type expression for an annotation; ``any`` for what has no type on the wire."""
        try:
            node = types.type_info(annotation)
        except (TypeError, NameError):
            return "any"
        return self._write(node)

    def _write(self, node: types.Type) -> str:
        match node:
            case types.NoneType():
                return "null"
            case types.BoolType():
                return "boolean"
            case types.IntType() | types.FloatType():
                return "number"
            case types.StrType() | types.UUIDType() | types.DecimalType():
                return "string"
            case types.DateType() | types.TimeType() | types.TimeDeltaType():
                return "string"
            case types.DateTimeType():
                # With a time zone it travels as a timestamp, without one as text.
                return "Date | string"
            case types.BytesType() | types.ByteArrayType() | types.MemoryViewType():
                return "Uint8Array"
            case types.LiteralType(values=values):
                return " | ".join(json.dumps(value) for value in values)
            case types.UnionType(types=members):
                return " | ".join(dict.fromkeys(self._write(member) for member in members))
            case types.ListType() | types.SetType() | types.FrozenSetType() | types.VarTupleType():
                item = self._write(node.item_type)
                return f"({item})[]" if "|" in item else f"{item}[]"
            case types.TupleType(item_types=items):
                return f"[{', '.join(map(self._write, items))}]"
            case types.DictType(key_type=types.EnumType() | types.LiteralType() as key, value_type=value):
                return f"Partial<Record<{self._write(key)}, {self._write(value)}>>"
            case types.DictType(value_type=value):
                return f"Record<string, {self._write(value)}>"
            case types.EnumType() | types.StructType() | types.DataclassType() | types.TypedDictType():
                return self._declare(node)
            case types.NamedTupleType():
                return self._declare(node)
            case _:
                return "any"

    def _declare(self, node: Any) -> str:
        name = self._names.get(node.cls)
        if name is not None:
            return name
        base = name = re.sub(r"\W+", "_", getattr(node.cls, "__name__", str(node.cls).rpartition(".")[2])).strip("_")
        if hasattr(node.cls, "__args__"):
            base = name = re.sub(r"\W+", "_", str(node.cls).replace(f"{node.cls.__module__}.", "")).strip("_")
        number = 2
        while name in self.declarations or name in _TAKEN:
            name, number = f"{base}{number}", number + 1
        self._names[node.cls] = name
        self.declarations[name] = ""  # keeps its place, and its name, for types that hold themselves
        self.declarations[name] = comment(_documentation(node.cls)) + self._definition(name, node)
        return name

    def _definition(self, name: str, node: Any) -> str:
        match node:
            case types.EnumType(cls=cls):
                return f"export type {name} = {' | '.join(json.dumps(member.value) for member in cls)};"
            case types.NamedTupleType() | types.StructType(array_like=True):
                tag = getattr(node, "tag", None)
                if tag is not None:
                    # TypeScript wants all elements to have labels, or none.
                    items = [json.dumps(tag), *(self._write(field.type) for field in node.fields)]
                else:
                    items = [
                        f"{identifier(field.encode_name)}{'' if field.required else '?'}: {self._write(field.type)}"
                        for field in node.fields
                    ]
                return f"export type {name} = [{', '.join(items)}];"
        lines = [
            f"  {_key(field.encode_name)}{'' if field.required else '?'}: {self._write(field.type)};"
            for field in node.fields
        ]
        if getattr(node, "tag_field", None) is not None:
            lines.insert(0, f"  {_key(node.tag_field)}: {json.dumps(node.tag)};")
        return "\n".join([f"export interface {name} {{", *lines, "}"])


def comment(text: str, indent: str = "") -> str:
    """Get ``text`` as a documentation comment with a line's end, or nothing for no text."""
    text = text.strip().replace("*/", "*\\/")
    if not text:
        return ""
    lines = text.split("\n")
    if len(lines) == 1:
        return f"{indent}/** {text} */\n"
    return "\n".join([f"{indent}/**", *(f"{indent} * {line}".rstrip() for line in lines), f"{indent} */"]) + "\n"


def identifier(name: str) -> str:
    """Get a name that TypeScript takes as a label."""
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() or not name else name


def parameter_name(name: str) -> str:
    """Get a name that TypeScript takes as a parameter's."""
    return f"{name}_" if name in _RESERVED else identifier(name)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, flags=re.ASCII) else json.dumps(name)


def _documentation(cls: Any) -> str:
    """Get what the author wrote about a class, and nothing that was inherited or generated."""
    cls = getattr(cls, "__origin__", cls)
    text = vars(cls).get("__doc__") or ""
    return "" if text.startswith(f"{cls.__name__}(") else inspect.cleandoc(text)
