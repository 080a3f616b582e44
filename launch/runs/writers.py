"""Where the metrics of a run are written: one class for each place, chosen by name.

A new place (Weights & Biases, MLflow, ...) needs a class with the methods of :class:`Writer`, in a
file of its own, and one line in ``WRITERS``.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from warprl.launch.outcome import to_json
from warprl.launch.runs import files
from warprl.launch.runs.metrics import FILE, Logged, Metrics, digest, restore


class Writer(Protocol):
    """Writes the metrics of one run to one place, iteration by iteration.

    A writer is opened as ``Writer(folder, iteration)`` with the folder of the run. It drops what an
    earlier process wrote of iterations after ``iteration``, because the run continues from there.
    Opening, writing and closing raise OSError if the place cannot be written. No exception of a
    writer ends the run.
    """

    def write(self, metrics: Metrics) -> None:
        """Write one iteration so that it outlives this process, even one that is killed."""

    def close(self) -> None:
        """Close files and connections."""


class JsonLines:
    """``metrics.jsonl``: one JSON object a line; numbers that are not finite become null."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """Continue the file after ``iteration``, without rows that are damaged."""
        path = folder / FILE
        restore(path, iteration)
        self._file = path.open("ab", buffering=0)  # nothing is left to be written when it is closed
        self._size, self._digest = digest(path)

    def write(self, metrics: Metrics) -> None:
        """Append a line."""
        line = f"{to_json(metrics)}\n".encode()
        files.append(self._file, line)
        self._size += len(line)
        self._digest.update(line)

    def logged(self) -> Logged:
        """What the file holds."""
        return Logged(self._size, self._digest.hexdigest())

    def sync(self) -> None:
        """Make all lines outlast a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """``tensorboard/``: every number as a scalar; dots in its name become groups.

    Events are written as records of TensorFlow's format, and not by torch's SummaryWriter, which
    takes six times as long to import and writes in a thread, where a full disk is noticed late.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        """Begin a new event file."""
        # TensorBoard reads the files of a folder in the order of their names.
        place = folder / "tensorboard"
        place.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._path = place / name
        self._file = self._path.open("xb", buffering=0)

        # The start of a session at a step makes TensorBoard drop what older files have from there.
        try:
            self._put(file_version="brain.Event:2")
            self._put(step=iteration + 1, session_log={"status": "START"})
        except BaseException:
            self.close()
            raise

    def write(self, metrics: Metrics) -> None:
        """Append one event with all numbers of an iteration."""
        if not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
            raise FileNotFoundError(2, "another file has its place", str(self._path))
        values = [
            {"tag": name.replace(".", "/"), "simple_value": float(value)}
            for name, value in metrics.items()
            if isinstance(value, int | float) and name != "iteration"
        ]
        self._put(step=metrics["iteration"], summary={"value": values})

    def close(self) -> None:
        """Close the event file."""
        self._file.close()

    def _put(self, **event: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        # A record: its length and its content, each with a checksum.
        content = Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(content))
        parts = (part + struct.pack("<I", masked_crc32c(part)) for part in (length, content))
        files.append(self._file, b"".join(parts))


WRITERS: dict[str, Callable[[Path, int], Writer]] = {"tensorboard": TensorBoard}
