"""The same bits for any number of threads and workers, and after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from helpers_runs import History, running, small
from torch import Tensor

from warprl import checkpoint, tree
from warprl.agents.inner import adapt
from warprl.agents.meta import Experiment, InProcess, Sampled, shards_of
from warprl.agents.presets import PRESETS
from warprl.launch.runs.config import RunConfig, resolve
from warprl.launch.training.loop import Progress, experiment_of
from warprl.meta_batch import At, Group, InMemory
from warprl.sums import GradientSums, joined
from warprl.trajectories import Selection
from warprl.types import Params, Task

ITERATIONS = 3
FAMILIES = ["half-cheetah-dir-v1", "maze-11-v1"]


def alone(config: RunConfig, iterations: int = ITERATIONS, threads: int = 1) -> History:
    """A run in this process."""
    sampler = InProcess(experiment_of(config), threads)
    with running(config, sampler=sampler) as run:
        return run.history(iterations)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def expected(family: str) -> History:
    return alone(small(family))


@pytest.mark.parametrize("threads", [2, 3])
def test_results_have_the_same_bits_for_any_number_of_threads(
    family: str, expected: History, threads: int
) -> None:
    assert alone(small(family), threads=threads) == expected
    assert len({row["return_step_2"] for row in expected.metrics}) == ITERATIONS


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_have_the_same_bits_for_any_number_of_workers(
    family: str, expected: History, workers: int
) -> None:
    with running(small(family, workers=workers)) as run:
        assert run.history(ITERATIONS) == expected


@pytest.mark.ray
def test_a_step_in_a_trust_region_has_the_same_bits_on_workers() -> None:
    settings = ["policy.hidden=[8,8]", "adaptation.episodes=2", "outer.type=trpo"]
    here, there = (
        resolve("point-navigation-v1", "warp-leap", {"workers": n, "tasks": 5, "seed": 3}, settings)
        for n in (0, 3)
    )
    with running(there) as run:
        assert run.history(2) == alone(here, 2)


def test_another_seed_gives_another_run(family: str, expected: History) -> None:
    assert alone(small(family, seed=4), iterations=1).metrics[0] != expected.metrics[0]


def test_a_run_that_was_interrupted_and_restored_equals_one_that_was_not(
    family: str, expected: History, tmp_path: Path
) -> None:
    assert interrupted(small(family), small(family), tmp_path) == expected


def interrupted(first: RunConfig, then: RunConfig, folder: Path) -> History:
    """A run that was saved after its first iteration, and carried out in two ways."""
    with running(first) as run:
        before = run.history(1)
        run.progress.save(folder, first)
    with running(then, Progress.load(checkpoint.load(folder))) as run:
        after = run.history(ITERATIONS - 1)
    return History(before.metrics + after.metrics, after.tensors, after.scalars)


@pytest.mark.parametrize("agent", ["maml-trpo", "warpgrad"])
def test_results_do_not_depend_on_the_threads_that_torch_may_use(agent: str) -> None:
    options = {"workers": 0, "tasks": 2, "seed": 3}
    # Large enough for torch to share out the sums over parameters.
    settings = ["policy.hidden=[128,128]", "adaptation.episodes=2"]
    config = resolve("point-navigation-v1", agent, options, settings)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(alone(config, 2))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


class Apart:
    """A sampler whose meta-batches are held in parts, each of which computes its own sums."""

    def __init__(self, experiment: Experiment, parts: int) -> None:
        self.experiment, self.parts = experiment, parts

    def sample(self, theta: Params, phi: Params, tasks: Sequence[Task], iteration: int) -> Sampled:
        """See :class:`warprl.agents.meta.Sampler`."""
        agent, here = self.experiment.agent, []
        for shard in shards_of(tasks, self.parts, self.experiment.seed, iteration):
            env = self.experiment.family.make_batch(len(shard.tasks) * agent.adaptation.episodes)
            found, timing = adapt(env, agent.policy, theta, phi, shard, agent.adaptation)
            here.append(agent.gather([found], 1, "cpu", (0, len(tasks))))
        return Sampled(Parts(here), timing)


class Parts:
    """A meta-batch in parts."""

    def __init__(self, here: list[InMemory]) -> None:
        self.here, self.steps = here, here[0].steps
        self.task, self.returns, self.finite = (
            torch.cat([getattr(part, name) for part in here])
            for name in ("task", "returns", "finite")
        )

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """The sums of all parts, in the order of the tree."""
        found: dict[tree.Span, GradientSums] = {}
        for part in self.here:
            found |= part.gradient_parts(At(theta, phi, kl_coefficient), which)
        return tree.total((0, len(self.task)), found, joined) or GradientSums()

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """The products of all parts, in the order of the tree."""

        def product(vector: Tensor) -> Tensor:
            found: dict[tree.Span, Tensor] = {}
            for part in self.here:
                found |= part.curvature_parts(At(theta, phi), group, which, vector)
            total = tree.total((0, len(self.task)), found, torch.add)
            assert total is not None
            return total / len(which.states if group == "phi" else which.tasks)

        return product


VARIANTS = [
    *((agent, ()) for agent in PRESETS if agent != "random"),
    ("warpgrad", ("outer.type=trpo",)),
    pytest.param("warp-leap", ("outer.type=trpo",), marks=pytest.mark.slow),
    pytest.param("rl2", ("outer.type=trpo",), marks=pytest.mark.slow),
    ("warpgrad", ("outer.minibatches=3",)),
    ("warp-promp", ("outer.minibatches=2", "objective.kind=approximate")),
    ("maml", ("adaptation.inner_lr=1e3",)),  # some tasks diverge
]


@pytest.mark.parametrize("counts", [(2, 5), pytest.param((1, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("agent", "settings"), VARIANTS)
def test_sums_have_the_same_bits_wherever_the_trajectories_are(
    agent: str, settings: tuple[str, ...], counts: tuple[int, ...]
) -> None:
    small = ["policy.hidden=[8,8]", "adaptation.episodes=2"]
    options = {"workers": 0, "tasks": 5, "seed": 3}
    # A memory is differentiated step by step, so that long episodes would take minutes.
    family = "helpers_gym:SHORT_CART" if PRESETS[agent].policy.memory else "point-navigation-v1"
    config = resolve(family, agent, options, [*small, *settings])
    expected = alone(config, 1)
    for parts in counts:
        with running(config, sampler=Apart(experiment_of(config), parts)) as run:
            assert run.history(1) == expected
    if "adaptation.inner_lr=1e3" in settings:
        assert 0 < expected.metrics[0]["diverged_tasks"] < 5


def with_memory(agent: str, workers: int = 0) -> RunConfig:
    """An agent with a memory, on a few episodes of which some end early."""
    # Ray's workers find no module of the tests.
    family = "hopper-rand-params-v1" if agent == "warp-rnn" else "helpers_gym:SHORT_CART"
    # phi of warp-rnn steps in every other iteration, so that it is saved between two steps.
    every = ["objective.warp_every=2"] if agent == "warp-rnn" else []
    settings = ["policy.hidden=[8]", "adaptation.episodes=2", *every]
    options = {"workers": workers, "tasks": 3, "seed": 3}
    return resolve(family, agent, options, settings)


@pytest.mark.parametrize(
    ("agent", "workers"),
    [
        ("rl2", 0),
        ("warp-rnn", 0),
        ("warp-rnn-lookahead", 0),
        pytest.param("warp-rnn", 2, marks=pytest.mark.ray),
    ],
)
def test_agents_with_memory_keep_their_bits_too(agent: str, workers: int, tmp_path: Path) -> None:
    expected = alone(with_memory(agent))
    assert interrupted(with_memory(agent), with_memory(agent, workers), tmp_path) == expected
    gathers = any(name.startswith("gathered.") for name in expected.tensors)
    assert gathers == (agent == "warp-rnn")
