"""Run folders: where they are, how to find one, and which process may write to it.

A run is named by a name, a path or a URI. A name stands for a folder in the storage that
``WARPRL_STORAGE`` names, or else in the folder of all runs. Of a run in storage, everything else
sees a local copy (see :mod:`warprl.launch.runs.copies`).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from warprl import checkpoint as checkpoints
from warprl.launch.errors import UserError, nearest, os_errors, writing
from warprl.launch.runs import copies, files
from warprl.launch.runs.copies import CONFIG
from warprl.launch.runs.lease import FILE, Lease
from warprl.launch.runs.mirror import Mirror
from warprl.launch.runs.storage import LocalStore, is_uri, open_store, require_uri

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PACKAGE = "_ray_pkg_"  # begins the names of folders that Ray deletes after a job


def root() -> Path:
    """The folder that holds all local runs: ``WARPRL_RUNS``, or ``runs`` in the working folder."""
    return Path(os.environ.get("WARPRL_RUNS", "runs"))


def storage_root() -> str | None:
    """The URI or absolute path below which names of runs stand, if ``WARPRL_STORAGE`` is set."""
    place = os.environ.get("WARPRL_STORAGE")
    return require_place(place, "WARPRL_STORAGE") if place else None


def stamp() -> str:
    """The time to the microsecond, as a name for a new folder: ``"20261231-235959-000001"``."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}"


def default_name(family: str, agent: str, seed: int) -> str:
    """The name of a run without one, after what is trained in it."""
    family = family.replace(":", "-")  # package.module:FAMILY
    return f"{family}-{agent}-s{seed}-{stamp()}"


def create(name: str, storage: str | None, fill: Callable[[Path], None]) -> Path:
    """Make a new run folder from a name, a path or a URI; a name may stand below ``storage``.

    ``fill`` writes into the folder what a run begins with. Only then has the folder its name, so
    that what has the name of a run is one.
    Returns the folder, or the local copy of what will be in storage. Raises UserError if that
    cannot be done, and RunFailedError if the disk refuses.
    """
    require_new(name, storage)
    place = _new_place(name, storage)
    if is_uri(place):
        copy = copies.new(place)
        with writing(copy):
            fill(copy)
        return copy
    with os_errors(UserError, f"cannot make the run folder {place}"):
        with files.whole_folder(Path(place)) as folder, writing(Path(place)):
            fill(folder)
    return Path(place)


def require_new(name: str, storage: str | None = None) -> None:
    """Raise UserError unless :func:`create` can make a run of this name: none is used again."""
    place = _new_place(name, storage)
    last = copies.name_of(place)
    if not NAME.fullmatch(last):
        raise UserError(
            f"run name {last!r}: use up to 100 letters, digits, dots, dashes and underscores"
        )
    if is_uri(place):
        require_mounted(place.rpartition("/")[0])
        return require_new_in_storage(place)
    if any(part.startswith(PACKAGE) for part in Path(place).absolute().parts):
        raise UserError(f"{place} would be lost with this job: give --run an absolute path")
    if os.path.lexists(place):
        raise UserError(f"{Path(place)} {copies.EXISTS.format(name)}")

    # Try it, in a way that leaves nothing.
    above = next(parent for parent in Path(place).absolute().parents if parent.exists())
    with os_errors(UserError, f"cannot make the run folder {place}"):
        tempfile.TemporaryDirectory(dir=above).cleanup()


def require_new_in_storage(uri: str) -> None:
    """Raise UserError if there is something at a URI."""
    store = open_store(uri)
    with os_errors(UserError, f"cannot read {uri}"):
        # A run that was stopped before its configuration was uploaded is none yet.
        if set(store.names()) - {FILE, copies.IMPORTED}:
            raise UserError(f"{uri} {copies.EXISTS.format(uri)}")


def _new_place(name: str, storage: str | None) -> str:
    place = locate(name) if storage is None else below(storage, name)
    return require_uri(place, "run") if is_uri(place) else place


def locate(run: str) -> str:
    """The path or the URI that a name, a path or a URI stands for."""
    return in_root(run) if NAME.fullmatch(run) else run


