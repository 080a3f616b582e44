"""Run folders: where they are, how to find one, and which process may write to it."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from warprl.launch.errors import UserError, nearest, os_errors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def root() -> Path:
    """The folder that holds all runs: ``WARPRL_RUNS``, or ``runs`` in the working directory."""
    return Path(os.environ.get("WARPRL_RUNS", "runs"))


def stamp() -> str:
    """The time to the microsecond, as a name for a new folder: ``"20261231-235959-000001"``."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}"


def create(name: str | None, family: str, agent: str, seed: int) -> Path:
    """Make a new run folder from a name or a path. Raises UserError if that cannot be done."""
    # Without a name the folder is named after what is trained in it.
    if name is None:
        family = family.replace(":", "-")  # package.module:FAMILY
        name = f"{family}-{agent}-s{seed}-{stamp()}"
    require_new(name)
    path = _locate(name)
    with os_errors(UserError, f"cannot make the run folder {path}"):
        path.mkdir(parents=True)
    return path


def require_new(name: str) -> None:
    """Raise UserError unless a run can be made by this name or path: none is ever used again."""
    path = _locate(name)
    if not NAME.fullmatch(path.name):
        raise UserError(
            f"run name {path.name!r}: use up to 100 letters, digits, dots, dashes and underscores"
        )
    if os.path.lexists(path):
        raise UserError(
            f"{path} exists: continue it with 'warprl resume {name}' or choose another name"
        )

    # Try it, in a way that leaves nothing.
    above = next(parent for parent in path.absolute().parents if parent.exists())
    with os_errors(UserError, f"cannot make the run folder {path}"):
        tempfile.TemporaryDirectory(dir=above).cleanup()


def find(run: str) -> Path:
    """The folder of an existing run, by name or by path. Raises UserError if there is none."""
    with os_errors(UserError, f"cannot look for run {run!r}"):
        for path in (_locate(run), Path(run)):
            if (path / "config.yaml").is_file():
                return path
            if path.is_dir():
                raise UserError(f"{path} is not a run: it holds no config.yaml")
        known = sorted(file.parent.name for file in root().glob("*/config.yaml"))
    hint = nearest(run, known) if known else f"there are no runs in {root()}"
    raise UserError(f"no run {run!r}: {hint}")


def require_writable(folder: Path, *parts: str) -> None:
    """Raise UserError if no file can be made in a run folder or in one of these parts of it."""
    for place in (folder, *(folder / part for part in parts)):
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write to {place}: it is not a folder")
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {place}: permission denied")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run for writing. Raises UserError if another process holds it.

    The lock belongs to the kernel, which releases it when the process ends, however it ends. The
    process id in the file is only there for the message.
    """
    with os_errors(UserError, f"cannot write to {folder}"):
        file = (folder / "lock").open("a+", encoding="ascii")
    with file:
        # Either the lock is ours at once, or we name the process that holds it.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"{folder} is being written by process {holder}") from None

        # It is ours: leave our process id for others to read.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _locate(run: str) -> Path:
    return root() / run if NAME.fullmatch(run) else Path(run)
