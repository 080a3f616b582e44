"""The same bits for any number of threads and workers, and after any interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_runs import History, running, small

from warprl import checkpoint
from warprl.agents.meta import InProcess
from warprl.launch.runs.config import RunConfig, resolve
from warprl.launch.training.loop import Progress, experiment_of

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
