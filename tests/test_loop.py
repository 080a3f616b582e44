"""The training loop: which sampler a run has, and what that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from rich.console import Console
from warprl.launch.runs.config import resolve
from warprl.launch.training import train

settings = ["tasks=2", "adaptation.episodes=2", "policy.hidden=[8]"]
config = resolve("point-sparse-v1", "promp", {"workers": 0, "iterations": 2}, settings)
outcome = train.start(config, sys.argv[1], Console(quiet=True))
print(outcome.summary.iteration, sorted(name for name in sys.modules if name.startswith("ray")))
"""


def test_a_run_without_workers_never_imports_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "[]"]
