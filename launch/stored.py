"""A trained run as evaluation and rendering need it: its configuration and learned parameters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from warprl import checkpoint as checkpoints
from warprl.agents.policy import GaussianPolicy
from warprl.checkpoint import Checkpoint, CheckpointError
from warprl.envs import TaskFamily, make_family
from warprl.launch import config as configuration
from warprl.launch.config import RunConfig
from warprl.launch.errors import UserError
from warprl.params import prefix, subtree
from warprl.seeding import generator
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


def open_run(folder: Path, iteration: int | None) -> StoredRun:
    """Load a run at one iteration, or at its newest sound checkpoint.

    Raises UserError if there is none, or if it does not belong to the run's configuration.
    """
    config = configuration.load(folder / "config.yaml")
    saved = load_checkpoint(folder, config, iteration)
    return StoredRun(
        folder,
        config,
        saved.iteration,
        subtree("theta", saved.tensors),
        subtree("phi", saved.tensors),
    )


def load_checkpoint(folder: Path, config: RunConfig, iteration: int | None) -> Checkpoint:
    """A checkpoint that fits ``config``; says on stderr which broken newer ones were passed over.

    Raises UserError if there is none.
    """
    try:
        saved = checkpoints.load(folder / "checkpoints", iteration)
    except OSError as error:
        raise UserError(f"cannot read {folder / 'checkpoints'}: {error.strerror}") from error
    except CheckpointError as error:
        known = checkpoints.iterations(folder / "checkpoints")
        hint = f"; there are checkpoints of iterations {', '.join(map(str, known))}" * bool(known)
        raise UserError(f"{error}{hint}") from error
    for path, reason in saved.skipped:
        print(
            f"warprl: checkpoint {path.name} is broken ({reason}): using {saved.iteration}",
            file=sys.stderr,
        )
    family = saved.document["family"]
    if family != config.family:
        raise UserError(f"{saved.path} is of family {family} and this run of {config.family}")
    policy, mine = saved.document["policy"], config.model_dump(mode="json")["policy"]
    if policy != mine:
        raise UserError(
            f"{saved.path} does not belong to this run: its policy is {policy} and that of "
            f"{folder / 'config.yaml'} is {mine}"
        )
    theta, phi = fresh(config)
    for name, tensor in (prefix("theta", theta) | prefix("phi", phi)).items():
        found = saved.tensors.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise UserError(
                f"{saved.path} does not belong to this run: {name} is {shape} and "
                f"{config.family} with this policy needs {tuple(tensor.shape)}"
            )
    return saved


def make_policy(config: RunConfig) -> GaussianPolicy:
    """The policy of a run, without parameters."""
    family = make_family(config.family)
    return GaussianPolicy.for_spaces(family.observation_space, family.action_space, config.policy)


def fresh(config: RunConfig) -> tuple[Params, Params]:
    """The parameters (theta_0, phi) that a run starts from."""
    return make_policy(config).init(generator(config.seed, "init"))
