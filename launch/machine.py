"""What this machine offers: processor cores, memory, and an OpenGL backend to draw with."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys

from warprl.launch.cgroups import cpu_quota
from warprl.launch.errors import MissingGraphicsError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MIB = 2**20
BACKENDS = ("egl", "osmesa")
PACKAGES = "libegl1 libgl1-mesa-dri"
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/></worldbody></mujoco>")
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(mujoco.MjData(model))
    renderer.render()
"""


def available_cores() -> int:
    """The number of processor cores that this process may use, by affinity and control groups.

    Two and a half cores' worth of time count as 2, so that no worker waits for another, and any
    time below that of one core as 1.
    """
    affine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = (os.cpu_count() or 1) if affine is None else len(affine)
    return max(1, math.floor(min(cores, cpu_quota())))


def available_threads() -> int:
    """Threads to compute with: one per core, or as many as OMP_NUM_THREADS allows.

    Ray sets that variable in its processes to the cores that it has assigned to them.
    """
    limit = os.environ.get("OMP_NUM_THREADS", "")
    allowed = int(limit) if limit.isdecimal() and int(limit) else available_cores()
    return min(allowed, available_cores())


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors in this process, to be reused by the next tensors.

    A meta-update allocates and frees thousands of tensors of about a megabyte. By default glibc
    returns their pages to the system and then faults new ones in, which takes a sixth of the
    update's time. The price is that the process stays as large as it was at its peak. With a C
    library other than glibc nothing changes.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_TRIM_THRESHOLD, 1024 * MIB)
        library.mallopt(M_MMAP_THRESHOLD, 32 * MIB)  # the largest value that glibc accepts


def works(backend: str) -> bool:
    """Whether a process with this value of ``MUJOCO_GL`` can draw a picture.

    This takes another process: ``import mujoco`` itself fails if the backend is missing, and the
    backend cannot be changed after the import.
    """
    try:
        subprocess.run(
            [sys.executable, "-P", "-c", PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return False
    return True


def find_backend() -> str | None:
    """The user's ``MUJOCO_GL`` if it is set, else the first backend; None if that does not work."""
    chosen = os.environ.get("MUJOCO_GL")
    return next((name for name in ([chosen] if chosen else BACKENDS) if works(name)), None)


def require_backend() -> str:
    """A backend that works. Raises MissingGraphicsError, which says what to install."""
    backend = find_backend()
    if backend is None:
        chosen = os.environ.get("MUJOCO_GL")
        found = f"MUJOCO_GL={chosen} does not work" if chosen else "no OpenGL"
        raise MissingGraphicsError(f"cannot render: {found} on this machine; {advice()}")
    return backend


def advice() -> str:
    """What to do on a machine that cannot draw."""
    return f"install it with 'apt-get install {PACKAGES}' and set MUJOCO_GL=egl"
