"""The log of a run while it goes: metrics.jsonl, copies of it, and progress on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from rich.console import Console

from warprl.launch.errors import one_line, require_known
from warprl.launch.runs.metrics import Logged, Metrics
from warprl.launch.runs.progress import display
from warprl.launch.runs.writers import WRITERS, JsonLines, Writer

log = logging.getLogger(__name__)


class RunLog:
    """Writes the metrics of every iteration of one run and shows them; a context manager.

    ``metrics.jsonl`` is always written, because a resumed run continues it. The other writers make
    copies: if one cannot be written, the run warns, stops writing it, and continues.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        iteration: int,
        total: int,
        writers: Sequence[str] = ("tensorboard",),
    ) -> None:
        """Log the iterations after ``iteration``, and drop what an earlier process wrote of them.

        ``writers`` are names in ``warprl.launch.runs.writers.WRITERS``. Raises UserError for an
        unknown name, and OSError if ``metrics.jsonl`` cannot be written.
        """
        # A wrong name is refused before any file is touched.
        for name in writers:
            require_known("log writer", name, WRITERS)

        self._metrics = JsonLines(folder, iteration)
        self._copies: dict[str, Writer] = {}
        for name in writers:
            with self._given_up_on_failure(name):
                self._copies[name] = WRITERS[name](folder, iteration)
        self._display = display(console, iteration, total)

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the display and all writers."""
        self._display.close()
        for name, copy in list(self._copies.items()):
            with self._given_up_on_failure(name):
                copy.close()
        self._metrics.close()

    def write(self, metrics: Metrics) -> None:
        """Record one iteration. Raises OSError if ``metrics.jsonl`` cannot be written."""
        self._metrics.write(metrics)
        for name, copy in list(self._copies.items()):
            with self._given_up_on_failure(name):
                copy.write(metrics)
        self._display.show(metrics)

    def logged(self) -> Logged:
        """What ``metrics.jsonl`` holds."""
        return self._metrics.logged()

    def sync(self) -> Logged:
        """The same, once all of it outlasts a power cut. Raises OSError if the disk refuses."""
        self._metrics.sync()
        return self._metrics.logged()

    @contextmanager
    def _given_up_on_failure(self, name: str) -> Iterator[None]:
        """If writing a copy fails in the ``with`` block, warn and stop writing that copy."""
        try:
            yield
        except Exception as error:  # whatever is wrong with a copy, the run is worth more
            kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            log.warning("metrics are no longer written to %s: %s%s", name, kind, one_line(error))
            copy = self._copies.pop(name, None)
            if copy is not None:
                with suppress(Exception):
                    copy.close()
