"""The metrics of a run's iterations: reads and mends metrics.jsonl, and shows returns.

Each line is a row: one JSON object with the number of an iteration and other numbers. The
iterations ascend. Numbers that are not finite are written as null, and read back as NaN.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from annotated_types import Ge
from pydantic import StringConstraints

from warprl.counts import shown, whole
from warprl.launch.errors import UserError, reading
from warprl.launch.runs import files
from warprl.launch.runs.copies import address

FILE = "metrics.jsonl"  # in a run folder
MAX_BYTES = 2**30
MAX_ROW_BYTES = 2**20
MAX_ITERATIONS = 10**9
MAX_NUMBER = 3.5e38  # what a float32 holds
NEVER_NEGATIVE = ("env_steps", "wall_s")
Metrics = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """The rows up to an iteration, as a checkpoint knows them: their bytes and SHA-256."""

    size: Annotated[int, Ge(0)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


def read(path: Path, iteration: int) -> list[Metrics]:
    """The metrics up to ``iteration``; an empty list if there is no such file.

    Raises UserError if the file cannot be read or a row of it is damaged.
    """
    if not os.path.lexists(path):
        return []
    with reading(path):
        files.require_file(path, MAX_BYTES)
        rows = []
        for number, (_, found) in enumerate(_rows(path, iteration), 1):
            if isinstance(found, ValueError):
                place = f"{address(path)}, line {number},"
                raise UserError(f"{place} is damaged ({found}): remove that line") from found
            rows.append(found)
        return rows


def restore(path: Path, iteration: int, logged: Logged | None = None) -> None:
    """Drop the rows after ``iteration``, from which a run goes on, and what is damaged before.

    A damaged file is kept beside it, and one warning says what was found. ``logged`` is what the
    checkpoint of the iteration knows of the file. Raises OSError.
    """
    # What is as it was when the checkpoint was saved needs no look at its rows.
    if logged is not None and _begins_with(path, logged):
        return _keep(path, logged.size)
    if not os.path.lexists(path):
        if logged is not None:
            what = f"is not there, and with it the metrics up to iteration {iteration}"
            log.warning("%s %s", address(path), what)
        return

    # The rows that can be kept, which are all at the beginning unless there is damage.
    files.require_file(path)
    position = kept = end = number = 0
    for line, found in _rows(path, iteration):
        position += len(line)
        if not isinstance(found, ValueError):
            kept, end, number = kept + len(line), position, number + 1
    if kept < end:
        aside = _set_aside(path)
        _keep_good_rows(path, iteration)
        what = f"lines are damaged; the {number} good ones up to iteration {iteration} are kept"
        log.warning("%s: %s, and the file as it was is %s", address(path), what, aside.name)
        return
    _keep(path, kept)
    if logged is not None:
        what = f"rows up to iteration {iteration} were lost or changed after they were written"
        log.warning("%s: %s; the %d that are there are kept", address(path), what, number)


def digest(path: Path) -> tuple[int, Any]:
    """How many bytes a file has, and their SHA-256, which can be continued. Raises OSError."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return file.tell(), found


def _begins_with(path: Path, logged: Logged) -> bool:
    """Whether the rows that a checkpoint knows are there, to the byte. Raises OSError."""
    if not path.is_file() or path.stat().st_size < logged.size:
        return False
    found, left = hashlib.sha256(), logged.size
    with path.open("rb") as file:
        while part := file.read(min(left, MAX_ROW_BYTES)):
            found.update(part)
            left -= len(part)
    return found.hexdigest() == logged.sha256


def _keep(path: Path, size: int) -> None:
    """Keep the beginning of a file, in a new file: the old one may have links elsewhere.

    A file that has no other name, and nothing to lose, stays.
    """
    found = path.lstat()
    if stat.S_ISREG(found.st_mode) and (found.st_size, found.st_nlink) == (size, 1):
        return
    with files.whole(path) as temporary, path.open("rb") as file, temporary.open("xb") as kept:
        while size and (part := file.read(min(size, MAX_ROW_BYTES))):
            kept.write(part)
            size -= len(part)


def _set_aside(path: Path) -> Path:
    """Copy a damaged file under a name of its own. Raises OSError."""
    aside = path.with_name(f"{path.name}.broken")
    while os.path.lexists(aside):
        aside = aside.with_name(f"{aside.name}.broken")
    with files.whole(aside) as temporary:
        shutil.copyfile(path, temporary)
    return aside


def _keep_good_rows(path: Path, iteration: int) -> None:
    """Rewrite a file without its damaged lines. Raises OSError."""
    with files.whole(path) as temporary, temporary.open("wb") as file:
        for line, found in _rows(path, iteration):
            if not isinstance(found, ValueError):
                file.write(line)


def _rows(path: Path, iteration: int) -> Iterator[tuple[bytes, Metrics | ValueError]]:
    """Each complete line up to an iteration, with its metrics or with what is wrong with it."""
    last = 0
    with path.open("rb") as file:
        while last < iteration and (line := file.readline(MAX_ROW_BYTES)):
            if not line.endswith(b"\n") and len(line) < MAX_ROW_BYTES:
                return  # the last one, half written
            try:
                row = _parsed(line, last, iteration)
            except ValueError as error:
                yield line, error
            else:
                last = row["iteration"]
                yield line, row


def _parsed(line: bytes, last: int, iteration: int) -> Metrics:
    """The row in a line, which follows iteration ``last``. Raises ValueError, in one line."""
    try:
        row = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError("it is not a JSON object")
    most = min(iteration, MAX_ITERATIONS)
    whole("iteration", row.get("iteration"), last + 1, most)
    for name in NEVER_NEGATIVE:
        if not _number(name, row.get(name, 0)) >= 0:
            raise ValueError(f"{name} = {shown(row[name])}: must be 0 or more")
    return {name: _number(name, value) for name, value in row.items()}


def _number(name: str, value: Any) -> float:
    """A number of a row as it is, and null as NaN. Raises ValueError for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MAX_NUMBER:
        raise ValueError(f"{shown(name)} = {shown(value)}: must be a number or null")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def adaptation(metrics: Metrics) -> list[float]:
    """Mean returns after 0, 1, ..., K inner steps."""
    returns: list[float] = []
    while f"return_step_{len(returns)}" in metrics:
        returns.append(metrics[f"return_step_{len(returns)}"])
    return returns


def returns_text(metrics: Metrics) -> str:
    """``"-46.1 > -29.0 > -17.2"``, or that there is no return because every task diverged."""
    returns = adaptation(metrics)
    if not all(map(math.isfinite, returns)):
        return "none (every task diverged)"
    return " > ".join(f"{value:.1f}" for value in returns)
