"""A Ray cluster of several nodes on the loopback interface of one machine, for tests.

Each node has a Ray session of its own and, where namespaces are allowed, a disk of its own. The
cluster demands a token. Its nodes end by process id, with everything that they started.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CLONE_NEWNET = 0x40000000  # of linux/sched.h
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1  # of linux/sockios.h and linux/if.h
PUBLIC = "10.77.0.1"
START_S = 60.0
BIND = """
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done
shift
exec "$@"
"""


def leave_the_network() -> bool:
    """Give this thread, and all that it starts, a network that is nothing but a loopback.

    Ray listens on every interface of a machine. Returns whether the system allowed it: otherwise
    only the token protects the clusters of the tests.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        assert ctypes.get_errno() in (errno.EPERM, errno.EINVAL, errno.ENOSYS)
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        # A second address, for which nobody can tell that only this machine reaches it.
        address = struct.pack("16sHH4s8x", b"lo:0", socket.AF_INET, 0, socket.inet_aton(PUBLIC))
        fcntl.ioctl(any_socket, SIOCSIFADDR, address)
    return True


@cache
def own_mounts() -> tuple[str, ...]:
    """The command that gives another command mounts of its own; empty if that is not allowed."""
    for command in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")):
        if shutil.which("unshare"):
            tried = [*command, "mount", "--bind", "/tmp", "/tmp"]
            if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
                return command
    return ()


class Node:
    """One raylet, and on the first node the cluster's head, with all of their processes.

    ``disk`` is the folder that the node sees at ``Cluster.disk``.
    """

    def __init__(self, address: str, folder: Path, command: list[str], env: dict[str, str]) -> None:
        self.address, self.disk = address, folder / "disk"
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def await_start(self) -> None:
        """Return once the node belongs to the cluster."""
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in (said := self._log.read_text()):
            assert self._process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.05)

    @property
    def alive(self) -> bool:
        """Whether any process of it lives."""
        return bool(self._pids())

    @property
    def raylet(self) -> int:
        """The process id of the raylet."""
        (pid,) = (pid for pid in self._pids() if name_of(pid) == "raylet")
        return pid

    @property
    def workers(self) -> int:
        """How many of our workers run on it."""
        return sum(_title(pid).startswith("ray::Worker") for pid in self._pids())

    def kill(self) -> None:
        """End it as a power cut does: without a word, and with all its workers."""
        while pids := self._pids():
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._process.wait()

    def stop(self) -> None:
        """End it so that the cluster knows at once that it is gone."""
        raylet, deadline = self.raylet, time.monotonic() + START_S
        _signal(raylet, signal.SIGTERM)
        while name_of(raylet) == "raylet" and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()

    def _pids(self) -> list[int]:
        """Its processes that live: all are in the session of the first."""
        return [pid for pid, session in sessions() if session == self._process.pid]


