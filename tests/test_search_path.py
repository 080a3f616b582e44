"""A file in the working folder never takes the place of a package, here or in Ray's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from warprl.launch import search_path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("tree", "scipy", "packaging", "torch", "ray", "yaml", "json")
TRAP = "from pathlib import Path\nPath(__file__).with_suffix('.trace').touch()\nraise ImportError"
FAMILY = "from warprl.envs.point import PointNavigation\nFAMILY = PointNavigation()"
SIZES = ["tasks=2", "adaptation.episodes=2", "policy.hidden=[8]"]


def warprl(folder: Path, *arguments: str) -> str:
    """What the installed command prints in a folder; it must succeed."""
    # -P keeps the working folder off the path, as it is for an installed command.
    env = {"PYTHONPATH": str(ROOT), "WARPRL_RUNS": "runs", "HOME": str(folder / "~")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "warprl.launch.cli", *arguments],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_files_named_like_packages_are_left_alone_and_own_families_are_found(
    tmp_path: Path,
) -> None:
    """And nothing is left in the home folder."""
    (tmp_path / "~").mkdir()
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "mine.py").write_text(FAMILY)
    sizes = [f"--set={key}" for key in SIZES]
    for family in ("point-navigation-v1", "mine:FAMILY"):
        warprl(tmp_path, "train", family, "--workers=2", "--iterations=1", *sizes)

    # Trials of a sweep find them as well.
    grid = {"families": ["mine:FAMILY"], "agents": ["promp"], "seeds": [1], "iterations": 1}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid | {"settings": SIZES}))
    assert "1 runs: 1 finished" in warprl(tmp_path, "sweep", "grid.yml")
    assert list(tmp_path.glob("*.trace")) == []
    assert os.listdir(tmp_path / "~") == []


def test_processes_start_without_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.pathsep.join(["", "/a", "", "/b", ""])  # an empty part stands for that folder
    for before in ({"PYTHONPATH": listed}, {"PYTHONSAFEPATH": ""}, {}):
        for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
            monkeypatch.delenv(name, raising=False)
        for name, value in before.items():
            monkeypatch.setenv(name, value)
        kept = dict(os.environ)
        with search_path.without_working_folder():
            assert os.environ["PYTHONSAFEPATH"] == "1"
            expected = os.pathsep.join(["/a", "/b"]) if "PYTHONPATH" in before else ""
            assert os.environ["PYTHONPATH"] == expected
        assert dict(os.environ) == kept


def test_an_own_family_is_looked_for_behind_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", list(before))
    search_path.look_for("point-navigation-v1", ["/mine"])
    assert sys.path == before
    for _ in range(2):
        search_path.look_for("mine:FAMILY", [before[-1], "/mine"])
    assert sys.path == [*before, "/mine"]


def test_the_folder_of_the_script_counts_if_python_looks_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "program")])
    monkeypatch.setattr(sys, "path", ["/usr/lib"])
    assert search_path.own_folders() == [str(tmp_path)]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "bin")])
    assert search_path.own_folders() == [str(tmp_path), str(tmp_path / "bin")]
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", "/before")
    assert search_path.own_folders()[0] == "/before"
