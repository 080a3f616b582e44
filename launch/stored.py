"""A trained run as evaluation and rendering need it: its configuration and learned parameters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from warprl.agents.policy import GaussianPolicy
from warprl.envs import TaskFamily, make_family
from warprl.launch.config import RunConfig
from warprl.types import Params


@dataclass(frozen=True)
class StoredRun:
    """A run's policy at one of its checkpoints."""

    folder: Path
    config: RunConfig
    iteration: int
    theta: Params
    phi: Params

    @property
    def family(self) -> TaskFamily:
        """The task family it was trained on."""
        return make_family(self.config.family)

    @property
    def policy(self) -> GaussianPolicy:
        """The network that the parameters belong to."""
        return make_policy(self.config)


def make_policy(config: RunConfig) -> GaussianPolicy:
    """The policy of a run, without parameters."""
    family = make_family(config.family)
    (obs_dim,), (act_dim,) = family.observation_space.shape, family.action_space.shape
    return GaussianPolicy(obs_dim, act_dim, config.policy)
