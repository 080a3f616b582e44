"""What a configuration says of each of its keys, beside type and default: meaning, and use.

A field of a configuration carries both in its annotation, as in::

    warp_lr: Annotated[float, Gt(0), Key("step size of phi", WARPS)] = 1e-3

The command line, the reference page and the checks all read them from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args, get_type_hints


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
