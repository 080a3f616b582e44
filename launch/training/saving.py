"""Saves a run while it trains: checkpoints when they are due, and its last whole iteration always.

Ray can end this process without a word when it dies itself. So a run on workers also leaves every
whole iteration in the folder ``last``, which costs next to nothing because it is not forced onto
the disk: it outlasts the process, but not a power cut.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from warprl.launch.errors import writing
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.copies import CHECKPOINTS, LAST, address
from warprl.launch.runs.lease import Lease
from warprl.launch.runs.log import RunLog
from warprl.launch.training.loop import Progress

LAST_WORDS = "trap '' INT TERM HUP; read -r line || echo \"$0\" >&2"


@contextmanager
def last_words(folder: Path) -> Iterator[None]:
    """Say how to go on if this process is ended in the ``with`` block without a word of its own.

    That is what Ray does when it dies, and the system when memory runs out. A shell waits for the
    end of a pipe whose other end is ours.
    """
    advice = f"'warprl resume {address(folder)}' continues after the last whole iteration"
    command = ["sh", "-c", LAST_WORDS, f"warprl: the run has ended at once: {advice}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as shell:
        try:
            yield
        finally:
            assert shell.stdin
            with suppress(BrokenPipeError), shell.stdin:
                shell.stdin.write(b"\n")
            shell.wait()  # here, for after Ctrl-C the with block would not wait for long


class Saver:
    """Saves the progress of a run; a context manager, which saves what is left at its end."""

    def __init__(self, folder: Path, config: RunConfig, lease: Lease, log: RunLog) -> None:
        """Save in this run folder while the lease lasts; its metrics go to ``log``."""
        self._folder, self._config, self._lease, self._log = folder, config, lease, log
        self._unsaved: Progress | None = None
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        """Return the saver itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save the last whole iteration, whatever has ended the run.

        Raises RunFailedError if that cannot be written, or if the run is another process's now.
        """
        self._lease.check()
        if self._unsaved is not None:
            self._save(self._unsaved)
        with self._writing():
            shutil.rmtree(self._folder / LAST, ignore_errors=True)

    def keep(self, progress: Progress) -> None:
        """Remember a whole iteration, which will be saved however the run ends."""
        self._unsaved = progress
        if self._config.compute.workers:
            with self._writing():
                logged = self._log.logged()
                progress.save(self._folder / LAST, self._config, logged, durable=False)

    def save_if_due(self) -> None:
        """Write the checkpoint of the iteration that was kept, by its number or by the time."""
        output, progress = self._config.output, self._unsaved
        if progress is None:
            return
        waited = time.monotonic() - self._saved_at
        by_number = progress.learner.iteration % output.checkpoint_every == 0
        if by_number or waited >= 60.0 * output.checkpoint_minutes:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        with self._writing():
            progress.save(self._folder / CHECKPOINTS, self._config, self._log.sync())
        self._unsaved, self._saved_at = None, time.monotonic()

    def _writing(self) -> AbstractContextManager[None]:
        return writing_run(self._folder)


def writing_run(folder: Path) -> AbstractContextManager[None]:
    """Turn an OSError while a run is written into RunFailedError, which says how to go on."""
    advice = f"free some space, then 'warprl resume {address(folder)}'"
    return writing(folder, f"; the saved checkpoints are complete: {advice}")
