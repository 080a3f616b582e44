"""One-line error messages about keys and values that a configuration does not accept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import ValidationError

from warprl.counts import brief, shown
from warprl.launch.errors import nearest
from warprl.launch.runs.key_table import Entry, values
from warprl.launch.runs.schema_1 import RENAMED

# pydantic's words for types, and the plain ones of the table of keys.
PLAIN = {"a valid integer": "a whole number", "a valid boolean": "true or false", "valid ": ""}
SOME = Annotated[tuple[Any, ...], MinLen(1)]  # a list of which nothing else is known


@dataclass(frozen=True)
class Advice:
    """Writes the messages, given all keys by path and the types that each section can have."""

    keys: Mapping[str, Sequence[Entry]]
    variants: Mapping[str, Mapping[str, type[Any]]]

    def explain(self, error: ValidationError, keys: Mapping[str, Any] | None = None) -> str:
        """The first error that pydantic found: which field, which value, what would be right.

        ``keys`` are the keys to suggest from, with their annotations, if those are not all keys.
        """
        first = error.errors()[0]
        path, variant = self._path(first["loc"])
        kind, value = first["type"], brief(json.dumps(first["input"], default=str))

        # What pydantic cannot say in our words.
        if kind == "missing" and path.rpartition(".")[0] in self.keys:  # an entry of a list
            path, kind = path.rpartition(".")[0], "too_short"
        match kind:
            case "extra_forbidden" | "unexpected_keyword_argument":
                if path in self.keys and variant:
                    return self.on_other_variant(path, variant)
                return self.on_unknown(path, list(keys or ()))
            case "missing" | "missing_argument":
                return f"key {path!r} is missing"
            case "union_tag_not_found":
                return f"key '{path}.type' is missing"
            case "union_tag_invalid":
                return self.on_type(path, first["ctx"]["tag"])
            case "tuple_type" | "too_short" | "too_long":
                hint = (keys or {}).get(path, SOME)
                takes = self._entry(path, variant).values if path in self.keys else values(hint)
                return f"{path} = {value}: should be a {takes.removeprefix('none or ')}"
            case "literal_error" if path in self.keys:
                return f"{path} = {value}: should be {self._entry(path, variant).values}"

        # Its own words, made plain.
        message = first["msg"].removeprefix("Input ")
        for pydantic, plain in PLAIN.items():
            message = message.replace(pydantic, plain)
        return f"{path} = {value}: {message}"

    def on_type(self, section: str, value: Any) -> str:
        """The message about a type that a section does not have."""
        kinds = " or ".join(map(repr, self.variants[section]))
        return f"{section}.type = {brief(json.dumps(value))}: should be {kinds}"

    def on_other_variant(self, path: str, chosen: str) -> str:
        """The message about a key that the section has only with another type."""
        name = f"{path.partition('.')[0]}.type"
        having = [entry.variant for entry in self.keys[path] if entry.variant]
        return f"{path} belongs to {name} = {' or '.join(having)}, and {name} is {chosen}"

    def on_unknown(self, path: str, keys: Sequence[str] = ()) -> str:
        """The message about a key that does not exist."""
        keys = keys or list(self.keys)
        inside = [key for key in keys if key.startswith(f"{path}.")]
        if inside:
            return f"{path!r} is a section: set one of its keys, such as {inside[0]!r}"
        if path in RENAMED:
            return f"unknown key {path!r}: it is now {' and '.join(map(repr, RENAMED[path]))}"
        name = path.rpartition(".")[2]
        same = [repr(key) for key in keys if key.rpartition(".")[2] == name]
        right = f"did you mean {' or '.join(same)}?" if same else nearest(path, keys)
        return f"unknown key {shown(path)}: {right}"

    def _entry(self, path: str, variant: str | None) -> Entry:
        return next(entry for entry in self.keys[path] if entry.variant in (None, variant))

    def _path(self, location: Sequence[str | int]) -> tuple[str, str | None]:
        """A key as ``--set`` takes it, and its section's type, which pydantic puts in the path."""
        parts = list(map(str, location))
        types = self.variants.get(parts[0], {}) if parts else {}
        variant = parts.pop(1) if len(parts) > 1 and parts[1] in types else None
        return ".".join(parts), variant
