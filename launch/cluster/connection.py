"""Ray, started on this machine or found in a cluster, and what has to hold before it is used."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray.exceptions import RayError
from ray.job_config import JobConfig

from warprl.launch.background import in_background
from warprl.launch.cluster import address as addresses
from warprl.launch.cluster.address import DEFAULTS, ClusterOptions
from warprl.launch.cluster.nodes import require_able
from warprl.launch.cluster.silence import silence_raylet
from warprl.launch.errors import UserError, one_line, os_errors
from warprl.launch.machine import available_cores
from warprl.launch.search_path import without_working_folder

RELEASE_S = 10.0  # in which CPUs of workers that have ended become free
POLL_S = 0.2
TASK_S = 60.0  # for the first task, whose process has to start
LONGEST = 107  # characters of a socket's path, such as this one
SOCKET = "warprl-{}/ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store"

log = logging.getLogger(__name__)

Say = Callable[[str], None]


def prepare(
    workers: int,
    families: Collection[str],
    options: ClusterOptions = DEFAULTS,
    say: Say = lambda line: None,
    free: bool = True,
) -> None:
    """Connect to Ray, and make sure that workers for these task families can start.

    Raises UserError, in one line, if they cannot.

    Args:
        workers: how many; each needs a CPU.
        families: what they train, each a name.
        options: how to treat a cluster.
        say: called with a line if there are not enough CPUs yet.
        free: whether CPUs that are taken do not count.
    """
    starts = not ray.is_initialized() and addresses.named() is None
    connect(workers, options)
    if not starts:  # otherwise it has just started with enough
        require_cpus(workers, options.wait_s, say, free)
    require_nodes(families)


def connect(workers: int, options: ClusterOptions = DEFAULTS) -> None:
    """Start Ray on this machine, unless it runs in this process or RAY_ADDRESS names a cluster.

    On this machine there may be more workers than cores. Raises UserError, in one line, for a
    cluster that cannot be used.
    """
    if ray.is_initialized():
        return
    silence_raylet()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's native log otherwise reaches the terminal; errors that matter are Python's exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = addresses.named()
    if address is None:
        _start(max(available_cores(), workers))
    else:
        _join(address, options)


def require_cpus(
    workers: int, wait_s: float = 0.0, say: Say = lambda line: None, free: bool = True
) -> None:
    """Raise UserError if Ray has no CPU for each worker, nor gets it within ``wait_s`` seconds.

    Args:
        workers: how many there are to be.
        wait_s: how long to wait for CPUs.
        say: called with a line before waiting.
        free: whether CPUs that are taken do not count.
    """
    began, told = time.monotonic(), False
    while shortage := _shortage(workers, free):
        # The CPUs of workers that have ended become free a little later.
        waited = time.monotonic() - began
        if waited >= max(wait_s, RELEASE_S if cpus() >= workers else 0.0):
            raise UserError(f"{shortage}: {_remedy()}")
        if wait_s and not told:
            say(f"waiting for up to {wait_s:g} s: {shortage}")
            told = True
        time.sleep(POLL_S)


def require_nodes(families: Collection[str]) -> None:
    """Raise UserError if a node cannot run workers for these task families; Ray is connected.

    The nodes of a cluster are all asked. This machine has what this program has, but its workers
    may not find the module of a user's own family.
    """
    if addresses.named() or any(":" in family for family in families):
        require_able(families)


def cpus(free: bool = False) -> int:
    """The CPUs of the Ray that this process is connected to, all or those that are free."""
    resources = ray.available_resources if free else ray.cluster_resources
    return int(resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def _shortage(workers: int, free: bool) -> str:
    """What Ray lacks for so many workers; empty if nothing."""
    whose = "the cluster" if addresses.named() else "Ray in this program"
    need = f"{workers} worker{'s need' if workers > 1 else ' needs'} a CPU each"
    total = cpus()
    if total < workers:
        return f"{need}, and {whose} has {total}"
    left = cpus(free=True) if free else total
    return "" if left >= workers else f"{need}, and {left} of the {total} of {whose} are free"


def _start(cpus: int) -> None:
    """Start Ray on this machine, for this program only.

    By itself Ray listens on all interfaces, unless it believes that the machine cannot belong to a
    larger cluster, writes its token into the home folder, and lets everybody on this machine into
    its own folder.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        log.warning(
            "RAY_AUTH_MODE=disabled: every user of this machine can run programs as you through "
            "this Ray: unset it"
        )

    # This process remembers a token, which must be the one that its cluster will find.
    tokens: Any = _raylet.AuthenticationTokenLoader.instance()  # type: ignore[attr-defined]
    tokens.reset_cache()
    if not tokens.has_token(ignore_auth_mode=True):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _muted(), without_working_folder(), _deaf():
            folder = _private_folder() / "ray"
            _init(address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=str(folder))
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
    _end_by_force()


