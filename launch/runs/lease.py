"""A lease on a run: at most one process writes to it, on any host that sees its folder or bucket.

The lease is a file, ``lease.json``, that names its holder and is renewed while that process lives.
It needs no locks of the file system, and works in a bucket. A lease is void

- at once, if its holder was a process of this machine and has ended, however it ended;
- otherwise if nobody has renewed it for TTL_S seconds.

A process that finds its lease taken over stops writing. Until it looks, two processes may write at
once; what they write is the same, because a run depends on nothing but its configuration.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from warprl.launch.errors import RunFailedError, UserError, os_errors
from warprl.launch.runs import storage
from warprl.launch.runs.storage import Store

FILE = "lease.json"  # in a run
RENEW_S = 10.0
TTL_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    ``machine`` tells machines and containers apart that have the same name, and ``started`` tells a
    process from a later one with the same number; both are empty where there is no ``/proc``.
    """

    host: str
    pid: int
    machine: str
    started: str
    token: str
    expires: float

    @classmethod
    def of_this_process(cls) -> Holder:
        """A new holder, different from all others of this process."""
        pid = os.getpid()
        token = os.urandom(8).hex()
        expires = time.time() + TTL_S
        return cls(socket.gethostname(), pid, _machine(), _started(pid), token, expires)

    @classmethod
    def parse(cls, content: bytes) -> Holder:
        """The holder that a file names; an unknown one if the file is damaged or half written."""
        try:
            found = cls(**json.loads(content))
            return replace(found, pid=int(found.pid), expires=float(found.expires))
        except (ValueError, TypeError, OverflowError, RecursionError):
            return cls("an unknown host", 0, "", "", content.hex(), float("inf"))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @property
    def local(self) -> bool:
        """Whether the holder is, or was, a process that this one could see."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def alive(self) -> bool:
        """Whether a local holder still runs."""
        return bool(self.started) and _started(self.pid) == self.started

    @property
    def expired(self) -> bool:
        """Whether the lease has run out even if the clocks of two hosts differ by a minute."""
        return time.time() > self.expires + TTL_S

    def __str__(self) -> str:
        """The holder as messages name it."""
        return f"process {self.pid} on {self.host}"


class Lease:
    """The right to write to a run; a context manager, which renews it and gives it back."""

    def __init__(self, store: Store, name: str) -> None:
        """Take the lease of the run in ``store``, which messages call ``name``.

        It may take TTL_S seconds if its last holder is of another machine and has just ended.

        Raises UserError if another process holds it, or if no file can be written there.
        """
        self._store, self._name = store, name
        self._mine = Holder.of_this_process()
        self._lost: str | None = None
        with os_errors(UserError, f"cannot write to {name}"):
            self._take()
        self._renewed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="renews-lease", daemon=True)

    def __enter__(self) -> Self:
        """Keep the lease alive from now on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back, unless somebody else has it."""
        self._ended.set()
        self._thread.join(storage.PATIENCE_S)
        with suppress(OSError):  # then it runs out
            if not self._thread.is_alive() and self._is_mine():
                self._store.remove(FILE)

    def check(self) -> None:
        """Raise RunFailedError if another process has taken the run over."""
        if self._lost:
            raise RunFailedError(f"{self._name} {self._lost}: this process stops writing to it")

    def require(self) -> None:
        """Make sure of the lease before writing to the run, if it was not renewed in time.

        Raises RunFailedError if another process has taken the run over, and OSError if that cannot
        be found out.
        """
        if time.monotonic() > self._renewed + TTL_S / 2:
            self._renew()
        self.check()

    def _take(self) -> None:
        taken = False
        while not taken:
            held = self._read()
            if held is None:
                taken = self._store.create(FILE, self._mine.to_bytes())
            elif held.local and held.alive:
                raise UserError(f"{self._name} is being written by {held}")
            else:
                void = held.local or held.expired or self._is_silent(held)
                taken = void and self._replace()

    def _is_silent(self, holder: Holder) -> bool:
        """Whether a lease is not renewed for TTL_S seconds. Raises UserError if it is."""
        began, warned = time.monotonic(), False
        while time.monotonic() < began + TTL_S:
            time.sleep(storage.PAUSE_S)
            held = self._read()
            if held is None:
                return False
            if held != holder:
                raise UserError(f"{self._name} is being written by {held}")
            if not warned and time.monotonic() > began + 2 * RENEW_S:
                log.warning("%s: waiting until the lease of %s runs out", self._name, holder)
                warned = True
        return True

    def _replace(self) -> bool:
        """Take a void lease; of several processes that do so at once, the last one has it."""
        self._store.write(FILE, self._mine.to_bytes())
        time.sleep(storage.PAUSE_S)
        return self._is_mine()

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S) and not self._lost:
            with suppress(OSError):  # the next attempt may succeed before the lease runs out
                self._renew()

    def _renew(self) -> None:
        held = self._read()
        if held is None:
            self._lost = f"has lost its {FILE}, which another process has removed"
        elif held.token != self._mine.token:
            self._lost = f"was taken over by {held}"
        else:
            self._mine = replace(self._mine, expires=time.time() + TTL_S)
            self._store.write(FILE, self._mine.to_bytes())
            self._renewed = time.monotonic()

    def _is_mine(self) -> bool:
        held = self._read()
        return held is not None and held.token == self._mine.token

    def _read(self) -> Holder | None:
        try:
            return Holder.parse(self._store.read(FILE))
        except FileNotFoundError:
            return None


def _machine() -> str:
    """This start of this machine, and within it the group of processes that see one another."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty if it has ended."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = status.rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    return ""
