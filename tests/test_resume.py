"""A run goes on from a folder that was damaged or edited, and says so; or it is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers_launch import refused
from helpers_runs import timeless

import warprl
from warprl import checkpoint
from warprl.launch.cli import main
from warprl.launch.errors import UserError

FAMILY = "point-navigation-v1"
SETTINGS = ("tasks=2", "adaptation.episodes=2", "policy.hidden=[8]", "output.checkpoint_every=1")
TINY = ("--workers", "0", *(part for setting in SETTINGS for part in ("--set", setting)))


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", FAMILY, *TINY, "--iterations", "3", "--run", str(folder)]) == 0
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """The same after two iterations, to be continued."""
    copy = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(copy / "checkpoints" / "3")
    return copy


def learned(run: Path) -> dict[str, Any]:
    tensors = checkpoint.load(run / "checkpoints", 3).tensors
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def edit(run: Path, pattern: str, replacement: str) -> None:
    path = run / "config.yaml"
    changed, number = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    assert number == 1
    path.write_text(changed)


@pytest.mark.parametrize("obstacle", ["a file", "deleted", "a file later"])
def test_a_run_does_without_tensorboard_and_warns_once(
    obstacle: str,
    run: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def get_in_the_way(metrics: Any, state: Any) -> None:
        if obstacle != "a file" and metrics["iteration"] == 3:
            shutil.rmtree(run / "tensorboard")
            if obstacle == "a file later":
                (run / "tensorboard").touch()

    if obstacle == "a file":
        shutil.rmtree(run / "tensorboard")
        (run / "tensorboard").touch()
    loaded = warprl.load(run)
    again = loaded.resume(2, callback=get_in_the_way)
    assert again.iteration == 4
    assert learned(run) == learned(whole)
    assert ["tensorboard" in message for message in caplog.messages] == [True]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("^seed: 0", "seed: 4", "seed was 0 and is 4"),
        ("warp_lr: 0.001", "warp_lr: 0.1", "outer.warp_lr was 0.001 and is 0.1"),
        ("^tasks: 2", "tasks: 3", "tasks was 2 and is 3"),
    ],
)
def test_a_configuration_edited_by_hand_is_named_and_needs_to_be_wanted(
    pattern: str,
    replacement: str,
    message: str,
    run: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(run, pattern, replacement)
    line = refused(capsys, "resume", str(run))
    assert f"checkpoints/2 was saved: {message}: undo that, or give --changed" in line
    assert len(line) < 300
    with pytest.raises(UserError, match="has changed since"):
        warprl.load(run).resume()
    assert warprl.load(run).resume(changed=True).iteration == 3
    assert learned(run) != learned(whole)
    assert main(["resume", str(run), "--iterations", "1"]) == 0, "it is that experiment now"


def test_the_command_continues_a_changed_run_if_told_so(run: Path) -> None:
    edit(run, "^seed: 0", "seed: 4")
    assert main(["resume", str(run), "--changed"]) == 0


def test_how_a_run_is_carried_out_may_be_edited(run: Path, whole: Path) -> None:
    edit(run, "keep: 3", "keep: 9")
    edit(run, "^iterations: 3", "iterations: 4")
    assert main(["resume", str(run), "--iterations", "1"]) == 0
    assert learned(run) == learned(whole)


def test_a_checkpoint_from_before_the_configuration_was_in_it_is_resumed(
    run: Path, whole: Path
) -> None:
    saved = checkpoint.load(run / "checkpoints", 2)
    document = {k: v for k, v in saved.document.items() if k not in ("config", "metrics")}
    shutil.rmtree(run / "checkpoints" / "2")
    checkpoint.save(run / "checkpoints", 2, saved.tensors, document)
    assert main(["resume", str(run)]) == 0
    assert learned(run) == learned(whole)


def test_a_log_that_was_damaged_before_the_checkpoint_is_said_and_the_run_goes_on(
    run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rest))
    assert main(["resume", str(run)]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "rows up to iteration 2 were lost or changed after they were written" in warning
    assert learned(run) == learned(whole)
    assert [timeless(row) for row in rows(run)] == [timeless(row) for row in rows(whole)[1:]]
    assert main(["resume", str(run), "--iterations", "1"]) == 0
    assert capsys.readouterr().err == "", "the next checkpoint knows the log as it is"


def test_a_complete_run_without_its_log_is_complete(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    (copy / "metrics.jsonl").unlink()
    again = ["train", FAMILY, *TINY, "--iterations", "3", "--run", str(copy), "--resume"]
    assert main(again) == 0
    assert "finished at iteration 3, 4,800 environment steps" in capsys.readouterr().out
