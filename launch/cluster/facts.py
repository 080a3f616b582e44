"""What a node says of itself. Ray sends this module by value, so it needs nothing but Python there.

It is the only module of the package that runs on nodes without the package, and names that fact.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

PACKAGES = ("warprl", "ray", "torch", "mujoco", "numpy")
# Vector instructions, by which native code chooses among kernels that round differently.
VECTOR = ("sse", "ssse", "avx", "fma", "f16c", "amx", "asimd", "sve", "bf16", "i8mm")


def describe(families: Collection[str], folders: Collection[str] = ()) -> dict[str, Any]:
    """Versions, processor and memory of the node, and why families are missing, by their names.

    Modules of families may lie in ``folders`` as well.
    """
    if any(":" in family for family in families):
        sys.path += [folder for folder in folders if folder not in sys.path]
    shared = os.statvfs("/dev/shm")
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")),
        "shared_memory_gib": shared.f_frsize * shared.f_blocks / 2**30,
        "missing": {family: reason for family in families if (reason := fault(family))},
    }


def version(package: str) -> str | None:
    """The version of an installed package; None if it is missing."""
    try:
        if package == "warprl":  # which has no metadata where it is shipped with a job
            return str(importlib.import_module("warprl").__version__)
        return importlib.metadata.version(package)
    except ImportError:
        return None


def fault(family: str) -> str:
    """Why a task family is not found; empty if it is."""
    try:
        importlib.import_module("warprl.envs").make_family(family)
    except (ImportError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def processor(cpuinfo: str) -> str:
    """The maker and the vector instructions of the processor that ``/proc/cpuinfo`` describes.

    >>> processor("vendor_id : ACME\\nflags : fpu sse2 avx2\\n")
    'ACME avx2 sse2'
    """
    pairs = [line.partition(":") for line in cpuinfo.splitlines()]
    info = {key.strip(): value.strip() for key, _, value in pairs}
    maker = info.get("vendor_id") or info.get("CPU implementer") or platform.machine()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return " ".join([maker, *sorted({flag for flag in flags if flag.startswith(VECTOR)})])
