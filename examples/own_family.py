"""Make a task family of your own from any Gymnasium environment: see docs/custom_family.md.

The motor of a cart that balances a pole may be weak or strong, and wired the wrong way round.

$ python examples/own_family.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

import warprl
from warprl.envs import GymFamily
from warprl.types import Task


@dataclass(frozen=True)
class Motor(Task):
    """What a policy has to find out."""

    gear: float  # N per unit of action


def draw(rng: np.random.Generator) -> Motor:
    """|gear| ~ U[50, 150], forwards or backwards by the toss of a coin"""  # noqa: D400, D415
    return Motor(float(rng.uniform(50, 150) * rng.choice([-1, 1])))


def wire(env: gymnasium.Env[Any, Any], task: Task) -> None:
    """Set the motor before each episode."""
    assert isinstance(task, Motor)
    simulation: Any = env.unwrapped
    simulation.model.actuator_gear[0, 0] = task.gear


FAMILY = GymFamily("inverted-pendulum-motor-v1", "InvertedPendulum-v5", draw, wire, horizon=100)


def main() -> None:
    """Takes minutes by default, because Python steps one simulation at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=30)
    iterations = parser.parse_args().iterations

    # The family is named after its module, which is this file.
    small = {"tasks": 4, "adaptation.episodes": 4, "adaptation.steps": 1}
    run = warprl.train("own_family:FAMILY", iterations=iterations, set=small)
    for task in (Motor(100.0), Motor(-100.0)):
        returns = run.adapt(task, steps=1).returns
        print(f"{task}: return {returns[0]:.1f} before adaptation and {returns[1]:.1f} after it")


if __name__ == "__main__":
    main()
