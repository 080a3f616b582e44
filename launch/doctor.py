"""Checks of this machine or of a cluster: each part is OK, or the report says what to do."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warprl import __version__
from warprl.launch import machine
from warprl.launch.cluster import address
from warprl.launch.cluster.address import ClusterOptions
from warprl.launch.errors import UserError
from warprl.launch.outcome import Document, Outcome, table
from warprl.launch.runs import folders

if TYPE_CHECKING:  # it loads Ray
    from warprl.launch.cluster.nodes import Node

PACKAGES = ("torch", "ray", "mujoco", "gymnasium", "stable-baselines3", "numpy")
FREE_GIB = 2.0
RAY_PROBE = """
import json
import ray
from warprl.launch.cluster import connection
connection.connect(1)
print(json.dumps(connection.exposure()))
ray.shutdown()
"""


@dataclass(frozen=True)
class Finding(Document):
    """What one check found; ``advice`` is empty if nothing is wrong."""

    name: str
    seen: str
    advice: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Examination(Document):
    """Every check, and whether all is there that training and evaluation need."""

    ok: bool
    checks: Sequence[Finding]


@dataclass(frozen=True)
class ClusterExamination(Document):
    """Every node, whether workers can run on all of them, and how they are unlike."""

    ok: bool
    nodes: Sequence[Node]
    warnings: Sequence[str]


def examine() -> Outcome[Examination]:
    """Run every check; the exit status is 0 if training and evaluation have all that they need."""
    findings = [check() for check in CHECKS]
    healthy = not any(finding.needed and finding.advice for finding in findings)

    # For people: one line a check, and under it what to do if something is wrong.
    width = max(len(finding.name) for finding in findings)
    lines = [
        f"{'OK  ' if not f.advice else 'FAIL' if f.needed else 'WARN'}  {f.name:{width}}  {f.seen}"
        + (f"\n{'':{width + 6}}  to do: {f.advice}" if f.advice else "")
        for f in findings
    ]

    return Outcome(Examination(healthy, findings), "\n".join(lines), 0 if healthy else 1)


def examine_cluster(family: str | None, options: ClusterOptions) -> Outcome[ClusterExamination]:
    """Ask each node of a cluster what it has; the exit status is 0 if workers can run on all.

    Raises UserError if there is no cluster, or none that can be used.

    Args:
        family: a task family that the nodes look for.
        options: how to treat the cluster.
    """
    if address.named() is None:
        raise UserError("--cluster: there is no cluster: set RAY_ADDRESS to that of its head")
    from warprl.launch.cluster import connection, nodes

    connection.connect(0, options)
    found = nodes.survey([family] if family else [])
    differences = nodes.differences([node for node in found if node.versions])

    # For people: one row a node, then what is wrong, then what is unlike.
    header = ["node", "CPUs", *nodes.VERSIONS, "processor", "shared memory"]
    rows = [
        [
            node.address,
            f"{node.cpus:g}",
            *(node.versions.get(name) or "-" for name in nodes.VERSIONS),
            _fingerprint(node.processor),
            f"{node.shared_memory_gib:.1f} GiB",
        ]
        for node in found
    ]
    lines = [f"FAIL  {node.address}: {node.fault}" for node in found if node.fault]
    healthy = not lines
    lines += [f"WARN  {difference}" for difference in differences]
    lines = lines or [f"OK    workers can run on {len(found)} nodes"]

    summary = ClusterExamination(healthy, found, differences)
    return Outcome(summary, "\n".join([table(header, rows), *lines]), 0 if healthy else 1)


def _fingerprint(processor: str) -> str:
    """The maker of a processor, and a few digits that differ between unlike ones."""
    if not processor:
        return "-"
    return f"{processor.split()[0]} {hashlib.sha256(processor.encode()).hexdigest()[:6]}"


def check_versions() -> Finding:
    """Python and the packages that results depend on."""
    seen = [f"warprl {__version__}", f"Python {platform.python_version()}"]
    missing = []
    for package in PACKAGES:
        try:
            seen.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    advice = f"install WarpRL again: {', '.join(missing)} missing" if missing else ""
    return Finding("versions", ", ".join(seen), advice)


def check_cores() -> Finding:
    """How many workers can sample at full speed: one a core, here or in the cluster."""
    cores, where = machine.available_cores(), ""
    if address.named() is not None:
        with suppress(UserError):  # the check of Ray reports it
            cores, where = address.usable_cores(), " in the cluster"
    return Finding("cores", f"{cores}: up to {cores} workers sample at full speed{where}")


def check_physics() -> Finding:
    """Whether the installed mujoco has the native batch, which Gymnasium's families do not use.

    An environment with Meta-World cannot have it, so it is not counted as needed there.
    """
    if importlib.util.find_spec("mujoco.batch") is not None:
        return Finding("physics", "native batch found")
    meta_world = importlib.util.find_spec("metaworld") is not None
    seen = "no native batch: only points, mazes and Gymnasium's families run"
    advice = "pip install 'mujoco>=3.17', in an environment without Meta-World"
    return Finding("physics", seen, advice, needed=not meta_world)


def check_ray() -> Finding:
    """Whether Ray runs a task, here or in the cluster, and who else could use it.

    That is tried in a separate process.
    """
    cluster = address.named()
    if cluster is not None:
        try:
            address.require_reachable(cluster)
        except UserError as error:
            return Finding("ray", str(error), "see the message, or unset RAY_ADDRESS")
    said, failure = _run(RAY_PROBE)
    if failure is not None:
        advice = "see the message; until it starts, train with --workers 0, which needs no Ray"
        return Finding("ray", f"does not start: {failure}", advice)

    # Where it listens, and to whom.
    found = json.loads(said.splitlines()[-1])
    who = "this machine only" if address.is_loopback(found["address"]) else "its network"
    token = "demands a token" if found["token"] else "demands no token"
    dashboard = f"dashboard at {found['dashboard']}" if found["dashboard"] else "no dashboard"
    seen = f"runs a task; listens at {found['address']} to {who}, {token}, {dashboard}"
    open_to = "" if found["token"] else "unset RAY_AUTH_MODE where Ray starts, or set it to token"
    return Finding("ray", seen, open_to, needed=found["token"])


def check_graphics() -> Finding:
    """Whether ``warprl render`` can draw. Nothing else needs graphics."""
    backend = machine.find_backend()
    if backend is None:
        return Finding("graphics", "no OpenGL for rendering", machine.advice(), needed=False)
    return Finding("graphics", f"renders with MUJOCO_GL={backend}", needed=False)


def check_ffmpeg() -> Finding:
    """Whether ``warprl render`` can write a video."""
    _, failure = _run("import imageio_ffmpeg; imageio_ffmpeg.get_ffmpeg_version()")
    if failure is not None:
        return Finding("ffmpeg", failure, "pip install imageio-ffmpeg", needed=False)
    return Finding("ffmpeg", "found", needed=False)


def check_disk() -> Finding:
    """Whether there is room for runs and for Ray's temporary files."""
    places = {folders.root().absolute(), Path(tempfile.gettempdir())}
    free = {place: shutil.disk_usage(_existing(place)).free / 2**30 for place in sorted(places)}
    seen = ", ".join(f"{gib:.1f} GiB free in {place}" for place, gib in free.items())
    tight = [str(place) for place, gib in free.items() if gib < FREE_GIB]
    advice = f"free {FREE_GIB:.0f} GiB in {' and '.join(tight)}" if tight else ""
    return Finding("disk", seen, advice)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _run(code: str) -> tuple[str, str | None]:
    """What Python prints, and the last line of its error if ``code`` fails, otherwise None."""
    command = [sys.executable, "-P", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "", "no answer within two minutes"
    if done.returncode == 0:
        return done.stdout, None
    return done.stdout, (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_versions,
    check_cores,
    check_physics,
    check_ray,
    check_graphics,
    check_ffmpeg,
    check_disk,
)
