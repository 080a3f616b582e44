"""Uploads a run to storage while it is trained in a local copy.

A thread looks for what is new, so that training does not wait for storage. If storage does
not answer, training goes on in the copy, and the thread goes on trying.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Self

from warprl import checkpoint as checkpoints
from warprl.launch.errors import RunFailedError
from warprl.launch.runs import copies, storage
from warprl.launch.runs.lease import Lease
from warprl.launch.runs.storage import Store

EVERY_S = 3.0  # between two looks at the run
SHARE = 0.05  # of the time goes into uploading, if there is much to upload
OFTEN = (copies.CONFIG, copies.METRICS)
SELDOM = "tensorboard"  # with each checkpoint

log = logging.getLogger(__name__)

Signature = tuple[int, int, int]


class Mirror:
    """Keeps a run in storage like its copy; a context manager."""

    def __init__(self, copy: Path, store: Store, lease: Lease, keep: int) -> None:
        """Mirror ``copy`` into ``store`` while the lease lasts.

        In storage, too, the newest ``keep`` checkpoints stay. Raises OSError if storage cannot be
        read.
        """
        self._copy, self._store, self._lease, self._keep = copy, store, lease, keep
        stored = set(store.files())
        self._sent = {
            path: _signature(copy / path)
            for path in (*_files(copy), *_complete(copy, copies.IMPORTED, copies.CHECKPOINTS))
            if path in stored or f"{path}/{checkpoints.MANIFEST}" in stored
        }
        self._failing_since: float | None = None
        self._warned = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploads-run", daemon=True)

    def __enter__(self) -> Self:
        """Upload from now on."""
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Upload what is left, and keep the copy if that fails.

        Raises RunFailedError then, or warns if another error is on its way.
        """
        try:
            self._finish()
        except (OSError, RunFailedError) as failure:
            copies.keep(self._copy)
            message = self._failure(failure)
            if error is None:
                raise RunFailedError(message) from failure
            log.warning("%s", message)

    def _work(self) -> None:
        pause = EVERY_S
        while not self._ended.wait(pause):
            began = time.monotonic()
            try:
                self.upload()
            except RunFailedError:
                return  # the run is another process's; training finds out by itself
            except OSError as error:
                self._note(error)
            else:
                self._note(None)
            pause = max(EVERY_S, (time.monotonic() - began) / SHARE)

    def upload(self, everything: bool = False) -> None:
        """Upload what is new, with ``everything`` also what would wait for the next checkpoint.

        Raises OSError if storage fails, and RunFailedError if the run is another process's now.
        """
        self._lease.require()

        # What depends on another file is looked for before it and sent after it: a run is never
        # without the initialisation that it began with, and its log is never behind a checkpoint.
        whole = _complete(self._copy, copies.CHECKPOINTS)
        often = [path for path in OFTEN if (self._copy / path).exists()]
        for path in (*_complete(self._copy, copies.IMPORTED), *often):
            self._send(path)
        sent = [self._send(path) for path in whole]
        if any(sent) or everything:
            self._prune()
            for path in _files(self._copy, SELDOM):
                self._send(path)

    def _send(self, path: str) -> bool:
        """Upload a file or a folder if it has changed; whether it was."""
        source = self._copy / path
        try:
            signature = _signature(source)
            if self._sent.get(path) == signature:
                return False
            storage.upload(self._store, source, path)
        except FileNotFoundError:
            if source.exists():
                raise
            return False  # an old checkpoint, deleted meanwhile
        self._sent[path] = signature
        return True

    def _prune(self) -> None:
        """Remove older checkpoints as training does, and what is left of incomplete ones."""
        files = self._store.files(copies.CHECKPOINTS)
        newest = max(checkpoints.iterations(self._copy / copies.CHECKPOINTS), default=0)
        kept = [n for n in copies.iterations(files) if n < newest][: self._keep - 1]
        present = {name.split("/")[1] for name in files}
        for number in map(int, filter(str.isdecimal, present)):
            if number < newest and number not in kept:
                folder = f"{copies.CHECKPOINTS}/{number}"
                self._store.remove(f"{folder}/{checkpoints.MANIFEST}")
                self._store.remove(folder)

    def _finish(self) -> None:
        self._ended.set()
        self._thread.join(storage.PATIENCE_S)
        if self._thread.is_alive():
            raise OSError(f"no answer within {storage.PATIENCE_S:.0f} s")
        storage.persistently(lambda: self.upload(everything=True))

    def _note(self, error: OSError | None) -> None:
        """Say once that uploading fails, and once that it works again."""
        now = time.monotonic()
        if error is None:
            if self._warned:
                log.warning("uploading to %s works again", self._store.uri)
            self._failing_since, self._warned = None, False
            return
        self._failing_since = self._failing_since or now
        if not self._warned and now >= self._failing_since + storage.PATIENCE_S:
            said, uri = storage.reason(error), self._store.uri
            log.warning("cannot upload to %s: %s; training goes on in %s", uri, said, self._copy)
            self._warned = True

    def _failure(self, error: OSError | RunFailedError) -> str:
        """What to tell the user if the end of the run is not in storage."""
        if isinstance(error, RunFailedError):
            return f"{error}; what it has done is in {self._copy}"
        return (
            f"cannot upload to {self._store.uri}: {storage.reason(error)}; when storage answers, "
            f"'warprl resume {self._copy}' uploads all of it"
        )


def _signature(path: Path) -> Signature:
    """What changes when a file or a folder is written or replaced."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _files(copy: Path, folder: str = ".") -> list[str]:
    """The files of a run below a folder, in order."""
    found = (path for path in (copy / folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(copy).as_posix() for path in found)


def _complete(copy: Path, *folders: str) -> list[str]:
    """The complete checkpoints in some folders of a run, the newest first."""
    return [
        f"{folder}/{number}"
        for folder in folders
        for number in checkpoints.iterations(copy / folder)
    ]
