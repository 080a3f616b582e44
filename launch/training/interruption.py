"""Signals while a run trains: the first lets the current iteration end and be saved.

:func:`stoppable` is the command line's, :class:`Interruption` that of a program that called
:func:`warprl.train`.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Protocol

from rich.console import Console


class Stop(Protocol):
    """Says whether a run should end after the current iteration."""

    @property
    def signal(self) -> int | None:
        """The signal that asked for it, if one did."""
        ...

    def caught(self) -> AbstractContextManager[object]:
        """Listen in the ``with`` block."""
        ...


class Signals:
    """Remembers the first signal that it catches, and hands the second one on."""

    def __init__(
        self, numbers: Collection[int], second: Callable[[int], None], another: str
    ) -> None:
        """Call ``second`` with the second of these signals, of which users read as ``another``."""
        self.signal: int | None = None
        self._numbers, self._second, self._another = numbers, second, another

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGHUP:
            _leave_the_terminal()
        if self.signal is not None:
            return self._second(number)
        self.signal = number
        message = f"warprl: stopping after this iteration; {self._another} stops at once\n"
        with suppress(OSError):  # nobody reads it any more
            os.write(2, message.encode())

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals in the ``with`` block; in any other than the main thread, none.

        One that is ignored, as ``nohup`` has it for SIGHUP, stays ignored.
        """
        main = threading.current_thread() is threading.main_thread()
        numbers = [n for n in self._numbers if main and signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def stoppable(console: Console) -> Signals:
    """What catches SIGINT, SIGTERM and SIGHUP; the second one ends the process at once.

    It listens after Ray has started, because Ray installs handlers of its own.
    """

    def end(number: int) -> None:
        with suppress(OSError):
            console.show_cursor(True)
        os._exit(128 + number)

    return Signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), end, "a second signal")


class Interruption:
    """Remembers whether Ctrl-C was pressed, and interrupts the program after training."""

    def __init__(self) -> None:
        """Start with no signal received."""
        self._signals: Signals | None = None

    def stopping(self, console: Console) -> Signals:
        """What remembers Ctrl-C while training, unless the program handles it itself."""
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        numbers = (signal.SIGINT,) if ours else ()
        self._signals = Signals(numbers, _interrupt, "a second Ctrl-C")
        return self._signals

    def check(self, run: str) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed while this run trained."""
        if self._signals is not None and self._signals.signal is not None:
            raise KeyboardInterrupt(
                f"stopped after the current iteration and saved: "
                f"continue with warprl.load({run!r}).resume()"
            )


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _leave_the_terminal() -> None:
    """Write to nowhere what would go to a terminal that is closed, where writing fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):  # it is closed already
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)