class Cluster:
    """A head and nodes that come and go, each at an address 127.0.0.N of its own.

    Attributes:
        address: where the head is found: HOST:PORT.
        dashboard: where jobs are submitted, if that was asked for.
        token: what the cluster asks of whoever connects.
        env: the environment that a driver needs.
        disk: a folder that is another one on each node but the head, on which the driver runs.
        nodes: the nodes that were started, the head first.
    """

    def __init__(
        self, folder: Path, cpus: int = 1, dashboard: bool = False, open_at: str | None = None
    ) -> None:
        self._folder, self.disk = folder, folder / "disk"
        self.disk.mkdir()
        self.nodes: list[Node] = []
        self._head = open_at or "127.0.0.2"
        port, client, jobs = free_port(), free_port(), free_port()
        self.address = f"{self._head}:{port}"
        self.dashboard = f"http://127.0.0.1:{jobs}" if dashboard else None
        self.token = secrets.token_hex(32)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "disabled" if open_at else "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._start(
            *("--head", f"--port={port}", f"--ray-client-server-port={client}"),
            *(f"--include-dashboard={dashboard}", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={jobs}", f"--num-cpus={cpus}"),
            env={"RAY_health_check_period_ms": "1000"},  # a dead node is noticed in five seconds
        ).await_start()

    def add_node(
        self,
        cpus: int = 1,
        python: str | Path = sys.executable,
        mounts: Mapping[str | Path, Path] | None = None,
        **env: str,
    ) -> Node:
        """Start a node, which :meth:`Node.await_start` waits for.

        Args:
            cpus: what it offers.
            python: the interpreter of its workers.
            mounts: files and folders of the machine, and what the node sees in their place.
            env: environment variables that are its own.
        """
        arguments = (f"--address={self.address}", f"--num-cpus={cpus}")
        return self._start(*arguments, python=python, mounts=mounts or {}, env=env)

    @contextmanager
    def node(self, **options: object) -> Iterator[Node]:
        """A node, started as :meth:`add_node` does, for as long as the ``with`` block."""
        node = self.add_node(**options)  # type: ignore[arg-type]
        try:
            node.await_start()
            yield node
        finally:
            node.stop()

    def run(
        self, *arguments: str, cwd: Path, timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """The command ``warprl`` on the head, with these arguments."""
        command = [sys.executable, "-m", "warprl.launch.cli", *arguments]
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.kill()

    def _start(
        self,
        *arguments: str,
        python: str | Path = sys.executable,
        mounts: Mapping[str | Path, Path] | None = None,
        env: Mapping[str, str],
    ) -> Node:
        number = len(self.nodes) + 2
        address = f"127.0.0.{number}" if self.nodes else self._head
        folder = self._folder / str(number)
        (folder / "disk").mkdir(parents=True)
        command = [
            *(str(python), "-m", "ray.scripts.scripts", "start", "--block", *arguments),
            *(f"--node-ip-address={address}", f"--temp-dir={folder / 'ray'}"),
            *("--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"),
            # By default it is the same for nodes of two clusters at one address.
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        if mounts is not None and own_mounts():
            places = {self.disk: folder / "disk", **mounts}
            pairs = [str(part) for place, seen in places.items() for part in (seen, place)]
            command = [*own_mounts(), "sh", "-c", BIND, "sh", *pairs, "--", *command]
        node = Node(address, folder, command, {**self.env, **env})
        self.nodes.append(node)
        return node


@contextmanager
def running_cluster(
    cpus: int = 1, dashboard: bool = False, open_at: str | None = None
) -> Iterator[Cluster]:
    """A cluster of one node, to which nodes may be added.

    Args:
        cpus: what that node offers.
        dashboard: whether jobs can be submitted.
        open_at: its address, if it is to demand no token.
    """
    # The sockets' names are limited to 107 characters, which pytest's folders exceed.
    with tempfile.TemporaryDirectory(prefix="warprl-") as folder:
        cluster = Cluster(Path(folder), cpus, dashboard, open_at)
        try:
            yield cluster
        finally:
            cluster.close()


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


def listening(session: int) -> set[str]:
    """The addresses at which the processes of a session wait for TCP connections."""
    sockets = {link for pid, its in sessions() if its == session for link in _sockets(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def head_of(session: int) -> str:
    """The address HOST:PORT of the head of the cluster that a process of a session started."""
    return _raylets_option(session, "--gcs-address")


def socket_of(session: int) -> str:
    """The path of the socket at which that cluster listens to programs of this machine."""
    return _raylets_option(session, "--raylet_socket_name")


def _raylets_option(session: int, name: str) -> str:
    for pid, its in sessions():
        if its == session and name_of(pid) == "raylet":
            for argument in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                if argument.startswith(f"{name}="):
                    return argument.partition("=")[2]
    raise AssertionError("no raylet runs in that session")


def _sockets(pid: int) -> set[str]:
    """The sockets of a process, as the links to its files name them."""
    links = set()
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            links.add(os.readlink(file))
    return {link for link in links if link.startswith("socket:")}


def _address(digits: str) -> str:
    """An IP address from the kernel's tables, whose words of four bytes are turned around."""
    words = [digits[start : start + 8] for start in range(0, len(digits), 8)]
    found = ipaddress.ip_address(b"".join(bytes.fromhex(word)[::-1] for word in words))
    return str(getattr(found, "ipv4_mapped", None) or found)


def sessions() -> Iterator[tuple[int, int]]:
    """Each living process and its session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if state != "Z":
            yield int(folder.name), int(session)


def name_of(pid: int) -> str:
    """The name of a process, empty once it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] == "Z" else name


def _title(pid: int) -> str:
    """How a process calls itself, empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, number)
