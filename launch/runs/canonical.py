"""Writes a configuration as canonical text, for checksums that stay valid as the code changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

SCHEMA = 1  # raise it when the default of a field changes: defaults are not part of the text


def canonical_json(**parts: object) -> str:
    """Named configurations as canonical JSON: sorted keys, no white space, no defaults.

    A field of a dataclass that equals its default is left out, so that a field added later changes
    the text only of configurations that use it. The name of each dataclass is part of the text,
    because two variants of a choice may have the same fields.

    Args:
        parts: dataclasses, mappings, sequences and plain values, nested in any way.

    Returns:
        The text, which begins with the number of its schema.

    Raises:
        TypeError: for a value that JSON cannot hold.
        ValueError: for a number that is not finite.
    """
    plain = {name: _without_defaults(value) for name, value in parts.items()}
    document = {"parts": plain, "schema": SCHEMA}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _without_defaults(value: object) -> Any:
    """A dataclass as ``[name, fields]``; containers item by item; other values as they are."""
    if is_dataclass(value) and not isinstance(value, type):
        found = ((field, getattr(value, field.name)) for field in fields(value))
        given = {f.name: _without_defaults(item) for f, item in found if item != _default(f)}
        return [type(value).__name__, given]
    if isinstance(value, Mapping):
        return {str(key): _without_defaults(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(item) for item in value]
    return value


def _default(field: Field[Any]) -> Any:
    """The default of a field; MISSING, which equals no value, if there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()
