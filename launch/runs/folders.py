"""Run folders: where they lie, how they are found, and who may write to them."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from warprl.launch.errors import UserError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def root() -> Path:
    """Where runs are kept: ``WARPRL_RUNS`` or ``runs`` in the working directory."""
    return Path(os.environ.get("WARPRL_RUNS", "runs"))


def create(name: str | None, family: str, agent: str, seed: int) -> Path:
    """Make a new run folder from a name or a path. Raises UserError if that cannot be done."""
    if name is None:
        family = family.replace(":", "-")  # package.module:FAMILY
        name = f"{family}-{agent}-s{seed}-{datetime.now():%Y%m%d-%H%M%S}"
    path = _locate(name)
    if not NAME.fullmatch(path.name):
        raise UserError(
            f"run name {path.name!r}: use up to 100 letters, digits, dots, dashes and underscores"
        )
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"{path} exists: continue it with 'warprl resume {name}' or choose another --run"
        ) from None
    except OSError as error:
        raise UserError(f"cannot make the run folder {path}: {error.strerror}") from error
    return path


def find(run: str) -> Path:
    """The folder of an existing run, by name or by path. Raises UserError if there is none."""
    try:
        for path in (_locate(run), Path(run)):
            if (path / "config.yaml").is_file():
                return path
            if path.is_dir():
                raise UserError(f"{path} is not a run: it holds no config.yaml")
        known = sorted(file.parent.name for file in root().glob("*/config.yaml"))
    except OSError as error:
        raise UserError(f"cannot look for run {run!r}: {error.strerror}") from error
    hint = nearest(run, known) if known else f"there are no runs in {root()}"
    raise UserError(f"no run {run!r}: {hint}")


def require_writable(folder: Path, *parts: str) -> None:
    """Raise UserError unless files can be made in a run folder and in these parts of it."""
    for place in (folder, *(folder / part for part in parts)):
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write to {place}: it is not a folder")
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {place}: permission denied")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run for writing. Raises UserError if another process does.

    The lock is the kernel's, so that it ends with its process however that ends; the number in the
    file only serves the message.
    """
    path = folder / "lock"
    try:
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"{folder} is being written by process {holder}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locate(run: str) -> Path:
    return root() / run if NAME.fullmatch(run) else Path(run)
