"""What a configuration says of each of its keys, beside type and default: meaning, and use.

A field of a configuration carries both in its annotation, as in::

    warp_lr: Annotated[float, Gt(0), Key("step size of phi", WARPS)] = 1e-3

The command line, the reference page and the checks all read them from there.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from warprl.counts import shown

T = TypeVar("T")

# What annotations call limits, of a number or of how many there are.
LIMITS = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
    "min_length": operator.ge,
    "max_length": operator.le,
}


@dataclass(frozen=True)
class Need:
    """What a key belongs to, in the words that ``--set`` takes; it does nothing elsewhere.

    One that names the kinds of a table stands beside that table.
    """

    words: str


CONTINUOUS = Need("a family with continuous actions")
WARPS = Need("policy.warp or policy.rates = true")
LEARNING = Need("policy.warp, policy.rates = true or a learned init: nothing else is learned")
SEVERAL_STEPS = Need("outer.epochs or outer.minibatches above 1, or outer.type = trpo")


class Key:
    """Meaning of a key in one line, and all that it needs to do anything.

    What ``type`` needs, every key of its section needs.
    """

    def __init__(self, meaning: str, *needs: Need) -> None:
        """A key that needs nothing always does something."""
        self.meaning, self.needs = meaning, needs


def either(words: Iterable[str]) -> str:
    """Words to choose from: ``a, b or c``."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def keys_of(section: type[Any]) -> Mapping[str, Key]:
    """The keys of a configuration class that are described, in the order of their definition."""
    hints = get_type_hints(section, include_extras=True)
    found = {name: key for name, hint in hints.items() if (key := described(hint)) is not None}
    return MappingProxyType(found)


def described(hint: Any) -> Key | None:
    """The :class:`Key` of an annotation, if it carries one."""
    return next((note for note in get_args(hint)[1:] if isinstance(note, Key)), None)


def from_plain(kind: type[T], values: Any) -> T:
    """A configuration from plain values, such as those of a file.

    Args:
        kind: the configuration class.
        values: a value for each key; a key that is missing has its default.

    Returns:
        The configuration.

    Raises:
        ValueError: in one line, for a key that is unknown, and for a value of another type or out
            of range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{shown(values)} is not a mapping of keys")
    keys, hints = keys_of(kind), get_type_hints(kind, include_extras=True)
    for name in values:
        if name not in keys:
            raise ValueError(f"unknown key {shown(name)}")
    return kind(**{name: _checked(name, hints[name], value) for name, value in values.items()})


def _checked(name: str, hint: Any, value: Any) -> Any:
    """A value as its annotation wants it. Raises ValueError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = _checked(name, arguments[0], value)
        if found is not None and not all(_within(found, note) for note in arguments[1:]):
            raise ValueError(f"{name} = {shown(value)}: out of range")
        return found
    if origin in (Union, UnionType):  # of None and one other
        (other,) = (kind for kind in arguments if kind is not NoneType)
        return None if value is None else _checked(name, other, value)
    if origin is tuple and isinstance(value, list | tuple):
        if arguments[-1] is ... or len(value) == len(arguments):
            return tuple(_checked(name, arguments[0], item) for item in value)
    elif origin is Literal:
        if value in arguments:
            return value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return value
    elif type(value) is hint:
        return value
    raise ValueError(f"{name} = {shown(value)}: not a value of this key")


def _within(value: Any, note: Any) -> bool:
    """Whether a value is within the limits that an annotation sets, if it sets any."""
    limits = {name: getattr(note, name, None) for name in LIMITS}
    return all(
        LIMITS[name](len(value) if name.endswith("_length") else value, limit)
        for name, limit in limits.items()
        if limit is not None
    )


def unused(section: Any, met: Collection[Need]) -> dict[str, Need]:
    """The keys of a section that do nothing, each with what it needs first.

    Args:
        section: a configuration, such as an :class:`warprl.adam.Adam`.
        met: what is so in the configuration that it is part of.

    Returns:
        The first unmet need of each such key.
    """
    keys = keys_of(type(section))
    of_all = keys["type"].needs if "type" in keys else ()
    missing = {
        name: [need for need in (*of_all, *key.needs) if need not in met]
        for name, key in keys.items()
    }
    return {name: needs[0] for name, needs in missing.items() if needs}
