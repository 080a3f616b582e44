"""Every key of a configuration class: its path, the values that it takes and what it means.

A class is a dataclass or a pydantic model. Its fields are keys, or sections: of one dataclass, or
of several of which ``type`` chooses one.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import BaseModel

from warprl.keys import Key, described


@dataclass(frozen=True)
class Entry:
    """One key. If its section has several types, the key belongs to one of them, ``variant``."""

    path: str
    variant: str | None
    hint: Any
    default: Any  # None if there is no default
    has_default: bool
    key: Key

    @property
    def values(self) -> str:
        """The values that it takes, in words."""
        return values(self.hint)


def variants(model: type[BaseModel]) -> dict[str, dict[str, type[Any]]]:
    """The dataclasses that each section can be, by their ``type``; "" if there is no choice."""
    hints = get_type_hints(model, include_extras=True)
    found = {name: _variants(hints[name]) for name in model.model_fields}
    return {name: kinds for name, kinds in found.items() if kinds}


def entries(model: type[BaseModel]) -> Iterator[Entry]:
    """Every key of a model, in the order of their definition."""
    hints = get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        kinds = _variants(hints[name])
        if not kinds:
            given = not field.is_required()
            default = field.default if given else None
            yield Entry(name, None, hints[name], default, given, _key(name, hints[name]))
        for variant, kind in kinds.items():
            of_kind = get_type_hints(kind, include_extras=True)
            for part in fields(kind):
                hint = of_kind[part.name]
                path = f"{name}.{part.name}"
                yield Entry(path, variant or None, hint, part.default, True, _key(path, hint))


def _key(path: str, hint: Any) -> Key:
    key = described(hint)
    if key is None:
        raise TypeError(f"{path} has no description: annotate it with warprl.keys.Key")
    return key


def _variants(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses of a section by their ``type``; empty if this is not a section."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kinds = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (bare,)
    if not all(is_dataclass(kind) for kind in kinds):
        return {}
    return {getattr(kind, "type", ""): kind for kind in kinds}


def values(hint: Any) -> str:
    """The values of an annotation, in words: ``whole number, 1 or more``."""
    hint, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        others = " or ".join(values(kind) for kind in arguments if kind is not type(None))
        return f"none or {others}" if type(None) in arguments else others
    if origin is tuple:
        return _list(arguments, notes)
    names = {bool: "true or false", int: "whole number", float: "number", str: "name", Any: "value"}
    return f"{names[hint]} {' and '.join(_limits(notes))}".strip()


def _list(elements: tuple[Any, ...], notes: Iterable[Any]) -> str:
    """A list, of so many elements as its annotations say."""
    least = any(getattr(note, "min_length", 0) for note in notes)
    most = [limit for note in notes if (limit := getattr(note, "max_length", None))]
    number = (f"1 to {most[0]}" if most else "one or more") if least else ""
    if elements[-1] is not ...:
        number = str(len(elements))
    if get_origin(elements[0]) is not Annotated:
        return " ".join(f"list of {number} {values(elements[0])}s".split())
    return f"list of {number or 'any number'}, each a {values(elements[0])}"


def _limits(notes: Iterable[Any]) -> Iterator[str]:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    for note in notes:
        if isinstance(note, (Gt, Ge, Lt, Le, Interval)):
            for name, sign in signs.items():
                limit = getattr(note, name, None)
                if limit is not None:
                    yield f"{sign} {limit:,}"


def text(value: Any) -> str:
    """A value as ``--set`` takes it, without spaces."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def defaults(kind: type[Any]) -> dict[str, Any]:
    """The defaults of a section, as plain JSON values."""
    found = {field.name: field.default for field in fields(kind)}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def by_path(found: Iterable[Entry]) -> Mapping[str, list[Entry]]:
    """Entries by their path; several if several types of the section have the key."""
    paths: dict[str, list[Entry]] = {}
    for entry in found:
        paths.setdefault(entry.path, []).append(entry)
    return paths
