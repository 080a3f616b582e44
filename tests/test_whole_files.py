"""Every file of a run is whole under its name, and so is its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers_launch import refused

from warprl.launch.cli import main
from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import files, folders
from warprl.launch.runs.files import TEMPORARY

FAMILY = "point-navigation-v1"
SETTINGS = ("tasks=2", "adaptation.episodes=2", "policy.hidden=[8]", "output.checkpoint_every=1")
TINY = ("--workers", "0", *(part for setting in SETTINGS for part in ("--set", setting)))
FULL = OSError(28, "No space left on device")
# Every operation on the file system by which a run folder is made.
OPERATIONS = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "summary.json"
    files.write(path, "before")
    with pytest.raises(ZeroDivisionError), files.whole(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError

    def full(descriptor: int) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            files.write(path, "after")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["summary.json"], "nothing is left of what failed"
    files.write(path, b"after")
    assert path.read_text() == "after"


class _CrashError(BaseException):
    """The process ends here."""


def crash_at(operation: int, patch: pytest.MonkeyPatch) -> None:
    """Let every operation from this one on raise: nothing is cleaned up, as after a kill."""
    done = 0

    def limited(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done > operation:
                raise _CrashError
            return call(*args, **kwargs)

        return wrapped

    for name in OPERATIONS:
        patch.setattr(os, name, limited(getattr(os, name)))
    patch.setattr("io.open", limited(open))


def test_a_run_stopped_at_any_instant_of_its_making_is_a_run_or_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration.resolve(FAMILY, "warpgrad", {"workers": 0})

    def fill(folder: Path) -> None:
        files.write(folder / "config.yaml", configuration.dump(config))

    found = []
    for operation in range(100):
        name = f"run{operation}"
        with monkeypatch.context() as patch:
            crash_at(operation, patch)
            try:
                folders.create(name, None, fill)
            except _CrashError:
                crashed = True
            else:
                crashed = False
        there = (tmp_path / "runs" / name).exists()
        found.append(there)
        if not there:
            folders.create(name, None, fill)
        assert configuration.load(folders.find(name) / "config.yaml") == config
        if not crashed:
            break
    assert not crashed and found.count(False) > 5 and found[-1]
    with pytest.raises(UserError, match="no run 'run': did you mean 'run") as error:
        folders.find("run")
    assert TEMPORARY not in str(error.value), "what is not whole is not offered"


def test_a_full_disk_leaves_nothing_of_a_new_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", full)
        line = refused(capsys, "train", FAMILY, *TINY, "--run", "new", status=1)
    assert line == f"cannot write to {tmp_path / 'runs' / 'new'}: No space left on device"
    assert os.listdir(tmp_path / "runs") == []
    assert main(["train", FAMILY, *TINY, "--iterations", "1", "--run", "new"]) == 0
