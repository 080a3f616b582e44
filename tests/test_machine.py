"""What the machine offers: memory that stays with the process."""

from __future__ import annotations

import subprocess
import sys

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
