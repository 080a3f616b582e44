"""Checkpoints: atomic, versioned, checksummed and free of pickle.

A checkpoint is a folder named after its iteration::

    10/tensors.safetensors    named tensors
    10/state.json             everything else, and the order of the tensors
    10/manifest.json          schema version; size and SHA-256 of both; SHA-256 of itself

It is written under a temporary name, synchronised to the disk with the manifest last, and renamed.
So a name that is a number holds a whole checkpoint, unless it was damaged later, which the
checksums reveal; then the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from warprl.counts import shown

SCHEMA_VERSION = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
MAX_BYTES = {TENSORS: 2**31, STATE: 2**24, MANIFEST: 2**16}  # more is not read
TEMPORARY = ".unfinished-"


class CheckpointError(ValueError):
    """No checkpoint can be loaded or saved; one line says which and why."""


class SchemaError(CheckpointError):
    """The checkpoint is whole but was written under another schema version."""


class Skipped(NamedTuple):
    """A checkpoint that was passed over because it is broken."""

    path: Path
    reason: str


class Checkpoint(NamedTuple):
    """What was saved, and the broken newer ones that were passed over, newest first."""

    path: Path
    iteration: int
    tensors: dict[str, Tensor]
    document: dict[str, Any]
    skipped: tuple[Skipped, ...]


class _BrokenError(Exception):
    """Why a checkpoint cannot be trusted."""


def save(
    folder: Path,
    iteration: int,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    keep: int = 2,
    durable: bool = True,
) -> Path:
    """Write a checkpoint, and delete older ones but for the newest.

    No usable checkpoint is overwritten; a broken one of the same number is renamed to
    ``<iteration>.broken``.

    Args:
        folder: where checkpoints lie; the new one is ``folder/<iteration>``.
        iteration: its number.
        tensors: named tensors.
        document: everything else, as JSON can hold it.
        keep: how many of the newest checkpoints stay, at least 2.
        durable: whether it has to outlast a power cut, and not only this process.

    Returns:
        The path of the new checkpoint.

    Raises:
        CheckpointError: if this iteration is saved already, or ``keep`` is below 2.
        OSError: if the disk refuses.
    """
    if keep < 2:
        raise CheckpointError(f"keep = {keep}: must be 2 or more, for the newest may break")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(iteration)

    # Under another name until it is whole.
    _discard_unfinished(folder)
    temporary = folder / f"{TEMPORARY}{iteration}"
    temporary.mkdir()
    try:
        _write(temporary, iteration, tensors, document, durable)
        _make_way(target)
        os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

    # The name is on the disk before the older ones go.
    if durable:
        sync(folder)
    _prune(folder, iteration, keep)
    return target


def load(folder: Path, iteration: int | None = None) -> Checkpoint:
    """Read the newest checkpoint that is not broken, or the one of an iteration.

    Args:
        folder: where checkpoints lie.
        iteration: which one to read; None is the newest.

    Returns:
        The checkpoint, with the broken newer ones that were passed over.

    Raises:
        CheckpointError: if there is none that can be used.
        SchemaError: if the newest that is not broken has another schema version.
    """
    wanted = iterations(folder) if iteration is None else [iteration]
    skipped: list[Skipped] = []
    for number in wanted:
        path = folder / str(number)
        try:
            tensors, document = _read(path, number)
        except _BrokenError as reason:
            skipped.append(Skipped(path, str(reason)))
        else:
            return Checkpoint(path, number, tensors, document, tuple(skipped))
    if not skipped:
        raise CheckpointError(f"there are no checkpoints in {folder}")
    reasons = "; ".join(f"{broken.path.name}: {broken.reason}" for broken in skipped)
    raise CheckpointError(f"no usable checkpoint in {folder}: {reasons}")


def iterations(folder: Path) -> list[int]:
    """Iterations that ``folder`` has a checkpoint of, usable or broken, newest first."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((int(name) for name in names if _is_number(name)), reverse=True)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name


def _write(
    folder: Path,
    iteration: int,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    durable: bool,
) -> None:
    # The order of parameters decides in which order sums over them are rounded, and safetensors
    # does not keep it.
    state = {"order": list(tensors), "document": dict(document)}
    contents = {
        TENSORS: safetensors.torch.save({n: _own(t) for n, t in tensors.items()}),
        STATE: json.dumps(state).encode(),
    }

    # The manifest, with a checksum of each file, is written last.
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "iteration": iteration,
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    for name, content in contents.items():
        _write_file(folder / name, content, durable)
    _write_file(folder / MANIFEST, _seal(manifest), durable)
    if durable:
        sync(folder)


