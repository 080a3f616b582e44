"""Records the runs of ``fixtures/`` anew, after a change that changes bits on purpose.

``python tests/record_runs.py`` repeats every run from its stored configuration, replaces what was
learned in its checkpoints and the figures in its metrics, and prints how far the parameters are
from those of before. The configurations stay as they are, in the format of schema 1.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import torch
from helpers_runs import timeless
from test_bit_equality import ARCHIVE, FIXTURES, NAMES, RECORDED_ON, kernels

from warprl import checkpoint
from warprl.agents.meta import InProcess
from warprl.launch.runs import config as configuration
from warprl.launch.training.loop import Progress, experiment_of, iterations


def record(run: Path) -> float:
    """Replace the checkpoints of a run; returns how far theta and phi are from those of before."""
    config = configuration.load(run / "config.yaml")
    experiment = experiment_of(config)
    steps = iterations(experiment, InProcess(experiment), Progress.begin(experiment))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    distance = 0.0
    for row in rows:
        # One iteration, and the figures that are not about time.
        progress, metrics = next(steps)
        row |= {k: None if v != v else v for k, v in timeless(metrics).items() if k in row}
        folder = run / "checkpoints" / str(row["iteration"])
        if not folder.exists():
            continue

        # What was learned, in the checkpoint of before.
        old, new = checkpoint.load(folder.parent, row["iteration"]), progress.learner
        tensors = new.to_tensors()
        for name, tensor in old.tensors.items():
            if name.startswith(("theta.", "phi.")):
                distance = max(distance, float((tensor - tensors[name]).abs().max()))
        document = old.document
        document["learner"] |= {
            name: value for name, value in new.to_scalars().items() if name in document["learner"]
        }
        shutil.rmtree(folder)
        checkpoint.save(folder.parent, row["iteration"], tensors, document, keep=3)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return distance


def main() -> None:
    """Record all runs, and what they were recorded on."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        for name in NAMES:
            print(f"{name}: {record(Path(folder) / name):.2g}", flush=True)
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            archive.add(folder, ".")
    found = RECORDED_ON | {"kernels": kernels(), "torch": torch.__version__}
    (FIXTURES / "runs_schema_1.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
