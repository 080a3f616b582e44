"""Copies of runs that jobs have written, with checkpoints that are known to be whole."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from warprl import checkpoint as checkpoints
from warprl.checkpoint import CheckpointError
from warprl.launch.cluster import jobs
from warprl.launch.errors import RunFailedError, UserError, os_errors, writing
from warprl.launch.outcome import Document, Outcome
from warprl.launch.runs import folders, lease
from warprl.launch.runs.copies import CHECKPOINTS, CONFIG, METRICS, download, name_of
from warprl.launch.runs.storage import Store, is_uri, open_place

OWN = (lease.FILE, "lock")  # files of the process that writes a run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched(Document):
    """A run that was copied, and the iterations of its intact checkpoints, newest first."""

    run: str
    source: str
    checkpoints: Sequence[int]


def fetch(run: str, to: str | None, address: str | None) -> Outcome[Fetched]:
    """Copy a run, which may still be trained, and verify its checkpoints.

    Raises UserError if it cannot be read from here or the copy exists, and RunFailedError if it
    has checkpoints and none is intact.

    Args:
        run: its absolute path or its URI, or the id of the job that wrote it.
        to: the new folder, by default one of the same name among all runs.
        address: of the job server, for the id of a job.
    """
    # It has to be there, and its copy must not.
    source = run if is_uri(run) or os.path.isabs(run) else jobs.place_of(run, address)
    store = open_place(source)
    with os_errors(UserError, f"cannot read {source}"):
        if CONFIG not in store.names():
            raise UserError(
                f"{source} is no run that can be read from here: on the cluster, it may lie on a "
                "disk that this machine has not mounted"
            )
    target = folders.root() / name_of(source) if to is None else Path(to)
    if os.path.lexists(target):
        raise UserError(f"{target} exists: choose another folder with --to")

    # It appears under its name once it is complete.
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
        copy = Path(scratch) / "run"
        with os_errors(RunFailedError, f"cannot copy {source} to {target}"):
            _copy(store, copy)
        intact = _intact(copy / CHECKPOINTS, source)
        with writing(target):
            os.rename(copy, target)
    found = ", ".join(map(str, intact)) or "none yet"
    text = f"intact checkpoints of iterations: {found}\n{target}"
    return Outcome(Fetched(str(target), source, intact), text)


def _copy(store: Store, copy: Path) -> None:
    """Copy what a run has. Its log comes last, so that it is not behind the checkpoints."""
    names = [name for name in store.files() if name not in OWN]
    download(store, copy, sorted(names, key=lambda name: name == METRICS))

    # Training may have removed the oldest checkpoint in the middle of this.
    for iteration in checkpoints.iterations(copy / CHECKPOINTS):
        if str(iteration) not in store.names(CHECKPOINTS):
            shutil.rmtree(copy / CHECKPOINTS / str(iteration))


def _intact(folder: Path, source: str) -> list[int]:
    """The iterations of which a checkpoint fits its manifest, with a warning for each other one.

    Raises RunFailedError if there are only others.
    """
    intact, known = [], checkpoints.iterations(folder)
    for iteration in known:
        try:
            checkpoints.load(folder, iteration)
            intact.append(iteration)
        except CheckpointError as error:
            log.warning("%s", error)
    if known and not intact:
        raise RunFailedError(f"{source} has no checkpoint that is intact: nothing was fetched")
    return intact
