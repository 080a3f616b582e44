"""Runs that were recorded before schema 2 are read, repeated and resumed to the same bits.

``fixtures/runs_schema_1.tar.xz`` holds runs of three iterations of every agent, and of variants,
with checkpoints after the second and the third; ``runs_schema_1.json`` says what they were recorded
on. Processors with other instructions round otherwise, and there the same bits cannot be had. The
runs on the point, whose physics forgives a rounding error, then have to come close. Where such an
error grows, as in the other families and in the line search of ``trpo``, the runs are skipped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor

from warprl import checkpoint
from warprl.agents.meta import InProcess
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.runs import config as configuration
from warprl.launch.runs import stored
from warprl.launch.training import train
from warprl.launch.training.loop import Progress, experiment_of, iterations
from warprl.types import Params

FIXTURES = Path(__file__).parent / "fixtures"
ARCHIVE = FIXTURES / "runs_schema_1.tar.xz"
RECORDED_ON = json.loads((FIXTURES / "runs_schema_1.json").read_text())
with tarfile.open(ARCHIVE) as archive:
    NAMES = sorted(Path(name).parent.name for name in archive.getnames() if "config.yaml" in name)
POINT = [name for name in NAMES if name.startswith("point-navigation-v1")]
SOON = [  # one of each kind of update, and of each kind of family
    "half-cheetah-dir-v1--warpgrad",
    "hopper-rand-params-v1--warpgrad",
    "maze-11-v1--warp-rnn",
    "point-navigation-v1--fomaml--trpo",
    "point-navigation-v1--leap",
    "point-navigation-v1--maml",
    "point-navigation-v1--warp-rnn--memory",
    "point-navigation-v1--warpgrad--rates",
]
CLOSE = 0.02  # a few steps of Adam, whose direction is noise where a gradient is zero


def kernels() -> str:
    """A checksum of this machine's results for the operations that a run consists of."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32)).requires_grad_()

    bias, x, weight, other = draw(3, 1, 6), draw(3, 211, 17), draw(3, 17, 6), draw(3, 6, 5)
    hidden = torch.tanh(torch.baddbmm(bias, x, weight))
    out = torch.exp(-torch.square(torch.bmm(hidden, other)).sum(-1)).mean(-1)
    gradients = torch.autograd.grad(out.sum(), [bias, x, weight, other])
    square = x.detach().double().mT @ x.detach().double()
    solved = torch.linalg.solve(square, square.sum(-1))
    data = b"".join(t.detach().numpy().tobytes() for t in [out, *gradients, solved])
    return hashlib.sha256(data).hexdigest()


@cache
def bits_count() -> bool:
    """Whether this machine rounds as the one that the runs were recorded on."""
    return bool(kernels() == RECORDED_ON["kernels"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def copied(recorded: Path, name: str, folder: Path) -> Path:
    """A run of its own, to write into."""
    return Path(shutil.copytree(recorded / name, folder / name))


def require_equal(found: checkpoint.Checkpoint, expected: checkpoint.Checkpoint) -> None:
    """The same tensors, and the same numbers beside them."""
    theirs = dict(expected.document["learner"])
    mine = {name: found.document["learner"][name] for name in theirs}
    if not mine["kl_coefficient"]:  # a trust region has no penalty, and once had the weight of one
        del mine["kl_coefficient"], theirs["kl_coefficient"]
    assert mine == pytest.approx(theirs, rel=0 if bits_count() else 0.5)
    require_equal_tensors(found.tensors, expected.tensors)


def require_equal_tensors(found: Params, expected: Params) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if bits_count():
            assert torch.equal(found[name], tensor), name
        elif name.startswith(("theta.", "phi.")):
            torch.testing.assert_close(found[name], tensor, rtol=CLOSE, atol=CLOSE)


def require_comparable(name: str) -> None:
    if not bits_count() and (name not in POINT or "trpo" in name):
        pytest.skip(f"recorded with {RECORDED_ON['torch']} on {RECORDED_ON['processor']}")


def repeat(folder: Path, name: str, out: Path) -> checkpoint.Checkpoint:
    """Three iterations of the plain loop, from the stored configuration alone."""
    config = configuration.load(folder / name / "config.yaml")
    experiment = experiment_of(config)
    steps = iterations(experiment, InProcess(experiment), Progress.begin(experiment))
    for _ in range(3):
        progress, _ = next(steps)
    progress.save(out, config)
    return checkpoint.load(out, 3)


@pytest.mark.parametrize("name", SOON)
def test_a_recorded_run_is_repeated(name: str, recorded: Path, tmp_path: Path) -> None:
    require_comparable(name)
    expected = checkpoint.load(recorded / name / "checkpoints", 3)
    require_equal(repeat(recorded, name, tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in SOON])
def test_every_recorded_run_is_repeated(name: str, recorded: Path, tmp_path: Path) -> None:
    require_comparable(name)
    expected = checkpoint.load(recorded / name / "checkpoints", 3)
    require_equal(repeat(recorded, name, tmp_path), expected)


@pytest.mark.parametrize("name", POINT)
def test_a_recorded_run_is_resumed(name: str, recorded: Path, tmp_path: Path) -> None:
    require_comparable(name)
    run = copied(recorded, name, tmp_path)
    text = (run / "config.yaml").read_text()
    expected = checkpoint.load(run / "checkpoints", 3)
    shutil.rmtree(run / "checkpoints" / "3")
    assert train.resume(run, None, Console(quiet=True)).summary.iteration == 3
    require_equal(checkpoint.load(run / "checkpoints", 3), expected)
    assert (run / "config.yaml").read_text() == text


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_opens_and_is_the_run_of_its_configuration_in_schema_2(
    name: str, recorded: Path, tmp_path: Path
) -> None:
    run = stored.open_run(recorded / name, None)
    assert run.iteration == 3
    text = configuration.dump(run.config)
    assert yaml.safe_load(text)["schema_version"] == 2
    (tmp_path / "config.yaml").write_text(text)
    again = configuration.load(tmp_path / "config.yaml")
    assert configuration.differences(run.config, again) == []
    assert again == run.config


def test_a_recorded_run_evaluates_like_one_of_schema_2_and_counts_as_the_same(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = copied(recorded, "point-navigation-v1--warpgrad", tmp_path)
    new = Path(shutil.copytree(old, tmp_path / "new"))
    (new / "config.yaml").write_text(configuration.dump(configuration.load(old / "config.yaml")))
    curves = []
    for run in (old, new):
        assert main(["evaluate", str(run), "--steps", "2", "--episodes", "2", "--json"]) == 0
        curves.append(json.loads(capsys.readouterr().out)["curves"])
    assert curves[0] == curves[1]
    assert main(["compare", str(old), str(new), "--steps", "2", "--episodes", "2"]) == 2
    assert "have the same settings and seed" in capsys.readouterr().err


def test_a_recorded_run_is_filmed(recorded: Path, tmp_path: Path) -> None:
    if machine.find_backend() is None:
        pytest.skip(f"this machine cannot draw: {machine.advice()}")
    run = copied(recorded, "point-navigation-v1--warpgrad", tmp_path)
    # In a process of its own, which has not chosen a way to draw yet.
    command = [sys.executable, "-m", "warprl.launch.cli", "render", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((run / "videos").glob("*.mp4"))
