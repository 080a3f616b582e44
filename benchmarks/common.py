"""What the benchmarks share: the record of how a result came about, and writing it."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("warprl", "torch", "numpy", "ray", "gymnasium", "mujoco", "stable-baselines3")


def provenance() -> dict[str, Any]:
    """Command, date, versions and machine; nothing that names the machine or its folders."""
    script, *rest = sys.argv
    arguments = [Path(text).name if Path(text).is_absolute() else text for text in rest]
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *arguments]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }


def cpu_model() -> str:
    """The processor's name, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else "unknown"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a document, whole or not at all."""
    _replace(path, json.dumps(data, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys (or of those of the longest), whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, max(rows, key=len), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
