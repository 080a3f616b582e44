"""The share of processor time that control groups leave to this process, in versions 1 and 2.

Containers, batch systems and clusters limit processor time by control groups, of which the number
of cores and the affinity of a process say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = PurePosixPath("/sys/fs/cgroup")

Contents = Callable[[PurePosixPath], str | None]


def contents(file: PurePosixPath) -> str | None:
    """The text of a file, or None if it is not there or may not be read."""
    try:
        return Path(file).read_text(encoding="ascii")
    except OSError:
        return None


def cpu_quota(contents: Contents = contents) -> float:
    """Processor time per time, in cores, that this process may use; infinite without a limit.

    Each group above that of the process may have a limit as well, and the least of them counts. In
    a container the path may name groups of the host, which are not all there.

    Args:
        contents: the text of a file, or None if there is no such file.
    """
    quotas = [math.inf]
    for line in (contents(PurePosixPath("/proc/self/cgroup")) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue

        # Version 2 has one tree for all controllers, version 1 one for each.
        tree, limit = (ROOT / "cpu", _version_1) if controllers else (ROOT, _version_2)
        group = PurePosixPath(path.lstrip("/"))
        quotas += [limit(tree / part, contents) for part in (group, *group.parents)]
    return min(quotas)


def _version_1(group: PurePosixPath, contents: Contents) -> float:
    quota = contents(group / "cpu.cfs_quota_us")  # -1 without a limit
    period = contents(group / "cpu.cfs_period_us")
    if quota is None or period is None or int(quota) < 0:
        return math.inf
    return int(quota) / int(period)


def _version_2(group: PurePosixPath, contents: Contents) -> float:
    quota, _, period = (contents(group / "cpu.max") or "max").partition(" ")
    return math.inf if quota.strip() == "max" else int(quota) / int(period)
