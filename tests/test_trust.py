"""A run from elsewhere runs no code: its task family is imported only on the user's word."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_launch import fabricate, refused

import warprl
from warprl import make_family
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.runs import config, ledger
from warprl.launch.submission import command_for_job
from warprl.launch.training.rllib import WarpGrad

FAMILY = "theirs:FAMILY"
# A family that leaves a trace wherever it is imported.
MODULE = """
from pathlib import Path
from warprl.envs.point import PointNavigation
Path("trace").touch()
FAMILY = PointNavigation()
"""
TINY = ("--set=tasks=2", "--set=adaptation.episodes=2", "--set=policy.hidden=[8]", "--workers=0")
VERBS = [
    ("evaluate", "run", "--steps=1", "--episodes=1"),
    ("evaluate", "mine", "--against=run", "--steps=1", "--episodes=1"),
    ("compare", "run", "--steps=1", "--episodes=1"),
    ("resume", "run", "--iterations=1"),
    ("render", "run"),
    ("export", "run", "--task=0", "--out=policy.zip"),
]


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Makes this process one that has imported nothing of theirs yet."""
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", list(path))

    def forget() -> None:
        monkeypatch.setattr(sys, "path", list(path))
        sys.modules.pop("theirs", None)
        make_family.cache_clear()
        Path("trace").unlink(missing_ok=True)

    yield forget
    forget()


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]) -> Path:
    """The folder that we work in, with a run whose family is a module beside it."""
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    monkeypatch.setenv("WARPRL_RUNS", str(there))
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "state"))
    (there / "theirs.py").write_text(MODULE)
    fabricate(there / "run", FAMILY)
    forget()
    return there


