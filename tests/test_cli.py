"""The command line: what it prints, refuses and leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from warprl import __version__
from warprl.envs import family_names
from warprl.launch import runs, train
from warprl.launch.cli import main
from warprl.launch.errors import UserError

FAMILY = "point-navigation-v1"
TINY = (
    "--workers", "0", "--set", "tasks=2", "--set", "adaptation.episodes=2",
    "--set", "policy.hidden=[8]", "--set", "checkpoint_every=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with bad input prints before it exits with status 2."""
    status = main(arguments)
    output = capsys.readouterr()
    assert status == 2
    assert output.out == ""
    assert output.err.startswith("warprl: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("warprl: ").rstrip()


def test_help_and_version_load_nothing_heavy() -> None:
    """So that they answer at once: the time goes into torch, Ray, mujoco and pydantic."""
    code = (
        "import sys; from warprl.launch.cli import main; main(['--help']); main(['--version']);"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("train", "resume", "evaluate", "render", "envs", "config", "doctor"):
        assert f" {verb} " in done.stdout
    assert f"warprl {__version__}" in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"torch", "ray", "mujoco", "pydantic", "numpy", "gymnasium"} & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (("train",), "Missing argument 'FAMILY'."),
        (("train", FAMILY, "--worker", "1"), "No such option: --worker"),
        (("train", FAMILY, "--workers", "two"), "Invalid value for '--workers': 'two' is not a"),
        (("train", FAMILY, "--workers", "-1"), "workers = -1: should be greater than or equal"),
        (("train", FAMILY, "--iterations", "0"), "iterations = 0: should be greater than 0"),
        (("train", FAMILY, "--workers", "21"), "workers = 21: must not exceed tasks = 20"),
        (("train", FAMILY, "--agent", "mamml"), "unknown agent 'mamml': did you mean 'maml'?"),
        (("train", "point-navigation"), "unknown family 'point-navigation': did you mean"),
        (("train", FAMILY, "--set", "learner.lrr=1"), "unknown key 'learner.lrr': did you mean"),
        (("train", FAMILY, "--run", "my run"), "run name 'my run': use up to 100 letters"),
        (("train", FAMILY, "--run", "/proc/run"), "cannot make the run folder /proc/run: "),
        (("resume", "gone"), "no run 'gone': there are no runs in "),
        (("evaluate", "gone"), "no run 'gone'"),
        (("render", "gone"), "no run 'gone'"),
        (("envs", "ant"), "unknown family 'ant': "),
        (("config", "ant"), "unknown family 'ant': "),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert refused(capsys, *arguments).startswith(message)
    assert list(tmp_path.iterdir()) == [], "nothing is made before the input is known to be good"
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_bad_input_is_refused_by_the_real_command_without_loading_ray() -> None:
    code = (
        "import sys; from warprl.launch.cli import main;"
        f"status = main(['train', '{FAMILY}', '--workers', '-1']);"
        "sys.exit(status if 'ray' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "warprl: workers = -1: should be greater than or equal to 0\n"


def test_a_run_that_exists_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").write_text("dear")
    message = refused(capsys, "train", FAMILY, "--run", "mine")
    assert "exists: continue it with 'warprl resume mine' or choose another --run" in message
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary"]


def test_a_folder_that_is_no_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for verb in ("resume", "evaluate", "render"):
        assert "is not a run: it holds no config.yaml" in refused(capsys, verb, "mine")


def test_a_run_of_another_version_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("schema_version: 0\n")
    for verb in ("resume", "evaluate"):
        assert "has schema version 0 and this warprl reads 1" in refused(capsys, verb, "old")


def test_a_missing_run_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cheetah").mkdir()
    (tmp_path / "cheetah" / "config.yaml").touch()
    assert refused(capsys, "resume", "cheeta") == "no run 'cheeta': did you mean 'cheetah'?"


def test_the_families_and_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == family_names()
    assert main(["envs", FAMILY]) == 0
    assert "Euclidean distance to the goal" in capsys.readouterr().out
    assert main(["envs", FAMILY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["horizon"] == 100
    assert main(["envs", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == family_names()


def test_the_configuration_is_shown_before_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", FAMILY, "--agent", "maml", "--set", "learner.lr=0.5"]) == 0
    assert "  lr: 0.5\n" in capsys.readouterr().out
    assert main(["config", FAMILY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agent"] == "warpgrad"


def test_json_output_is_alone_on_stdout_whatever_else_prints() -> None:
    code = (
        "import os, sys; from warprl.launch import cli; from warprl.launch.outcome import Outcome\n"
        "def work():\n"
        "    print('python'); os.write(1, b'native'); os.system('echo child')\n"
        "    return Outcome({'a': float('nan')}, '', 5)\n"
        "sys.exit(cli._finish(work, True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, '{"a": null}\n')
    for text in ("python", "native", "child"):
        assert text in done.stderr


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    code = f"from warprl.launch import runs; from pathlib import Path\nwith runs.lock(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {other.pid}"):
            with runs.lock(tmp_path):
                pass
        other.kill()
    with runs.lock(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid()), "a dead writer holds nothing"
