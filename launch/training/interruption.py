"""Signals while a run trains: the first lets the current iteration end and be saved.

:func:`stoppable` is the command line's, :class:`Interruption` that of a program that called
:func:`warprl.train`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from rich.console import Console


class Signals:
    """Remembers the first signal that it catches, and hands the second one on."""

    def __init__(self, second: Callable[[int], None], another: str) -> None:
        """Call ``second`` with the second signal, of which users read as ``another``."""
        self.signal: int | None = None
        self._second, self._another = second, another

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.signal is not None:
            return self._second(number)
        self.signal = number
        message = f"warprl: stopping after this iteration; {self._another} stops at once\n"
        os.write(2, message.encode())

    @contextmanager
    def caught(self, numbers: Collection[int]) -> Iterator[Signals]:
        """Catch these signals in the ``with`` block; in any other than the main thread, none."""
        main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self) for number in numbers if main}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def stoppable(console: Console) -> AbstractContextManager[Signals]:
    """Catch SIGINT and SIGTERM; the second one ends the process at once.

    Enter it after Ray has started, because Ray installs handlers of its own.
    """

    def end(number: int) -> None:
        console.show_cursor(True)
        os._exit(128 + number)

    return Signals(end, "a second signal").caught((signal.SIGINT, signal.SIGTERM))


class Interruption:
    """Remembers whether Ctrl-C was pressed, and interrupts the program after training."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self._signals = Signals(_interrupt, "a second Ctrl-C")

    def stopping(self, console: Console) -> AbstractContextManager[Signals]:
        """Remember Ctrl-C while training, unless the program handles it itself."""
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        return self._signals.caught((signal.SIGINT,) if ours else ())

    def check(self, run: str) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed while this run trained."""
        if self._signals.signal is not None:
            raise KeyboardInterrupt(
                f"stopped after the current iteration and saved: "
                f"continue with warprl.load({run!r}).resume()"
            )


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt
