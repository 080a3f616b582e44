"""What the machine offers: memory that stays with the process, and cores."""

from __future__ import annotations

import subprocess
import sys

import pytest

from warprl.launch import machine

# Each tensor is larger than all before it, so that glibc, left alone, maps new pages for it.
FAULTS = """
import resource
import sys
import torch
from warprl.launch.machine import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for kib in range(1024, 1984, 16):
    torch.ones(kib * 256)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> int:
    """Minor page faults of a fresh process: pages that the system had to hand out."""
    command = [sys.executable, "-c", FAULTS, keep]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


def test_freed_memory_stays_with_the_process() -> None:
    assert faults("keep") < faults("leave") / 4


@pytest.mark.parametrize(
    ("limit", "threads"), [("", 8), ("3", 3), ("99", 8), ("0", 8), ("many", 8)]
)
def test_no_more_threads_are_used_than_the_process_was_given(
    monkeypatch: pytest.MonkeyPatch, limit: str, threads: int
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert machine.available_threads() == threads