@pytest.fixture
def elsewhere(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder on the machine of somebody else, to whom it was sent."""
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "another"))
    fabricate(there / "mine", "point-navigation-v1")
    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    return there


@pytest.mark.parametrize("command", VERBS, ids=" ".join)
def test_the_family_of_a_run_from_elsewhere_is_not_imported(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, command: tuple[str, ...]
) -> None:
    path = list(sys.path)
    before = sorted(elsewhere.rglob("*"))
    line = refused(capsys, *command)
    assert line == (
        f"{elsewhere}/run: its task family "
        "'theirs:FAMILY' is none of this package, and the run was not begun here: using it runs "
        "the code of that module; add --trust (in Python, trust=True) if you trust it"
    )
    assert sys.path == path and "theirs" not in sys.modules
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("command", VERBS[:3], ids=" ".join)
def test_with_the_users_word_it_is(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, command: tuple[str, ...]
) -> None:
    status = 2 if "mine" in command else 0  # another family, which a comparison refuses
    assert main([*command, "--trust", "--json"]) == status
    assert (elsewhere / "trace").exists()


def test_a_run_that_was_begun_here_needs_no_word_wherever_it_lies(
    capsys: pytest.CaptureFixture[str], there: Path
) -> None:
    (there / "run").rename(there / "moved")
    assert main(["evaluate", "moved", "--steps=1", "--episodes=1", "--json"]) == 0
    assert (there / "trace").exists()


def test_a_module_that_lies_elsewhere_is_another_one(
    capsys: pytest.CaptureFixture[str],
    there: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(there, tmp_path / "sent")
    monkeypatch.chdir(tmp_path / "sent")
    assert "was not begun here" in refused(capsys, "evaluate", str(there / "run"))
    assert not Path("trace").exists()


def test_a_module_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str],
    there: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "evaluate", str(there / "run")) == (
        "no task family 'theirs:FAMILY': no module 'theirs' in the working directory or on "
        "PYTHONPATH"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("family", "json:dumps"), ("family", ":x"), ("family", "theirs:" + "x" * 999), ("seed", 1)],
)
def test_a_run_that_was_changed_was_not_begun_here(
    capsys: pytest.CaptureFixture[str], there: Path, key: str, value: object
) -> None:
    file = there / "run" / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {key: value}))
    line = refused(capsys, "evaluate", "run")
    assert "was not begun here" in line and len(line) < 300 + len(str(there))
    assert not (there / "trace").exists()


def test_how_far_and_on_what_a_run_is_trained_may_change(there: Path) -> None:
    file = there / "run" / "config.yaml"
    data = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(data | {"iterations": 7, "compute": {"workers": 2}}))
    assert config.load(file).iterations == 7


def test_from_python_the_word_is_an_argument(elsewhere: Path) -> None:
    small: dict[str, Any] = {"steps": 1, "episodes": 1}
    for use in (warprl.load, warprl.evaluate, warprl.render, lambda run: warprl.compare([run])):
        with pytest.raises(warprl.UserError, match="theirs:FAMILY.*trust=True"):
            use("run")
    with pytest.raises(warprl.UserError, match="not begun here"):
        warprl.load("mine").evaluate(**small, against="run")
    assert not Path("trace").exists()

    run = warprl.load("run", trust=True)
    assert run.evaluate(**small).family == FAMILY
    assert warprl.compare([run], **small).family == FAMILY
    assert len(run.evaluate(**small, against=run).curves) == 2


def test_a_checkpoint_of_rllib_needs_the_word_as_well(elsewhere: Path) -> None:
    with pytest.raises(warprl.UserError, match="not begun here"):
        WarpGrad.from_checkpoint(elsewhere / "run")
    assert not Path("trace").exists()


def test_whoever_names_a_family_trusts_it(
    capsys: pytest.CaptureFixture[str],
    there: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forget: Callable[[], None],
) -> None:
    """As a job does that starts again on another machine, and a sweep."""
    name = "runs/theirs-FAMILY-promp-s1"
    train = ("train", FAMILY, "--agent=promp", *TINY, "--seed=1", "--run", name)
    assert main([*train, "--iterations=1"]) == 0
    for state in ("second", "third"):
        monkeypatch.setenv("WARPRL_STATE", str(tmp_path / state))
        forget()
        capsys.readouterr()
        assert "was not begun here" in refused(capsys, "resume", name)
        assert main([*train, "--iterations=2", "--resume"]) == 0
        assert config.load(Path(name) / "config.yaml").family == FAMILY, "it is ours now"

    # A sweep that finds it finished.
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "fourth"))
    forget()
    settings = [item.removeprefix("--set=") for item in TINY[:3]]
    grid = {"families": [FAMILY], "agents": ["promp"], "seeds": [1], "iterations": 2}
    Path("grid.yaml").write_text(yaml.safe_dump({**grid, "settings": settings, "folder": "runs"}))
    assert main(["sweep", "grid.yaml"]) == 0
    assert "1 runs: 1 skipped" in capsys.readouterr().out


def submission(verb: str, **given: object) -> list[str]:
    """The command for a job that continues a run, or begins one."""
    defaults = {"json": False, "trust": False, "iterations": None}
    rest = ["--trust"] if given.get("trust") else []
    return [*command_for_job(verb, defaults | given, [str(given["run"]), *rest]).arguments]


def test_a_job_has_the_word_of_the_user_only_if_they_gave_it(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(elsewhere / "run")
    with pytest.raises(warprl.UserError, match="not begun here"):
        submission("resume", run=run)
    assert not Path("trace").exists()
    assert submission("resume", run=run, trust=True) == ["resume", run, "--trust"]

    # Of our own run only we know that it is ours.
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "state"))
    with pytest.raises(warprl.UserError, match="a node cannot tell that .* add --trust behind"):
        submission("resume", run=run)
    assert submission("resume", run=str(elsewhere / "mine")) == ["resume", f"{elsewhere}/mine"]


def test_a_run_that_a_job_has_begun_is_known_where_it_was_submitted(
    tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[], None]
) -> None:
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "submits"))
    keys = ("tasks=2", "adaptation.episodes=2", "adaptation.steps=1", "policy.hidden=[8]")
    given = {"family": FAMILY, "agent": "warpgrad", "settings": keys, "storage": None}
    options = {"init_from": None, "workers": None, "seed": None, "again": False}
    submission("train", run=str(there / "run"), **given, **options)
    forget()
    assert config.load(there / "run" / "config.yaml").family == FAMILY


# --- the ledger ---------------------------------------------------------------------------------


def test_only_its_owner_can_read_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARPRL_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ledger.note("evaluation", "a")
    assert (tmp_path / "warprl").stat().st_mode & 0o777 == 0o700
    (entry,) = (tmp_path / "warprl").iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600 and entry.stat().st_size == 0
    assert ledger.knows("evaluation", "a")
    assert not ledger.knows("run", "a") and not ledger.knows("evaluation", "", "a")


def test_a_ledger_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "file" / "state"))
    ledger.note("run", "a")
    assert caplog.messages == [
        f"cannot note in {tmp_path}/file/state that this run was made here: Not a directory"
    ]
    assert not ledger.knows("run", "a")


def test_a_ledger_in_the_working_folder_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "state"))
    ledger.note("run", "a")
    monkeypatch.setenv("WARPRL_STATE", "state")
    assert not ledger.knows("run", "a")
    ledger.note("run", "b")
    assert os.listdir() == ["state"] and len(os.listdir("state")) == 1 and caplog.messages


def test_runs_on_the_families_of_this_package_are_not_noted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARPRL_STATE", str(tmp_path / "state"))
    fabricate(tmp_path / "run", "point-navigation-v1")
    assert not (tmp_path / "state").exists()
    assert main(["evaluate", str(tmp_path / "run"), "--steps=1", "--episodes=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "point-navigation-v1"
