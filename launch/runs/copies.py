"""Local copies of runs that live in storage, so that everything else reads and writes folders.

A copy lies in the temporary folder (``TMPDIR``), in a folder of its own beside a file that names
its origin::

    warprl-3kx9/.warprl-origin    s3://bucket/runs/first
    warprl-3kx9/first/            a run folder, with what was needed of it

It belongs to one process, which deletes it at its end unless something could not be uploaded.

A folder with such a file that was not made here is no copy: whoever sent it would choose which
place is written to.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from warprl import checkpoint as checkpoints
from warprl.checkpoint import CheckpointError
from warprl.launch.errors import RunFailedError, UserError, nearest, os_errors
from warprl.launch.runs import ledger, storage
from warprl.launch.runs.plain import require_plain
from warprl.launch.runs.storage import LocalStore, Store, open_store

CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
IMPORTED = "init"  # the folder in a run for imported parameters
LAST = "last"  # and that for the last whole iteration, until it is in a checkpoint
ORIGIN = ".warprl-origin"
EXISTS = "exists: continue it with 'warprl resume {}' or choose another name"
KEPT = ".warprl-kept"  # beside it, if the copy holds what its origin lacks
LEDGER = "copy"  # what the ledger calls them

_made: set[tuple[str, str]] = set()  # copies of this process and their origins


class Place(NamedTuple):
    """A path in a copy: the copy itself, the URI of its origin, and the path within both."""

    copy: Path
    uri: str
    path: str


def place_of(path: Path) -> Place | None:
    """Where a path is in storage; None if it is not in a copy."""
    for parent in path.parents:
        uri = _origin(parent)
        if uri is not None:
            name, *rest = path.relative_to(parent).parts
            return Place(parent / name, uri, "/".join(rest))
    return None


def _origin(home: Path) -> str | None:
    """The URI in the file that names the origin of a copy, if there is one and we wrote it."""
    if not (home / ORIGIN).is_file():
        return None
    uri = (home / ORIGIN).read_text(encoding="utf-8", errors="replace")
    entry = os.path.realpath(home), uri
    return uri if entry in _made or ledger.knows(LEDGER, *entry) else None


def address(path: Path) -> str:
    """How users know a folder or file: a path, or the URI of what it is a copy of."""
    place = place_of(path)
    return str(path) if place is None else "/".join(filter(None, (place.uri, place.path)))


def name_of(place: str) -> str:
    """The last part of a path or a URI, as a file name."""
    if not storage.is_uri(place):
        return Path(place).name
    uri, name = place, unquote(urlsplit(place).path).rpartition("/")[2]
    if not name:
        raise UserError(f"{uri} is not a run: name one in it, such as {uri}/first")
    return name


def new(uri: str) -> Path:
    """A new folder, which is the local copy of something that is to be written to storage."""
    name = name_of(uri)
    with os_errors(UserError, "cannot make a temporary folder"):
        home = Path(tempfile.mkdtemp(prefix="warprl-"))
        (home / ORIGIN).write_text(uri, encoding="utf-8")
        entry = os.path.realpath(home), uri
        _made.add(entry)
        ledger.note(LEDGER, *entry)  # for a later process, which uploads what this one could not
        copy = home / name
        copy.mkdir()
    atexit.register(discard, copy)
    return copy


def discard(copy: Path) -> None:
    """Delete a copy and what lies beside it, unless it holds what its origin lacks."""
    uri = _origin(copy.parent)
    if uri is not None and not (copy.parent / KEPT).exists():
        shutil.rmtree(copy.parent, ignore_errors=True)
        ledger.forget(LEDGER, os.path.realpath(copy.parent), uri)


@contextmanager
def lasting(folder: Path) -> Iterator[Path]:
    """A folder, which is discarded after the ``with`` block if it is a copy."""
    try:
        yield folder
    finally:
        discard(folder)


def fetch(uri: str, checkpoint: int | None = None) -> Path:
    """A copy of a run: what it was configured and logged, and its newest intact checkpoint.

    ``checkpoint`` is the iteration of another one. Raises UserError if there is no such run or
    checkpoint, or if the place cannot be read.
    """
    store = open_store(uri)
    with os_errors(UserError, f"cannot read {uri}"):
        copy = new(uri)
        if isinstance(store, LocalStore):
            require_plain(store.folder)
        if CONFIG not in store.names():
            raise UserError(_missing(store))
        files = store.files()
        download(store, copy, (name for name in files if name == CONFIG or _in(name, IMPORTED)))
        known = iterations(files)
        if checkpoint is not None and checkpoint not in known:
            hint = f"there are checkpoints of iterations {', '.join(map(str, known)) or 'none'}"
            raise UserError(f"{uri} has no checkpoint {checkpoint}; {hint}")
        _fetch_checkpoint(store, copy, known if checkpoint is None else [checkpoint])
        # The log comes last, so that it is not behind the checkpoint.
        download(store, copy, [METRICS])
    return copy


def refresh(copy: Path, store: Store, new: bool = False) -> None:
    """Bring a copy up to date before it is written to.

    Raises UserError if it is of a ``new`` run and storage has one of this name, and OSError if that
    cannot be read.
    """
    files = store.files()
    if new:
        if CONFIG in files:
            raise UserError(f"{store.uri} {EXISTS.format(store.uri)}")
        return
    known, mine = iterations(files), checkpoints.iterations(copy / CHECKPOINTS)
    if max(known, default=-1) > max(mine, default=-1):
        _fetch_checkpoint(store, copy, [number for number in known if number not in mine])
        download(store, copy, [METRICS])


def fetch_evaluations(copy: Path) -> None:
    """Fetch the results of evaluations, if this is a copy. Raises UserError if that fails."""
    place = place_of(copy)
    if place is not None:
        store = open_store(place.uri)
        with os_errors(UserError, f"cannot read {place.uri}"):
            files = store.files("evaluation")
            download(store, copy, (name for name in files if name.endswith("/summary.json")))


def publish(path: Path) -> None:
    """Upload a file or folder that was written into a copy. Nothing else needs to be uploaded.

    Raises RunFailedError if that fails; then the copy is kept.
    """
    place = place_of(path)
    if place is None:
        return
    try:
        store = open_store(place.uri)
        storage.persistently(lambda: storage.upload(store, path, place.path))
    except (OSError, UserError) as error:
        keep(place.copy)
        said = storage.reason(error) if isinstance(error, OSError) else error
        raise RunFailedError(f"cannot upload to {address(path)}: {said}; {path} has it") from error


def keep(copy: Path) -> None:
    """Let a copy outlast its process."""
    (copy.parent / KEPT).touch()


def require_writable(copy: Path) -> None:
    """Raise UserError unless a file can be written where this is a copy of."""
    place = place_of(copy)
    if place is not None:
        store = open_store(place.uri)
        with os_errors(UserError, f"cannot write to {place.uri}"):
            store.write(".writable", b"")
            store.remove(".writable")


def iterations(files: Iterable[str]) -> list[int]:
    """Iterations of which all of a checkpoint is among the files of a run, newest first."""
    parts = [name.split("/") for name in files]
    return sorted(
        (
            int(part[1])
            for part in parts
            if len(part) == 3
            and (part[0], part[2]) == (CHECKPOINTS, checkpoints.MANIFEST)
            and part[1].isdecimal()
        ),
        reverse=True,
    )


def _fetch_checkpoint(store: Store, copy: Path, wanted: Iterable[int]) -> None:
    """Download the first of these checkpoints that is intact.

    Broken ones stay beside it, because whoever loads it warns of those that were passed over.
    """
    for number in wanted:
        names = store.files(f"{CHECKPOINTS}/{number}")
        download(store, copy, names)
        try:
            checkpoints.load(copy / CHECKPOINTS, number)
        except CheckpointError:
            continue
        return


def download(store: Store, copy: Path, names: Iterable[str]) -> None:
    """Download files; one that has been removed in the meantime is left out."""
    for name in names:
        try:
            content = store.read(name)
        except FileNotFoundError:
            continue
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _in(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/")


def _missing(store: Store) -> str:
    """Why there is no run at a URI, with the nearest name beside it."""
    if store.names():
        return f"{store.uri} is not a run: it holds no {CONFIG}"
    parent, _, name = store.uri.rpartition("/")
    known = open_store(parent).names()
    hint = nearest(name, known) if known else f"there are no runs in {parent}"
    return f"no run {store.uri!r}: {hint}"
