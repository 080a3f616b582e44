"""Nothing in a run folder leads out of it: links and special files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from helpers_launch import SMALL, fabricate, refused

import warprl
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.cluster import jobs
from warprl.launch.runs import config, copies, metrics
from warprl.launch.training.rllib import WarpGrad

FAMILY = "point-navigation-v1"
QUICK = ("--steps=1", "--episodes=1")
VERBS = {
    "resume": ("resume", "{}", "--iterations=1"),
    "evaluate": ("evaluate", "{}", *QUICK),
    "compare": ("compare", "{}", *QUICK),
    "render": ("render", "{}"),
    "export": ("export", "{}", "--task=0", "--out=policy.zip"),
    "train": ("train", FAMILY, *(f"--set={key}" for key in SMALL), "--run={}", "--resume"),
    "sweep": ("sweep", "grid.yaml"),
}
# What a run may lie in wait with, each a link to something outside of it.
LINKS = {
    "lock": "notes.txt",
    "metrics.tmp": "notes.txt",
    "metrics.jsonl": "notes.txt",
    "lease.json": "notes.txt",
    "evaluation": "notes",
    "videos": "notes",
    "tensorboard": "notes",
    "checkpoints/2": "notes",
    "checkpoints/1/tensors.safetensors": "notes.txt",
    "evaluation/1/summary.json": "gone.txt",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run in the working folder, which a sweep has, and things that are none of its business."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    run = tmp_path / "runs" / f"{FAMILY}-warpgrad-s0"
    run.parent.mkdir()
    fabricate(run, FAMILY)
    (tmp_path / "notes.txt").write_text("dear diary")
    (tmp_path / "notes").mkdir()
    grid = {"families": [FAMILY], "agents": ["warpgrad"], "seeds": [0], "iterations": 1}
    Path("grid.yaml").write_text(yaml.safe_dump(grid | {"settings": list(SMALL)}))
    return run


def seen(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything outside of the run: when it was changed, its size and its content."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        if "runs" not in path.relative_to(folder).parts:
            stat, content = path.stat(), path.read_bytes() if path.is_file() else b""
            found[str(path)] = (stat.st_mtime_ns, stat.st_size, content)
    return found


def link(run: Path, name: str) -> Path:
    """Put a link into a run."""
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(run.parent.parent / LINKS[name])
    return path


def test_a_link_under_the_name_of_a_damaged_log_is_not_written_through(
    run: Path, tmp_path: Path
) -> None:
    """As a hard link is, which no check of a folder can tell from a file."""
    for put in (os.link, os.symlink):
        (run / "metrics.jsonl").write_text('what\n{"iteration": 1}\n{"iteration": 2}\n')
        aside = run / "metrics.jsonl.broken"
        aside.unlink(missing_ok=True)
        put(tmp_path / "notes.txt", aside)
        metrics.restore(run / "metrics.jsonl", 1)
        assert (tmp_path / "notes.txt").read_text() == "dear diary"
        assert (run / "metrics.jsonl").read_text() == '{"iteration": 1}\n'


@pytest.mark.parametrize("kept", [1, 2])
def test_a_log_that_is_a_link_is_not_shortened_through_it(
    run: Path, tmp_path: Path, kept: int
) -> None:
    """Nor appended to afterwards, for the log is a new file, also if nothing was to be dropped."""
    rows, log = '{"iteration": 1}\n{"iteration": 2}\n', run / "metrics.jsonl"
    for put in (os.link, os.symlink):
        log.unlink(missing_ok=True)
        (tmp_path / "notes.txt").write_text(rows)
        put(tmp_path / "notes.txt", log)
        metrics.restore(log, kept)
        assert (tmp_path / "notes.txt").read_text() == rows
        assert not log.is_symlink() and not log.samefile(tmp_path / "notes.txt")
        assert log.read_text().splitlines() == rows.splitlines()[:kept]


def command(verb: str, place: object) -> list[str]:
    return [part.format(place) for part in VERBS[verb]]


@pytest.mark.parametrize("name", LINKS)
def test_no_link_in_a_run_is_followed(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, name: str
) -> None:
    path, before = link(run, name), seen(tmp_path)
    for verb in ("resume", "evaluate", "compare"):
        assert refused(capsys, *command(verb, run)) == (
            f"{path} is a symbolic link, and a run holds files and folders only: remove it"
        )
    with pytest.raises(warprl.UserError, match="is a symbolic link"):
        warprl.load(run)
    assert seen(tmp_path) == before


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_follows_one(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, verb: str
) -> None:
    path, before = link(run, "metrics.tmp"), seen(tmp_path)
    assert f"{path} is a symbolic link, and a run holds" in refused(capsys, *command(verb, run))
    assert seen(tmp_path) == before


@pytest.mark.parametrize("verb", ["resume", "evaluate", "compare"])
@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl"])
def test_in_a_shared_folder_neither(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, verb: str, name: str
) -> None:
    (run / "checkpoints").rename(tmp_path / "kept")
    path = run / name
    path.symlink_to(tmp_path / {"checkpoints": "notes", "metrics.jsonl": "notes.txt"}[name])
    before = seen(tmp_path)
    line = refused(capsys, *command(verb, f"file://{run}"))
    assert line.startswith(f"{path} is a symbolic link")
    assert seen(tmp_path) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "lease.json", "evaluation/1/summary.json"])
def test_whoever_meets_a_pipe_does_not_wait_for_ever(
    capsys: pytest.CaptureFixture[str], run: Path, name: str
) -> None:
    path = run / name
    path.parent.mkdir(exist_ok=True, parents=True)
    os.mkfifo(path)
    for verb in ("resume", "evaluate", "compare"):
        assert refused(capsys, *command(verb, run)) == (
            f"{path} is neither file nor folder, and a run holds files and folders only: remove it"
        )


def test_nor_does_a_command_that_only_looks_at_a_run_of_a_job(
    capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    os.mkfifo(run / "metrics.jsonl")
    assert jobs._reached(str(run)) is None
    assert "not a regular file" in refused(capsys, "fetch", str(run), "--to=copy", status=1)
    (run / "metrics.jsonl").unlink()
    link(run, "metrics.jsonl")
    assert jobs._reached(str(run)) is None
    assert "symbolic links" in refused(capsys, "fetch", str(run), "--to=copy", status=1)
    assert not Path("copy").exists()


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_a_run_that_calls_itself_a_copy_is_not_believed(
    run: Path, tmp_path: Path, verb: str
) -> None:
    """Otherwise what is written into it would be uploaded to where its sender wants it."""
    origin = run.parent / ".warprl-origin"
    origin.write_text(f"file://{tmp_path}/notes")
    assert copies.place_of(run) is None
    assert main(command(verb, run)) == 0
    assert len(os.listdir(run / "evaluation")) == 1
    copies.discard(run)
    assert os.listdir(tmp_path / "notes") == [] and origin.exists()


def test_a_checkpoint_of_tune_is_no_way_out_either(run: Path) -> None:
    link(run, "lock")
    with pytest.raises(warprl.UserError, match="is a symbolic link"):
        WarpGrad.from_checkpoint(run)


def test_the_folder_of_a_run_or_one_above_it_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path / "runs")
    (tmp_path / "latest").symlink_to(run)
    for place in (tmp_path / "other" / run.name, tmp_path / "latest"):
        assert config.load(place / "config.yaml").family == FAMILY
        assert main(["evaluate", str(place), *QUICK]) == 0
