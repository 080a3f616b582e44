"""Files that start a cluster for one run, filled in from the templates beside this module.

A template is the file itself, with ``@name@`` where a value goes. Lines that end with
``FOLDER_ONLY`` are left out unless the storage is a folder, which has to be mounted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from warprl import __version__
from warprl.launch.errors import UserError, os_errors, whole_number, writing
from warprl.launch.outcome import Document, Outcome
from warprl.launch.runs import files as whole_files

TEMPLATES = Path(__file__).parent / "templates"
FOLDER_ONLY = "because the storage is a folder"
IMAGE = f"registry.example/warprl:{__version__}"  # a name that nobody can own: to be edited
NODE_CPUS = 16  # of a usual machine, where a file has to say how many machines there are
TASKS = 20  # of a meta-batch by default; each worker needs one
WAIT_S = 600  # for nodes that start later than the head

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
# Neither takes a character that YAML, or a shell within single quotes, would read in another way.
STORAGE = re.compile(r"([a-z][a-z0-9+.-]*:/)?/[A-Za-z0-9._~%@+,=:?&/-]*[A-Za-z0-9._~%@+,=&-]")
IMAGES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")

# The commands that come next, once the lines marked EDIT are looked at.
NEXT: Mapping[str, tuple[str, str, str]] = {
    "kuberay": (
        "kubectl apply --filename @folder@/rayjob.yaml",
        "kubectl logs --follow job/@name@",
        "warprl evaluate '@run@'",
    ),
    "slurm": (
        "sbatch @folder@/train.sbatch",
        "squeue --me --name @name@",
        "warprl evaluate '@run@'",
    ),
    "vm": (
        "ray up @folder@/cluster.yaml",
        'ray exec @folder@/cluster.yaml "warprl submit --address http://127.0.0.1:8265 -- @train@"',
        "ray down @folder@/cluster.yaml",
    ),
    "sky": (
        'sky jobs launch --secret RAY_AUTH_TOKEN="$(openssl rand -hex 32)" @folder@/sky.yaml',
        "sky jobs logs --name @name@",
        "warprl evaluate '@run@'",
    ),
}


@dataclass(frozen=True)
class Written(Document):
    """The files that were written, and the commands that come next."""

    files: Sequence[str]
    next: Sequence[str]


def write(
    kind: str,
    workers: int,
    storage: str,
    out: str | None = None,
    image: str | None = None,
    name: str = "warprl",
) -> Outcome[Written]:
    """Write the files of one kind of cluster into a folder, and say what comes next.

    Args:
        kind: a key of ``NEXT``.
        workers: of the run; each has one CPU.
        storage: an absolute path or a URI, in which the run will be stored.
        out: the folder, by default ``<name>-<kind>``.
        image: the container image, by default one whose name has to be edited.
        name: of the run, of the job and of all else that has a name.

    Returns:
        The files and the commands, as data and as text.

    Raises:
        UserError: for a value that cannot be right, or if a file exists; nothing is written then.
    """
    workers = whole_number("workers", workers, 1)
    storage = _storage(kind, storage)
    if kind == "slurm" and image is not None:
        raise UserError("--image: has no effect on Slurm, which runs the warprl of its nodes")
    _require("image", image or IMAGE, IMAGES, "a name such as registry.example/warprl:1")
    _require("name", name, NAME, "up to 40 small letters, digits and dashes, the first a letter")
    folder = Path(out or f"{name}-{kind}")

    # Everything is filled in before anything is written.
    asked = ["warprl", "cluster-files", kind, "--workers", str(workers), "--storage", storage]
    given = (("--out", out), ("--image", image), ("--name", None if name == "warprl" else name))
    asked += [text for option, value in given if value for text in (option, value)]
    values = {"command": shlex.join(asked), "folder": shlex.quote(str(folder))}
    values |= _values(workers, storage, image or IMAGE, name)
    files = {
        folder / template.name: _fill(template.read_text(encoding="utf-8"), values)
        for template in sorted((TEMPLATES / kind).iterdir())
    }
    _write_new(folder, files)

    # Say what comes next.
    names, commands = [str(file) for file in files], [_fill(line, values) for line in NEXT[kind]]
    text = "\n".join(
        [*names, "look at the lines marked EDIT, then:", *(f"  {c}" for c in commands)]
    )
    return Outcome(Written(names, commands), text)


def _storage(kind: str, storage: str) -> str:
    """The storage without a slash at its end. Raises UserError unless it can hold the run."""
    storage = storage.rstrip("/")
    _require("storage", storage, STORAGE, "an absolute path, or a URI such as s3://bucket/runs")
    if kind == "sky" and _mount(storage):
        raise UserError(
            f"storage = {storage!r}: the machines that SkyPilot finds share no folder; "
            "it should be a URI such as s3://bucket/runs"
        )
    return storage


def _require(option: str, value: str, pattern: re.Pattern[str], right: str) -> None:
    if not pattern.fullmatch(value):
        raise UserError(f"{option} = {value!r}: should be {right}")


def _mount(storage: str) -> str:
    """The folder that the storage is, or nothing if it is somewhere else."""
    path = storage.removeprefix("file://")
    return path if path.startswith("/") else ""


def _values(workers: int, storage: str, image: str, name: str) -> dict[str, str]:
    """What the templates say, by the names that they use."""
    nodes = -(-workers // NODE_CPUS)
    cpus = -(-workers // nodes)
    run = f"{storage}/{name}"
    return {
        "cpus": str(cpus),
        "image": image,
        "memory": str(4 + 2 * cpus),
        "mount": _mount(storage),
        "name": name,
        "nodes": str(nodes),
        "ray": version("ray"),
        "run": run,
        "train": "warprl train half-cheetah-dir-v1 --agent warpgrad --iterations 200"
        f" --workers {workers} --wait-for-nodes {WAIT_S} --set tasks={max(workers, TASKS)}"
        f" --run '{run}' --resume",
        "worker_ips": ", ".join(f"192.0.2.{10 + n}" for n in range(1, nodes)),
        "workers": str(workers),
    }


def _fill(template: str, values: Mapping[str, str]) -> str:
    lines = template.splitlines(keepends=True)
    kept = (line for line in lines if values["mount"] or not line.rstrip().endswith(FOLDER_ONLY))
    return re.sub(r"@([a-z_]+)@", lambda match: values[match[1]], "".join(kept))


def _write_new(folder: Path, files: Mapping[Path, str]) -> None:
    """Write files, none of which exists. Raises UserError, before any is written, if one does."""
    with os_errors(UserError, f"cannot make the folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if file.exists():
            raise UserError(f"{file} exists: choose another folder with --out")
    for file, text in files.items():
        with writing(file):
            whole_files.write(file, text)
