"""What the benchmarks share: experiments, the record of how a result was made, and files."""

from __future__ import annotations

import csv
import json
import lzma
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from warprl.launch.errors import UserError
from warprl.launch.training import cells
from warprl.launch.training.cells import Cell, Grid

RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = Path(__file__).parent / "experiments"
POINTS = 100  # of a training curve that is kept
PACKAGES = ("warprl", "torch", "numpy", "ray", "gymnasium", "mujoco", "stable-baselines3")


def grid(name: str) -> Grid:
    """The sweep file of an experiment."""
    return cells.read(EXPERIMENTS / f"{name}.yaml")


def planned(name: str) -> list[Cell]:
    """The runs that an experiment trains. Raises UserError if a folder holds another run."""
    return cells.plan(grid(name), EXPERIMENTS / f"{name}.yaml")


def command(name: str) -> str:
    """The command that trains an experiment."""
    return f"warprl sweep benchmarks/experiments/{name}.yaml"


def answer(work: Callable[[], str]) -> int:
    """Print the result of a program, or the one line of its error; returns the exit status."""
    try:
        print(work())
    except UserError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return error.status
    return 0


def spread(count: int) -> NDArray[np.int64]:
    """At most POINTS positions of ``count``, evenly spaced, including the last."""
    return np.unique(np.linspace(0, count - 1, min(POINTS, count)).round().astype(np.int64))


def interval(estimate: Mapping[str, Any]) -> str:
    """``"231.0 [220.1, 241.9]"``, or the mean alone where there is no interval."""
    if estimate["low"] is None:
        return f"{estimate['mean']:.1f}"
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def shrink(path: Path) -> None:
    """Store a figure in 256 colours: plots have few, and the file is a third as large."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def provenance() -> dict[str, Any]:
    """Command, date, commit, versions and machine; nothing names the machine or its folders."""
    script, *rest = sys.argv
    arguments = [Path(text).name if Path(text).is_absolute() else text for text in rest]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *arguments]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


@cache  # of the code when the program began: writing results changes files, too
def commit() -> str:
    """The commit of this code, with ``-dirty`` if files were changed; or ``unknown``."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(describe, cwd=RESULTS.parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def cpu_model() -> str:
    """The processor's name, if the system says."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else "unknown"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a document, whole or not at all; one named ``.xz`` is compressed.

    The same data make the same bytes.
    """
    if path.suffix == ".xz":
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        content = lzma.compress(text.encode(), preset=9)
    else:
        content = (json.dumps(data, indent=1) + "\n").encode()
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote to an ``.xz`` file."""
    data: dict[str, Any] = json.loads(lzma.decompress(path.read_bytes()))
    return data


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, whole or not at all. The longest row has all keys."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, max(rows, key=len), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
