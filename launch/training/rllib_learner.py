"""The central learner behind RLlib's learner API: all mathematics is in :mod:`warprl.learner`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData

from warprl.agents.inner import AdaptationConfig
from warprl.agents.losses import InnerLoss, OuterLoss
from warprl.agents.policy import Policy
from warprl.envs import make_family
from warprl.launch.machine import available_cores, keep_freed_memory
from warprl.learner import CHUNK, LONG_CHUNK, Learner, LearnerConfig, Report
from warprl.seeding import generator
from warprl.types import Trajectory

if TYPE_CHECKING:
    from ray.rllib.utils.typing import StateDict

STATE = "learner_state"


@dataclass
class MetaBatch(TrainingData):
    """The adaptation trajectories of one meta-iteration, as RLlib's training data."""

    trajectory: Trajectory | None = None

    def validate(self) -> None:
        """Raise ValueError unless there are trajectories."""
        if self.trajectory is None:
            raise ValueError("a meta-batch needs trajectories")

    def solve_refs(self) -> None:
        """Nothing to fetch: the trajectories are here."""


class WarpGradLearner(TorchLearner):
    """A single, local learner; its parameters live in a LearnerState, not in a module."""

    def build(self) -> None:
        """Draw the initial parameters from the run's seed."""
        keep_freed_memory()
        config: Any = self.config  # a WarpGradConfig
        family = make_family(config.family)
        policy = Policy.for_spaces(family.spaces, config.policy)
        self._seed: int = config.seed
        self._meta = make_learner(policy, config.learner, config.adaptation)
        self._state = self._meta.init(*policy.init(generator(self._seed, "init")))
        self._is_built = True

    def update(  # type: ignore[override]
        self, *, training_data: MetaBatch, **_: Any
    ) -> Report:
        """One meta-update; its randomness is keyed by the number of updates before it."""
        assert training_data.trajectory is not None
        rng = generator(self._seed, "minibatch", iteration=self._state.iteration + 1)
        self._state, report = self._meta.update(self._state, training_data.trajectory, rng)
        return report

    def get_state(self, *_: Any, **__: Any) -> StateDict:
        """The LearnerState, whole: it is immutable and costs nothing to hand out."""
        return {STATE: self._state}

    def set_state(self, state: StateDict) -> None:
        """Go on from another LearnerState."""
        self._state = state[STATE]

    def compute_loss_for_module(self, **_: Any) -> Any:
        """Refuse: RLlib's own loop of losses and gradient steps is not used."""
        raise NotImplementedError("the meta-objective is computed by warprl.learner")


def make_learner(policy: Policy, config: LearnerConfig, adaptation: AdaptationConfig) -> Learner:
    """The meta-learner of a policy, on all cores: the result does not depend on their number."""
    clip = config.clip if config.loss == "ppo" else None
    losses = InnerLoss(policy), OuterLoss(policy, clip)
    return Learner(
        config, adaptation.step_sizes(policy), *losses, threads=available_cores(),
        chunk=CHUNK if policy.config.memory is None else LONG_CHUNK,
    )  # fmt: skip
