"""Work in a thread that does not keep the program from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], name: str, lasting: bool = False) -> Future[T]:
    """Start work in a daemon thread.

    Args:
        work: what to do.
        name: of the thread.
        lasting: whether the thread stays when its work is done, for what ends with its thread.

    Returns:
        What has the result, or the exception, once the work is done.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)
        else:
            if lasting:
                threading.Event().wait()

    threading.Thread(target=run, name=name, daemon=True).start()
    return done
