"""Runs made without training, for tests of the code that reads runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from warprl import checkpoint
from warprl.launch.cli import main
from warprl.launch.runs import config, stored
from warprl.learner import LearnerState
from warprl.params import tree_map

SMALL = ("tasks=2", "adaptation.episodes=2", "adaptation.steps=1", "policy.hidden=[8]")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """The one line that a command prints before it exits with this status."""
    assert main(arguments) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("warprl: ")
    assert output.err.count("\n") == 1 and output.err.endswith("\n")
    return output.err.removeprefix("warprl: ").rstrip()


def fabricate(
    folder: Path,
    family: str,
    *settings: str,
    shift: float = 0.0,
    warp_shift: float = 0.0,
    iterations: Sequence[int] = (1,),
    without: Sequence[str] = (),
) -> None:
    """A run of ours with checkpoints of the initial parameters, theta and phi moved as given.

    ``without`` are keys of the policy that the checkpoints are too old to have.
    """
    resolved = config.resolve(family, "warpgrad", {"workers": 0}, [*SMALL, *settings])
    folder.mkdir()
    config.save(folder / "config.yaml", resolved)
    theta, phi = stored.fresh(resolved)
    theta = tree_map(lambda tensor: tensor + shift, theta)
    phi = tree_map(lambda tensor: tensor + warp_shift, phi)
    for iteration in iterations:
        state = LearnerState(theta, phi, {}, 1.0, 1.0, iteration)
        policy = resolved.model_dump(mode="json")["policy"]
        known = {key: value for key, value in policy.items() if key not in without}
        counters = {"env_steps": 100 * iteration, "wall_s": 1.0, "workers_replaced": 0}
        document = {
            "family": family,
            "policy": known,
            "learner": state.to_scalars(),
            "counters": counters,
        }
        checkpoint.save(folder / "checkpoints", iteration, state.to_tensors(), document, keep=9)
