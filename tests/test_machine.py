"""What the machine offers: memory that stays with the process, and cores."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest

from warprl.launch import machine
from warprl.launch.cgroups import cpu_quota

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


def quota(files: dict[str, str]) -> float:
    return cpu_quota(lambda file: files.get(str(file)))


HYBRID = "4:memory:/box\n2:cpu,cpuacct:/docker/box\n0::/docker/box\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"/proc/self/cgroup": "0::/\n"}, math.inf),
        # Version 2: in a container the own group is the root.
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        # The limit of a group above is one too, and a group need not be there.
        (
            {
                "/proc/self/cgroup": "0::/slurm/job7/step0\n",
                "/sys/fs/cgroup/slurm/cpu.max": "800000 100000\n",
                "/sys/fs/cgroup/slurm/job7/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/slurm/job7/step0/cpu.max": "max 100000\n",
            },
            3.0,
        ),
        # Version 1: the path is the host's, and only the container's group is there.
        (
            {
                "/proc/self/cgroup": HYBRID,
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "/proc/self/cgroup": HYBRID,
                "/sys/fs/cgroup/cpu/docker/box/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/docker/box/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
    ],
)
def test_the_least_limit_of_processor_time_counts(files: dict[str, str], cores: float) -> None:
    assert quota(files) == cores


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.9, 1), (2.0, 2), (99.0, 8)])
def test_cores_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.available_cores() == cores
