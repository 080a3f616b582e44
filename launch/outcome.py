"""What a verb of the command line returns, and how values read in it.

Summaries are typed: the names of their fields are the keys that ``--json`` prints and files hold,
in their order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from statistics import fmean
from typing import Any, Generic, NamedTuple, Protocol, TypeVar


class Summary(Protocol):
    """A result for programs."""

    def to_json(self) -> dict[str, Any]:
        """The result as plain data."""
        ...


S = TypeVar("S", bound=Summary, covariant=True)


class Outcome(NamedTuple, Generic[S]):
    """A result as a summary for programs and as text for people, with the exit status."""

    summary: S
    text: str
    status: int = 0


class Document:
    """A summary whose fields are the keys; the base of dataclasses.

    >>> @dataclass(frozen=True)
    ... class Film(Document):
    ...     video: str
    ...     returns: tuple[float, ...]
    ...     task: int | None = None
    >>> Film("task0.mp4", (-3.0, -2.0)).to_json()
    {'video': 'task0.mp4', 'returns': [-3.0, -2.0]}
    """

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data. One that is None by default is left out while it is None."""
        assert is_dataclass(self)
        found = ((field, getattr(self, field.name)) for field in fields(self))
        return {
            field.name.removesuffix("_"): _plain(value)  # return_, for Python has the word itself
            for field, value in found
            if value is not None or field.default is not None
        }


@dataclass(frozen=True)
class Entries:
    """A summary whose keys are no fixed ones, such as the names of task families."""

    entries: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The entries as plain data."""
        return {key: _plain(value) for key, value in self.entries.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Document):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


def to_json(value: Any) -> str:
    """One line of strict JSON, in which numbers that are not finite become null."""
    return json.dumps(_strict(value), allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(header: list[str], rows: list[list[str]]) -> str:
    """A plain text table: the first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``"1:02:03"``, or ``"2:03"`` under an hour."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def parameters(task: Mapping[str, Any]) -> str:
    """A task's numbers on one line; a list is shown by its mean: ``"direction=-1 mass~1.46"``."""

    def show(key: str, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"{key}~{fmean(value):.3g}"
        return f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"

    return " ".join(show(key, value) for key, value in task.items())
