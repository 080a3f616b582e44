"""Checkpoints come back bit for bit, outlast damage and crashes, and never replace one another."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from warprl import checkpoint
from warprl.checkpoint import CheckpointError, SchemaError, load, save

FILES = ("manifest.json", "state.json", "tensors.safetensors")
# Every operation on the file system that saving goes through.
OPERATIONS = ("mkdir", "open", "fsync", "rename", "unlink", "rmdir", "listdir", "scandir")


def tensors(value: float) -> dict[str, Tensor]:
    return {"theta.weight": torch.full((2, 3), value), "moments.step": torch.tensor(value)}


def save_two(folder: Path) -> None:
    save(folder, 1, tensors(1.0), {"env_steps": 100})
    save(folder, 2, tensors(2.0), {"env_steps": 200})


def reseal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as another release would have written it, checksum included."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    change(manifest)
    (path / "manifest.json").write_bytes(checkpoint._seal(manifest))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    save_two(folder)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    save_two(tmp_path)
    return tmp_path


def test_tensors_and_document_come_back_bit_for_bit_and_in_order(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    saved = {
        "z": torch.randn(3, 4, generator=generator),
        "double": torch.randn(5, generator=generator, dtype=torch.float64),
        "whole": torch.tensor([2**62 + 1, -3]),
        "scalar": torch.tensor(0.1),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0, 1e-45]),
        "a": torch.randn(3, 4, generator=generator).T,
        "empty": torch.zeros(0, 3),
    }
    document = {"kl_coefficient": 0.1 + 0.2, "iteration": 7, "deep": {"list": [1, None, "x"]}}
    path = save(tmp_path, 7, saved, document)
    found = load(tmp_path)
    assert (found.path, found.iteration, found.skipped) == (path, 7, ())
    assert path == tmp_path / "7"
    assert found.document == document
    assert list(found.tensors) == list(saved)
    for name, tensor in saved.items():
        back = found.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert back.contiguous().view(-1).numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_the_newest_is_loaded_unless_an_iteration_is_asked_for(two: Path) -> None:
    assert load(two).iteration == 2
    assert load(two, 1).document == {"env_steps": 100}
    with pytest.raises(CheckpointError, match=r"no usable checkpoint .*3: it does not exist$"):
        load(two, 3)


@settings(max_examples=60)
@given(data=st.data())
def test_any_damage_to_the_newest_falls_back_to_the_one_before(
    pristine: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "checkpoints"
    shutil.copytree(pristine, folder)
    file = folder / "2" / data.draw(st.sampled_from(FILES))
    content = file.read_bytes()
    kind = data.draw(st.sampled_from(["delete", "truncate", "flip", "append"]))
    if kind == "delete":
        file.unlink()
    elif kind == "truncate":
        file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    elif kind == "append":
        file.write_bytes(content + data.draw(st.binary(min_size=1, max_size=9)))
    else:
        position = data.draw(st.integers(0, len(content) - 1))
        flipped = content[position] ^ data.draw(st.integers(1, 255))
        file.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
    found = load(folder)
    assert found.iteration == 1
    assert torch.equal(found.tensors["theta.weight"], torch.full((2, 3), 1.0))
    ((path, reason),) = found.skipped
    assert path == folder / "2"
    assert re.search(r"missing|damaged|bytes instead of|checksum", reason)


def _link_file(newest: Path) -> None:
    elsewhere = newest.parent.parent / "elsewhere.json"
    shutil.move(newest / "state.json", elsewhere)
    (newest / "state.json").symlink_to(elsewhere)


def _link_folder(newest: Path) -> None:
    elsewhere = newest.parent.parent / "elsewhere"
    shutil.move(newest, elsewhere)
    newest.symlink_to(elsewhere)


def _add_file(newest: Path) -> None:
    (newest / "state.pkl").write_bytes(b"")


def _become_file(newest: Path) -> None:
    shutil.rmtree(newest)
    newest.write_bytes(b"")


def _rename(newest: Path) -> None:
    newest.rename(newest.with_name("3"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_link_file, "state.json is not a regular file"),
        (_link_folder, "it is not a folder"),
        (_add_file, "'state.pkl' does not belong there"),
        (_become_file, "it is not a folder"),
        (_rename, "it is of iteration 2"),
    ],
)
def test_links_and_what_does_not_belong_are_not_trusted(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    save_two(tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / "2")
    found = load(tmp_path / "checkpoints")
    assert found.iteration == 1
    assert [skipped.reason for skipped in found.skipped] == [reason]


def test_another_schema_version_is_refused_and_not_fallen_back_from(two: Path) -> None:
    reseal(two / "2", lambda manifest: manifest.update(schema_version=1))
    message = r"2 has schema version 1 and this warprl reads 2: use the release that wrote it$"
    with pytest.raises(SchemaError, match=message):
        load(two)


def test_without_a_sound_checkpoint_the_error_names_each_reason(two: Path) -> None:
    for name in ("1", "2"):
        (two / name / "state.json").unlink()
    message = r"no usable checkpoint in .*: 2: state.json is missing; 1: state.json is missing$"
    with pytest.raises(CheckpointError, match=message):
        load(two)
    with pytest.raises(CheckpointError, match="there are no checkpoints in"):
        load(two / "nowhere")


def test_a_sound_checkpoint_is_never_overwritten(two: Path) -> None:
    with pytest.raises(CheckpointError, match="2 exists: checkpoints are never overwritten"):
        save(two, 2, tensors(9.0), {})
    assert float(load(two).tensors["moments.step"]) == 2.0
    assert sorted(os.listdir(two)) == ["1", "2"]


def test_a_broken_checkpoint_makes_way_without_being_lost(two: Path) -> None:
    for round_ in range(2):
        (two / "2" / "state.json").write_text("{}")
        save(two, 2, tensors(5.0 + round_), {})
    assert float(load(two).tensors["moments.step"]) == 6.0
    assert sorted(os.listdir(two)) == ["1", "2", "2.broken", "2.broken.broken"]
    assert (two / "2.broken" / "state.json").read_text() == "{}"


def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "007").mkdir()
    for iteration in (8, 9, 10, 11):
        save(tmp_path, iteration, tensors(0.0), {}, keep=3)
    assert sorted(os.listdir(tmp_path)) == ["007", "10", "11", "9", "notes"]
    with pytest.raises(CheckpointError, match="keep = 1: must be 2 or more"):
        save(tmp_path, 12, tensors(0.0), {}, keep=1)


class _CrashError(Exception):
    """Stands for the end of the process: nothing after it has an effect."""


class Crash:
    """Lets ``allowed`` file-system operations happen and none after them."""

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed

    def wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*args: Any, **kwargs: Any) -> Any:
            if self.allowed <= 0:
                raise _CrashError
            self.allowed -= 1
            return operation(*args, **kwargs)

        return limited


def crashes(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> Iterator[int]:
    """Run with a crash at the first, second, ... operation until one run comes through."""
    for allowed in range(1000):
        crash = Crash(allowed)
        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, crash.wrap(getattr(os, name)))
            patch.setattr("io.open", crash.wrap(open))
            try:
                run()
            except _CrashError:
                crashed = True
            else:
                crashed = False
        yield allowed
        if not crashed:
            return


def test_a_crash_at_any_operation_leaves_a_sound_checkpoint(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    seen = []
    shutil.copytree(pristine, folder)
    for _ in crashes(monkeypatch, lambda: save(folder, 3, tensors(3.0), {"env_steps": 300})):
        found = load(folder)
        assert found.skipped == ()
        assert found.document["env_steps"] == 100 * found.iteration
        assert float(found.tensors["moments.step"]) == found.iteration
        seen.append(found.iteration)
        # The next process goes on from there, whatever was left behind.
        save(folder, 4, tensors(4.0), {})
        assert load(folder).iteration == 4
        assert not [name for name in os.listdir(folder) if not name.isdecimal()]
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
    assert seen == sorted(seen)
    assert seen.count(2) > 10
    assert seen.count(3) > 3


def test_a_full_disk_is_reported_and_leaves_nothing_behind(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            save(two, 3, tensors(3.0), {})
    assert sorted(os.listdir(two)) == ["1", "2"]
    assert load(two).iteration == 2
