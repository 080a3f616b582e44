"""Threads that compute with torch, one thread of its own each, and leave the program's alone.

Our operations are small: several threads of torch would wait for one another at each of them. But
``torch.set_num_threads`` reaches beyond the thread that calls it: threads that have not computed
yet, the main thread among them, take over the number. So it has to be put back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch


class _Keeper:
    """Puts torch's number of threads back, when the last of several blocks at once has ended."""

    def __init__(self) -> None:
        self._lock, self._blocks, self._number = threading.Lock(), 0, 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        own = torch.get_num_threads()
        with self._lock:
            self._number = self._number if self._blocks else own
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                torch.set_num_threads(own if self._blocks else self._number)


_keeping = _Keeper()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch inside the ``with`` block."""
    with _keeping():
        torch.set_num_threads(1)
        yield


@contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, each of which computes with one thread of torch."""
    initializer = partial(torch.set_num_threads, 1)
    with _keeping(), ThreadPoolExecutor(threads, initializer=initializer) as executor:
        yield executor