def _private_folder() -> Path:
    """The folder for Ray's sockets, logs and what does not fit into memory: only we can enter it.

    Ray gives everybody all rights in the folders that it makes, and so gets one inside of this.
    """
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.path.join(base, SOCKET.format(os.getuid()))) > LONGEST:
        base = "/tmp"
    place = Path(base) / f"warprl-{os.getuid()}"
    with os_errors(UserError, f"cannot make a folder for Ray in {place.parent}"):
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):  # somebody was quicker
            return Path(tempfile.mkdtemp(prefix="warprl-", dir=place.parent))
        place.chmod(0o700)
    return place


def _join(address: str, options: ClusterOptions) -> None:
    """Connect to a cluster. Raises UserError if it cannot be used, or anybody can use it."""
    addresses.require_reachable(address)
    reason = ""
    with _muted():
        try:
            _init()
        except (ConnectionError, RayError, RuntimeError) as error:
            reason = one_line(error)
    if reason:
        raise addresses.refusal(address, f"Ray does not connect: {reason}")

    # A cluster that no other machine reaches may do without a token.
    head = ray.get_runtime_context().gcs_address
    if not (options.insecure or addresses.is_loopback(head) or _demands_token()):
        ray.shutdown()
        raise addresses.refusal(address, addresses.OPEN)


def exposure() -> dict[str, Any]:
    """Where the Ray that this process uses listens, whether it demands a token, its dashboard."""
    return {
        "address": ray.get_runtime_context().gcs_address,
        "token": _demands_token(),
        "dashboard": ray_worker.get_dashboard_url(),  # type: ignore[no-untyped-call]
    }


def _demands_token() -> bool:
    """Whether the cluster asks for a token. Its nodes know, and they answer anybody if not."""

    @ray.remote(num_cpus=0)
    def mode() -> str:  # a local function, which Ray sends by value
        return os.environ.get("RAY_AUTH_MODE", "")

    return ray.get(mode.remote(), timeout=TASK_S).lower() == "token"


def _remedy() -> str:
    if addresses.named():
        return "use fewer workers, or wait for more CPUs with --wait-for-nodes SECONDS"
    return "use fewer workers, or call ray.shutdown() before, so that it starts with enough"


class _NoFolders(JobConfig):
    """Ray's settings of a program, without folders in which its workers would look first.

    These are the working folder and that of the script; see :mod:`warprl.launch.search_path`.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path.clear()
        return super()._serialize()


def _init(**settings: Any) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    _lasting(partial(ray.init, job_config=_NoFolders(), **quiet, **settings))


@contextmanager
def _deaf() -> Iterator[None]:
    """Start processes, in the ``with`` block, that do not hear the signals that stop a run.

    Such a signal often goes to all processes of a group or of a service. If Ray ended at once, the
    run could not end its iteration.
    """
    # What this thread blocks is blocked in the threads and processes that it starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_by_force() -> None:
    """Have Ray's processes killed when it shuts down: they would not hear that they are to end."""
    node: Any = ray_worker._global_node
    node.kill_all_processes = partial(_kill, node, node.kill_all_processes)


def _kill(node: Any, kill: Callable[..., None], **_: Any) -> None:
    """End all processes of a node of Ray, and those that they started, without asking first."""
    raylets = [info.process.pid for info in node.all_processes.get("raylet", ())]
    started = [child for pid in raylets for child in _children(pid)]
    kill(check_alive=False, allow_graceful=False, wait=True)
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """The processes that a process has started, where the system tells, as Linux does."""
    with suppress(OSError):  # it has ended
        files = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for file in files for child in file.read_text().split()]
    return []


def _lasting(start: Callable[[], object]) -> None:
    """Call a function in a thread that lasts as long as the process.

    On Linux the processes of Ray end with the *thread* that started them, and Ray then ends the
    program, without a word, when it is used next.
    """
    if threading.current_thread() is threading.main_thread():
        start()
        return
    in_background(start, "starts-ray", lasting=True).result()


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
