"""A family of a registered Gymnasium environment with discrete actions, as users write one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium

from warprl.envs import GymFamily
from warprl.types import Task


@dataclass(frozen=True)
class Push(Task):
    """How hard an action pushes the cart, in N; negative if it pushes the other way."""

    force: float


def push(env: gymnasium.Env[Any, Any], task: Push) -> None:
    """Set the task."""
    env.unwrapped.force_mag = task.force  # type: ignore[attr-defined]


CART = GymFamily("cart-v1", "CartPole-v1", [Push(10), Push(-10)], push, horizon=60)

# Episodes so short that a policy with a memory is trained in a moment; most end on their own.
SHORT_CART = GymFamily("short-cart-v1", "CartPole-v1", [Push(20), Push(-20)], push, horizon=20)
