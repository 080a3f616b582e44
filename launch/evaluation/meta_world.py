"""Meta-World's own evaluation protocol, on the policy of a stored run.

Meta-World's evaluator collects the episodes, and asks an agent for actions and to adapt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from warprl import params as P
from warprl.agents.adapted import to_environment
from warprl.agents.adapter import Recorder, inner_update, rollout_of
from warprl.agents.inner import MAX_EPISODES, GradientAdaptation
from warprl.envs import is_meta_world
from warprl.launch.errors import UserError, whole_number, writing
from warprl.launch.outcome import Document, Outcome, table, to_json
from warprl.launch.runs import copies, files, folders, stored
from warprl.launch.runs.copies import address
from warprl.launch.runs.stored import StoredRun
from warprl.launch.runs.trust import OURS, Trust
from warprl.seeding import generator
from warprl.threads import one_thread
from warprl.types import Params

# Meta-World's defaults (metaworld.evaluation.metalearning_evaluation).
STEPS = 1
EPISODES = 10
EVALUATION_EPISODES = 3

Floats = NDArray[np.floating[Any]]


class Timestep(Protocol):
    """What Meta-World's evaluator reports of a step of its T environments."""

    observation: Floats  # [T, O]
    reward: Floats  # [T]
    terminated: NDArray[np.bool_]  # [T]
    truncated: NDArray[np.bool_]  # [T]
    aux_policy_outputs: Mapping[str, Floats]  # what adapt_action returned beside the action


class Agent:
    """A run's policy as a ``metaworld.evaluation.MetaLearningAgent``.

    Each of the evaluator's T environments has a task of its own. A copy of theta_0 adapts to it by
    our inner step with phi frozen, as :class:`warprl.agents.adapter.Adapter` does in a single
    environment. The agent explores as in training and, once adapted, takes the mean action, as
    Meta-World's reference agents do.
    """

    def __init__(self, run: StoredRun, seed: int) -> None:
        """Every random number is keyed by ``seed``, the evaluation and the inner step."""
        self._policy, self._theta_0, self._phi = run.policy, run.theta, run.phi
        assert isinstance(run.config.adaptation, GradientAdaptation)
        self._adaptation, self._spaces = run.config.adaptation, run.family.spaces
        self._seed = seed
        self._evaluation = -1

    def init(self) -> None:
        """Forget the last tasks."""
        self._evaluation += 1
        self._theta: Params | None = None
        self._begin(0)

    def _begin(self, k: int) -> None:
        self._k = k
        self._rng = generator(self._seed, "action", iteration=self._evaluation, k=k)
        self._recorders: list[Recorder] = []

    def adapt_action(self, observations: Floats) -> tuple[Floats, dict[str, Floats]]:
        """Exploring actions ``[T, A]`` at ``[T, O]``, and beside them those before clipping."""
        theta = self._copies(len(observations))
        distribution = self._policy.distribution
        noise = torch.from_numpy(distribution.noise(self._rng, len(observations), 1))
        sampled = distribution.sample(self._mean(theta, observations), theta, noise)
        action = sampled.squeeze(1).numpy()
        return to_environment(self._spaces, action), {"action": action}

    def step(self, timestep: Timestep) -> None:
        """Record what an exploring action led to."""
        tasks = range(len(timestep.reward))
        self._recorders = self._recorders or [Recorder() for _ in tasks]
        for t in tasks:
            self._recorders[t].record(
                timestep.observation[t],
                timestep.aux_policy_outputs["action"][t],
                float(timestep.reward[t]),
                bool(timestep.terminated[t]),
                bool(timestep.truncated[t]),
            )

    def adapt(self) -> None:
        """One inner step for each task; one that is not finite is not taken.

        Raises ValueError if an episode is under way, or the tasks differ in how many they have.
        """
        under_way = [t for t, recorder in enumerate(self._recorders) if recorder.steps]
        numbers = {len(recorder.episodes) for recorder in self._recorders}
        if under_way or len(numbers) != 1 or 0 in numbers:
            raise ValueError(
                "cannot adapt: every environment needs the same number of whole episodes, and "
                f"there are {sorted(numbers)} and unfinished ones in environments {under_way}"
            )
        theta = self._copies(len(self._recorders))
        episodes = [recorder.episodes for recorder in self._recorders]
        rollout = rollout_of(self._policy, theta, self._phi, episodes)
        self._theta, _ = inner_update(self._policy, theta, self._phi, rollout, self._adaptation)
        self._begin(self._k + 1)

    def eval_action(self, observations: Floats) -> Floats:
        """Mean actions ``[T, A]`` at ``[T, O]``."""
        theta = self._copies(len(observations))
        return to_environment(self._spaces, self._mean(theta, observations).squeeze(1).numpy())

    def reset(self, env_mask: NDArray[np.bool_]) -> None:
        """Do nothing, because the policy has no memory of an episode."""

    def _copies(self, tasks: int) -> Params:
        """theta ``[T, ...]``, copied from theta_0 when the first observations tell the number T."""
        if self._theta is None:
            self._theta = P.tree_map(torch.clone, P.broadcast(self._theta_0, tasks))
        return self._theta

    def _mean(self, theta: Params, observations: Floats) -> Tensor:
        """Mean actions ``[T, 1, A]``."""
        seen = torch.from_numpy(observations.astype(np.float32)).unsqueeze(1)
        with torch.no_grad():
            return self._policy.outputs(theta, self._phi, seen)