def _own(tensor: Tensor) -> Tensor:
    """A copy with memory of its own in the plain order, as safetensors wants it."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _seal(manifest: Mapping[str, Any]) -> bytes:
    """The one spelling of a manifest, with its own checksum."""
    body = json.dumps(manifest, sort_keys=True)
    sealed = {**manifest, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return (json.dumps(sealed, sort_keys=True, indent=2) + "\n").encode()


def _write_file(path: Path, content: bytes, durable: bool) -> None:
    with path.open("xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut.

    Args:
        path: of the file or folder.

    Raises:
        OSError: if the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_way(target: Path) -> None:
    if not os.path.lexists(target):
        return
    try:
        _read(target, int(target.name))
    except _BrokenError:
        aside = target.with_name(f"{target.name}.broken")
        while os.path.lexists(aside):
            aside = aside.with_name(f"{aside.name}.broken")
        os.rename(target, aside)
        return
    raise CheckpointError(f"{target} exists: checkpoints are never overwritten")


def _discard_unfinished(folder: Path) -> None:
    for name in os.listdir(folder):
        if name.startswith(TEMPORARY):
            shutil.rmtree(folder / name)


def _prune(folder: Path, newest: int, keep: int) -> None:
    """Keep ``newest`` and its ``keep - 1`` predecessors.

    Later iterations stay: they are broken ones, which a run that fell back has left behind.
    """
    older = [number for number in iterations(folder) if number < newest]
    for number in older[keep - 1 :]:
        doomed = folder / f"{TEMPORARY}{number}"
        os.rename(folder / str(number), doomed)
        if doomed.is_symlink():
            doomed.unlink()
        else:
            shutil.rmtree(doomed)


def _read(path: Path, iteration: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and document. Raises _BrokenError, or SchemaError for another schema version."""
    try:
        _require_names(path)
        manifest = _unseal((path / MANIFEST).read_bytes())
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            raise SchemaError(
                f"{path} has schema version {shown(version)} and this warprl reads "
                f"{SCHEMA_VERSION}: use the release that wrote it"
            )
        if manifest.get("iteration") != iteration:
            raise _BrokenError(f"it is of iteration {shown(manifest.get('iteration'))}")
        contents = {name: (path / name).read_bytes() for name in (TENSORS, STATE)}
    except OSError as error:
        raise _BrokenError(f"cannot be read: {error.strerror}") from error
    for name, content in contents.items():
        _verify(name, content, manifest)
    return _decode(contents[TENSORS], contents[STATE])


def _require_names(path: Path) -> None:
    """Exactly our three regular files, none of them huge; no file of a checkpoint is a link."""
    if not os.path.lexists(path):
        raise _BrokenError("it does not exist")
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise _BrokenError("it is not a folder")
    found = {entry.name: entry for entry in os.scandir(path)}
    expected = {TENSORS, STATE, MANIFEST}
    if missing := sorted(expected - found.keys()):
        raise _BrokenError(f"{missing[0]} is missing")
    if surplus := sorted(found.keys() - expected):
        raise _BrokenError(f"{shown(surplus[0])} does not belong there")
    for name, entry in sorted(found.items()):
        if not entry.is_file(follow_symlinks=False):
            raise _BrokenError(f"{name} is not a regular file")
        if entry.stat(follow_symlinks=False).st_size > MAX_BYTES[name]:
            raise _BrokenError(f"{name} has more than {MAX_BYTES[name]} bytes")


def _unseal(content: bytes) -> dict[str, Any]:
    """The manifest, if it is spelled as :func:`_seal` would, to the byte."""
    try:
        manifest: dict[str, Any] = json.loads(content)
        del manifest["sha256"]
        intact = _seal(manifest) == content
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise _BrokenError(f"{MANIFEST} is damaged")
    return manifest


def _verify(name: str, content: bytes, manifest: Mapping[str, Any]) -> None:
    files = manifest.get("files")
    expected = files.get(name) if isinstance(files, dict) else None
    if not isinstance(expected, dict) or expected.keys() != {"size", "sha256"}:
        raise _BrokenError(f"{MANIFEST} names no size and checksum of {name}")
    if len(content) != expected["size"]:
        size = shown(expected["size"])
        raise _BrokenError(f"{name} has {len(content)} bytes instead of {size}")
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise _BrokenError(f"{name} does not match its checksum")


def _decode(tensors: bytes, state: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        found, parsed = safetensors.torch.load(tensors), json.loads(state)
        order, document = parsed["order"], parsed["document"]
        ordered = {name: found[name] for name in order}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _BrokenError(f"cannot be decoded: {type(error).__name__}") from error
    if parsed.keys() != {"order", "document"} or not isinstance(document, dict):
        raise _BrokenError(f"{STATE} holds something else than an order and a document")
    if not len(order) == len(ordered) == len(found):
        raise _BrokenError(f"{STATE} does not name each tensor once")
    return ordered, document