def in_root(*parts: str) -> str:
    """The path or the URI of something among all runs."""
    return "/".join((storage_root() or str(root()), *parts))


def require_mounted(uri: str) -> None:
    """Raise UserError if a shared folder is not there: perhaps this host has not mounted it."""
    store = open_store(uri)
    if isinstance(store, LocalStore) and not store.folder.is_dir():
        raise UserError(f"there is no folder {store.folder} on this host: mount it, or make it")


def below(storage: str, name: str) -> str:
    """Where a name below a storage stands. Raises UserError for a path or a URI in its place."""
    if "/" in name:
        raise UserError(f"run {name!r}: with --storage, give a name and not a path or a URI")
    return f"{require_place(storage, '--storage')}/{name}"


def require_place(text: str, what: str) -> str:
    """An absolute path or a URI. Raises UserError for anything else."""
    return os.path.normpath(text) if os.path.isabs(text) else require_uri(text, what)


def find(run: str, checkpoint: int | None = None) -> Path:
    """The folder of an existing run, by name, path or URI. Raises UserError if there is none.

    In storage, ``checkpoint`` is the iteration that is needed, and None the newest.
    """
    place = locate(run)
    if is_uri(place):
        return copies.fetch(require_uri(place, "run"), checkpoint)
    with os_errors(UserError, f"cannot look for run {run!r}"):
        for path in (Path(place), Path(run)):
            if (path / CONFIG).is_file():
                return path
            if path.is_dir():
                raise UserError(f"{path} is not a run: it holds no {CONFIG}")
        found = (file.parent.name for file in root().glob(f"*/{CONFIG}"))
        known = sorted(name for name in found if NAME.fullmatch(name))
    hint = nearest(run, known) if known else f"there are no runs in {root()}"
    raise UserError(f"no run {run!r}: {hint}")


@contextmanager
def opened(place: str) -> Iterator[Path | None]:
    """The folder at a path or a URI, or None if there is nothing.

    A copy from storage lasts as long as the ``with`` block. Raises UserError if there is something
    that is not a run.
    """
    if is_uri(place):
        store = open_store(place)
        with os_errors(UserError, f"cannot read {place}"):
            names = set(store.names()) - {FILE}
    else:
        names = {place} if os.path.lexists(place) else set()
    if not names:
        yield None
    elif is_uri(place):
        with copies.lasting(find(place)) as copy:
            yield copy
    elif not os.path.isfile(f"{place}/{CONFIG}"):
        raise UserError(f"{place} is not a run: it holds no {CONFIG}")
    else:
        yield Path(place)


def iterations(place: str) -> list[int]:
    """The iterations of which the run at a path or a URI has a checkpoint, newest first.

    Raises OSError or UserError if it cannot be read.
    """
    if is_uri(place):
        return copies.iterations(open_store(place).files(copies.CHECKPOINTS))
    return checkpoints.iterations(Path(place) / copies.CHECKPOINTS)


def require_writable(folder: Path, *parts: str) -> None:
    """Raise UserError if no file can be made in a run folder or in one of these parts of it."""
    for place in (folder, *(folder / part for part in parts)):
        if place.exists() and not place.is_dir():
            raise UserError(f"cannot write to {place}: it is not a folder")
        if place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"cannot write to {place}: permission denied")
    copies.require_writable(folder)


@contextmanager
def hold(folder: Path, keep: int, new: bool = False) -> Iterator[Lease]:
    """Hold a run for writing; if it is a copy, bring it up to date, and then upload what is new.

    In storage, the newest ``keep`` checkpoints stay. A ``new`` run must not be there yet.

    Raises UserError if another process holds the run, and at the end RunFailedError if something
    could not be uploaded.
    """
    place = copies.place_of(folder)
    if place is None:
        with Lease(LocalStore(folder), str(folder)) as lease:
            yield lease
        return
    store = open_store(place.uri)
    with Lease(store, place.uri) as lease:
        with os_errors(UserError, f"cannot read {place.uri}"):
            copies.refresh(folder, store, new)
            mirror = Mirror(folder, store, lease, keep)
        with mirror:
            yield lease
