"""Where the metrics of a run are written: one class for each place, chosen by name.

A new place (Weights & Biases, MLflow, ...) needs a class with the methods of :class:`Writer`, in a
file of its own, and one line in ``WRITERS``.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from warprl.launch.outcome import to_json
from warprl.launch.runs.metrics import FILE, Metrics, truncate


class Writer(Protocol):
    """Writes the metrics of one run to one place, iteration by iteration.

    A writer is opened as ``Writer(folder, iteration)`` with the folder of the run. It drops what an
    earlier process wrote of iterations after ``iteration``, because the run continues from there.
    Opening, writing and closing raise OSError, and no other exception of a library, if the place
    cannot be written.
    """

    def write(self, metrics: Metrics) -> None:
        """Write one iteration so that it outlives this process, even one that is killed."""

    def close(self) -> None:
        """Close files and connections."""


class JsonLines:
    """``metrics.jsonl``: one JSON object a line; numbers that are not finite become null."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """Continue the file after ``iteration``. Raises UserError if a line of it is damaged."""
        truncate(folder / FILE, iteration)
        self._file = (folder / FILE).open("a", encoding="utf-8")

    def write(self, metrics: Metrics) -> None:
        """Append a line."""
        self._file.write(to_json(metrics) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """``tensorboard/``: every number as a scalar; dots in its name become groups.

    Events are written by tensorboardX's record writer and not by torch's SummaryWriter, which takes
    six times as long to import and writes in a thread, where a full disk is noticed late.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        """Begin a new event file."""
        from tensorboardX.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names.
        place = folder / "tensorboard"
        place.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(place / name))

        # The start of a session at a step makes TensorBoard drop what older files have from there.
        self._put(file_version="brain.Event:2")
        self._put(step=iteration + 1, session_log={"status": "START"})
        self._file.flush()

    def write(self, metrics: Metrics) -> None:
        """Append one event with all numbers of an iteration."""
        values = [
            {"tag": name.replace(".", "/"), "simple_value": float(value)}
            for name, value in metrics.items()
            if isinstance(value, int | float) and name != "iteration"
        ]
        self._put(step=metrics["iteration"], summary={"value": values})
        self._file.flush()

    def close(self) -> None:
        """Close the event file."""
        self._file.close()

    def _put(self, **event: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), **event).SerializeToString())


WRITERS: dict[str, Callable[[Path, int], Writer]] = {"tensorboard": TensorBoard}
