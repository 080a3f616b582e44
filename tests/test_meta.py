"""The meta-iteration as a value: what it returns, and that nothing but its arguments decides it."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from helpers import same_bits

from warprl.agents.inner import GradientAdaptation
from warprl.agents.meta import Agent, Experiment, InProcess, Iteration, iterate, shards_of
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.envs import make_family
from warprl.learner import LearnerState

CONTRACT = {
    "iteration", "env_steps", "wall_s", "workers_replaced", "kl", "meta_loss", "grad_norm",
    "meta_steps", "kl_coefficient", "step_scale", "diverged_tasks", "steps_per_s",
    "physics_fraction", "return_step_0", "return_step_1", "return_step_2",
    "time.physics", "time.policy", "time.inner", "time.gradient", "time.waiting",
    "time.transfer", "time.learner",
}  # fmt: skip


def experiment(seed: int = 3, inner_lr: float = 0.1) -> Experiment:
    family = make_family("point-navigation-v1")
    policy = Policy.for_spaces(family.spaces, PolicyConfig((8, 8), "residual"))
    adaptation = GradientAdaptation(steps=2, episodes=2, inner_lr=inner_lr)
    return Experiment(family, Agent(policy, adaptation, PRESETS["warpgrad"].learner), 5, seed)


def train(threads: int, iterations: int, state: LearnerState | None = None) -> list[Iteration]:
    found, ours = [], experiment()
    sampler = InProcess(ours, threads)
    state = state or ours.agent.init(ours.seed)
    for _ in range(iterations):
        found.append(iterate(ours, sampler, state))
        state = found[-1].state
    return found


def test_an_iteration_measures_what_the_contract_names() -> None:
    first, second = (done.metrics for done in train(threads=1, iterations=2))
    assert first.keys() == CONTRACT
    assert json.loads(json.dumps(second)) == second
    assert all(math.isfinite(value) for value in second.values())
    assert first["env_steps"] == second["env_steps"] == 5 * 2 * 100 * 3
    assert (first["iteration"], second["iteration"]) == (1, 2)
    seconds = sum(value for name, value in second.items() if name.startswith("time."))
    assert seconds == pytest.approx(second["wall_s"])
    assert second["physics_fraction"] == pytest.approx(second["time.physics"] / seconds)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads: int) -> None:
    for alone, together in zip(train(1, 2), train(threads, 2), strict=True):
        assert same_bits(alone.state.to_tensors(), together.state.to_tensors())
        assert alone.state.to_scalars() == together.state.to_scalars()
        for name in ("return_step_0", "return_step_2", "kl", "meta_loss"):
            assert alone.metrics[name] == together.metrics[name]


def test_the_number_of_threads_of_the_program_around_it_is_left_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        train(threads=2, iterations=1)
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_iterations_go_on_from_a_state_as_if_never_stopped() -> None:
    whole = train(threads=2, iterations=3)
    flat = whole[0].state
    restored = LearnerState.from_tensors(flat.to_tensors(), flat.to_scalars())
    rest = train(threads=1, iterations=2, state=restored)
    assert same_bits(rest[-1].state.to_tensors(), whole[-1].state.to_tensors())


def test_seeds_tell_runs_apart() -> None:
    states = []
    for seed in (3, 4):
        ours = experiment(seed)
        states.append(iterate(ours, InProcess(ours), ours.agent.init(seed)).state)
    assert not same_bits(states[0].theta, states[1].theta)


def test_diverged_tasks_are_counted_and_named_and_move_nothing() -> None:
    ours = experiment(inner_lr=1e30)
    start = ours.agent.init(ours.seed)
    done = iterate(ours, InProcess(ours), start)
    assert done.diverged == (0, 1, 2, 3, 4) and done.metrics["diverged_tasks"] == 5
    assert same_bits(done.state.to_tensors(), start.to_tensors())
    assert done.state.iteration == 1 and math.isnan(done.metrics["return_step_0"])


def test_shards_are_the_meta_batch_in_order() -> None:
    tasks = make_family("point-navigation-v1").held_out_tasks()[:7]
    shards = shards_of(tasks, 3, seed=1, iteration=4)
    assert [task for shard in shards for task in shard.tasks] == tasks
    assert [index for shard in shards for index in shard.indices] == list(range(7))
    assert {len(shard.tasks) for shard in shards} == {2, 3}


def test_the_loop_needs_neither_ray_nor_files_nor_a_console() -> None:
    code = "import sys, warprl.agents.meta; print(*{m.partition('.')[0] for m in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"ray", "gymnasium", "mujoco", "pydantic", "rich", "yaml"}.isdisjoint(out.stdout.split())
