"""Ray, started on this machine or found in a cluster, and what has to hold before it is used."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray

from warprl.envs import UnknownFamily, make_family
from warprl.launch.cluster.silence import silence_raylet
from warprl.launch.errors import UserError
from warprl.launch.machine import available_cores


def connect(workers: int) -> None:
    """Start Ray on this machine, unless it runs in this process or RAY_ADDRESS names a cluster.

    There may be more workers than cores.
    """
    if ray.is_initialized():
        return
    silence_raylet()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's native log otherwise reaches the terminal; errors that matter are Python's exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        cpus = max(available_cores(), workers)
        settings |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    with _muted():
        _lasting(partial(ray.init, **settings))


def _lasting(start: Callable[[], object]) -> None:
    """Call a function in a thread that lasts as long as the process.

    On Linux the processes of Ray end with the *thread* that started them, and Ray then ends the
    program, without a word, when it is used next.
    """
    if threading.current_thread() is threading.main_thread():
        start()
        return
    started: Future[None] = Future()

    def work() -> None:
        try:
            start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(None)
            threading.Event().wait()

    threading.Thread(target=work, name="starts-ray", daemon=True).start()
    started.result()


@contextmanager
def _muted() -> Iterator[None]:
    """Drop what native code prints on stderr while Ray starts, unless starting fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def require_family(family: str) -> None:
    """Raise UserError if a Ray worker cannot find the module of a user's own family."""
    if ":" not in family:
        return

    @ray.remote(num_cpus=0)
    def find() -> None:  # a local function, which Ray sends by value
        make_family(family)

    try:
        ray.get(find.remote())
    except UnknownFamily as error:
        reason = getattr(error, "cause", error)  # Ray's error holds a traceback beside it
        raise UserError(f"a Ray worker finds {reason}") from error