@dataclass(frozen=True, kw_only=True)
class MetaWorldSummary(Document):
    """The success rates and the mean return that Meta-World's evaluator finds."""

    run: str
    family: str
    agent: str
    checkpoint: int
    seed: int
    protocol: Mapping[str, Any]
    versions: Mapping[str, str]
    card: Mapping[str, Any]
    success_rate: float
    return_: float
    success_rates: Mapping[str, float]
    folder: str


def evaluate(
    folder: Path,
    *,
    steps: int | None,
    episodes: int | None,
    checkpoint: int | None,
    seed: int | None,
    trust: Trust = OURS,
    console: Console,
) -> Outcome[MetaWorldSummary]:
    """Run Meta-World's evaluator and write what it finds to a new folder in ``RUN/evaluation``.

    There is one environment for each test class, which gets all goals of the class in turn, so that
    every goal counts equally: with several environments, the evaluator would count the episodes
    that end first.

    Raises UserError for a family that is not one of Meta-World's, for a policy with memory and for
    a number out of range.
    """
    # Refuse what Meta-World's evaluator cannot do.
    run = stored.open_run(folder, checkpoint, trust)
    if run.config.policy.memory is not None:
        raise UserError(
            f"--protocol metaworld: the policy of {run.address} has a memory (policy.memory = "
            f"{run.config.policy.memory}), and Meta-World's evaluator adapts by gradient steps only"
        )
    if not is_meta_world(run.config.family):
        raise UserError(
            f"--protocol metaworld: {run.config.family} is not a family of Meta-World, "
            "such as ml1-reach-v3 or ml10"
        )

    # Imported here, because Meta-World is an extra.
    from metaworld.evaluation import metalearning_evaluation

    from warprl.envs.meta_world import GOALS, MetaWorld

    protocol = {
        "num_evals": GOALS,
        "adaptation_steps": whole_number(
            "steps", STEPS if steps is None else steps, 1, MAX_EPISODES
        ),
        "adaptation_episodes": whole_number(
            "episodes", EPISODES if episodes is None else episodes, 1, MAX_EPISODES
        ),
        "evaluation_episodes": EVALUATION_EPISODES,
    }
    seed = whole_number("seed", run.config.seed if seed is None else seed, 0)
    folders.require_writable(folder, "evaluation")

    # The evaluator collects the episodes; our agent acts and adapts.
    family = run.family
    assert isinstance(family, MetaWorld)
    with (
        one_thread(),
        console.status(f"Meta-World's evaluator: {GOALS} goals of each test environment"),
    ):
        envs = family.make_test_envs()
        success, returned, each = metalearning_evaluation(Agent(run, seed), envs, **protocol)
        envs.close()

    # What it found, in a new folder.
    place = folder / "evaluation" / folders.stamp()
    summary = MetaWorldSummary(
        run=run.address,
        family=run.config.family,
        agent=run.config.agent,
        checkpoint=run.iteration,
        seed=seed,
        protocol={**protocol, "num_envs": len(each), "action": "mean"},
        versions={name: version(name) for name in ("metaworld", "mujoco", "torch")},
        card=asdict(family.definition()),
        success_rate=success,
        return_=returned,
        success_rates={name: float(each[name]) for name in sorted(each)},
        folder=address(place),
    )
    with writing(place):
        place.mkdir(parents=True)
        text = to_json(summary.to_json()) + "\n"
        files.write(place / "metaworld.json", text)
    copies.publish(place)
    return Outcome(summary, _text(summary))


def _text(summary: MetaWorldSummary) -> str:
    protocol = summary.protocol
    steps = f"{protocol['adaptation_steps']} x {protocol['adaptation_episodes']} episodes"
    rows = [[name, f"{rate:.1%}"] for name, rate in summary.success_rates.items()]
    rows.append(["mean", f"{summary.success_rate:.1%}"])
    return (
        f"Meta-World's evaluator after inner steps on {steps}\n"
        f"{table(['test environment', 'success'], rows)}\n"
        f"mean return of an episode, which ends at success: {summary.return_:.1f}\n"
        f"{summary.folder}"
    )
