"""The same bits for any number of workers, and after any interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_runs import History, history, running, small

from warprl.agents.presets import PRESETS
from warprl.launch.training.algorithm import WarpGradConfig

ITERATIONS = 3


@pytest.fixture(scope="module", params=["point-navigation-v1", "half-cheetah-dir-v1", "maze-11-v1"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def in_process(family: str) -> History:
    with running(small(family, workers=0)) as algorithm:
        return history(algorithm, ITERATIONS)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_have_the_same_bits_for_any_number_of_workers(
    family: str, in_process: History, workers: int
) -> None:
    with running(small(family, workers=workers)) as algorithm:
        distributed = history(algorithm, ITERATIONS)
    assert distributed == in_process
    assert len({h["return_step_2"] for h in in_process.metrics}) == ITERATIONS


def test_another_seed_gives_another_run(in_process: History, family: str) -> None:
    with running(small(family).meta(seed=4)) as algorithm:
        assert history(algorithm, 1).metrics[0] != in_process.metrics[0]


def test_a_run_that_was_interrupted_and_restored_equals_one_that_was_not(
    family: str, in_process: History, tmp_path: Path
) -> None:
    with running(small(family)) as first:
        before = history(first, 1)
        first.save_checkpoint(str(tmp_path))
    with running(small(family)) as second:
        second.load_checkpoint(str(tmp_path))
        after = history(second, ITERATIONS - 1)
    assert before.metrics + after.metrics == in_process.metrics
    assert (after.tensors, after.scalars) == (in_process.tensors, in_process.scalars)


def with_memory(agent: str, workers: int) -> WarpGradConfig:
    """A preset with memory, on a few short batches; phi of warp-rnn steps in every other update."""
    preset = PRESETS[agent]
    return small("hopper-rand-params-v1", workers, tasks=3).meta(
        policy=replace(preset.policy, hidden=(8,)),
        adaptation=replace(preset.adaptation, episodes=2),
        learner=replace(preset.learner, warp_every=2),
    )


@pytest.mark.parametrize("agent", ["rl2", "warp-rnn", "warp-rnn-lookahead"])
def test_agents_with_memory_keep_their_bits_too(agent: str, tmp_path: Path) -> None:
    with running(with_memory(agent, workers=0)) as algorithm:
        expected = history(algorithm, ITERATIONS)
    with running(with_memory(agent, workers=0)) as first:
        before = history(first, 1)
        first.save_checkpoint(str(tmp_path))
    with running(with_memory(agent, workers=2)) as second:
        second.load_checkpoint(str(tmp_path))
        after = history(second, ITERATIONS - 1)
    assert before.metrics + after.metrics == expected.metrics
    assert (after.tensors, after.scalars) == (expected.tensors, expected.scalars)
    gathers = any(name.startswith("gathered.") for name in expected.tensors)
    assert gathers == (agent == "warp-rnn")
