"""Ctrl-C while a program trains: the current iteration is saved, and the program interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console


class Interruption:
    """Remembers whether Ctrl-C was pressed, and interrupts the program after training."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self.signal: int | None = None

    @contextmanager
    def stopping(self, console: Console) -> Iterator[Interruption]:
        """Remember Ctrl-C while training, unless the program handles it itself."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield self
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, b"warprl: stopping after this iteration; a second Ctrl-C stops at once\n")

    def check(self, folder: Path) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed while the run in this folder trained."""
        if self.signal is not None:
            raise KeyboardInterrupt(
                f"stopped after the current iteration and saved: "
                f"continue with warprl.load({str(folder)!r}).resume()"
            )
