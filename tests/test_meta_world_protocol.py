"""What works without Meta-World: our agent for its evaluator, and the messages to users."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from helpers_launch import fabricate

from warprl import params as P
from warprl.agents.inner import Shard, adapt
from warprl.agents.rollout import collect
from warprl.launch.cli import main
from warprl.launch.evaluation.meta_world import Agent, MetaWorldSummary
from warprl.launch.runs import stored
from warprl.launch.runs.stored import StoredRun
from warprl.types import Rollout

FAMILY = "half-cheetah-dir-v1"


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    fabricate(tmp_path / "run", FAMILY, "adaptation.episodes=3", warp_shift=0.1)
    return stored.open_run(tmp_path / "run", None)


def first_rollout(run: StoredRun) -> Rollout:
    """What an adaptation, with seed 4, draws of two held-out tasks before its first step."""
    tasks = run.family.held_out_tasks()[:2]
    theta = P.broadcast(run.theta, 2)
    draws = Shard(tasks, [0, 1], 4, 0).draws(0)
    rollout = collect(run.family.make_batch(6), run.policy, theta, run.phi, draws).rollout
    assert not rollout.terminated.any(), "as while Meta-World adapts"
    return rollout


def report(agent: Agent, rollout: Rollout, horizon: int) -> None:
    """Tell the agent of every step, as Meta-World's evaluator does."""
    for episode in range(rollout.obs.shape[1]):
        for h in range(rollout.obs.shape[2]):
            last = np.full(len(rollout.obs), h + 1 == horizon)
            timestep: Any = SimpleNamespace(
                observation=rollout.obs[:, episode, h].double().numpy(),
                reward=rollout.reward[:, episode, h].double().numpy(),
                terminated=np.zeros_like(last),
                truncated=last,
                aux_policy_outputs={"action": rollout.act[:, episode, h].numpy()},
            )
            agent.step(timestep)


def test_the_agent_adapts_as_the_run_does(run: StoredRun) -> None:
    rollout, agent = first_rollout(run), Agent(run, 0)
    agent.init()
    seen = np.random.default_rng(0).normal(size=(2, run.policy.obs_dim))
    before = agent.eval_action(seen)
    report(agent, rollout, run.family.horizon)
    agent.adapt()
    batch, config = run.family.make_batch(3), replace(run.config.adaptation, steps=1)
    for i, task in enumerate(run.family.held_out_tasks()[:2]):
        shard = Shard([task], [i], 4, 0)
        trajectory, _ = adapt(batch, run.policy, run.theta, run.phi, shard, config)
        adapted = P.select(trajectory.theta, 0, slice(1, 2))
        mean = run.policy.outputs(adapted, run.phi, torch.from_numpy(seen[i]).float()[None, None])
        space = run.family.action_space
        assert isinstance(space, Box)
        low, high = space.low, space.high
        np.testing.assert_allclose(
            agent.eval_action(seen)[i], np.clip(mean[0, 0].numpy(), low, high), atol=1e-5
        )
    assert not np.allclose(agent.eval_action(seen), before, atol=1e-3)
    agent.init()
    assert np.array_equal(agent.eval_action(seen), before), "each evaluation begins anew"


def test_exploring_actions_fit_the_space_and_follow_from_the_seed(tmp_path: Path) -> None:
    fabricate(tmp_path / "point", "point-navigation-v1")  # whose actions have bounds
    run = stored.open_run(tmp_path / "point", None)
    seen = np.zeros((500, run.policy.obs_dim))

    def explore(seed: int) -> tuple[Any, Any]:
        agent = Agent(run, seed)
        agent.init()
        action, beside = agent.adapt_action(seen)
        return action, beside["action"]

    action, before_clipping = explore(1)
    space = run.family.action_space
    assert isinstance(space, Box)
    assert np.array_equal(action, np.clip(before_clipping, space.low, space.high))
    assert abs(before_clipping).max() > abs(action).max()
    std = run.theta["log_std"].exp().numpy()
    np.testing.assert_allclose(before_clipping.std(0), std, rtol=0.15)
    assert np.array_equal(explore(1)[0], action) and not np.array_equal(explore(2)[0], action)


def test_a_step_that_is_not_finite_is_not_taken(run: StoredRun) -> None:
    rollout, agent = first_rollout(run), Agent(run, 0)
    agent.init()
    seen = np.ones((2, run.policy.obs_dim))
    before = agent.eval_action(seen)
    rollout.reward[0, 0, 3] = torch.nan
    report(agent, rollout, run.family.horizon)
    agent.adapt()
    after = agent.eval_action(seen)
    assert np.array_equal(after[0], before[0]) and not np.array_equal(after[1], before[1])


def test_the_result_has_the_names_of_the_evaluators_measures() -> None:
    document: dict[str, Any] = {
        "run": "runs/first",
        "family": "ml1-reach-v3",
        "agent": "warpgrad",
        "checkpoint": 9,
        "seed": 1,
        "protocol": {"num_evals": 50},
        "versions": {"mujoco": "3.3.0"},
        "card": {"horizon": 500},
        "success_rate": 0.5,
        "return": -2.0,
        "success_rates": {"reach-v3": 0.5},
        "folder": "runs/first/1",
    }
    values = {key: value for key, value in document.items() if key != "return"}
    summary = MetaWorldSummary(return_=document["return"], **values)
    assert list(summary.to_json().items()) == list(document.items())


def test_an_episode_that_is_not_over_is_an_error(run: StoredRun) -> None:
    rollout, agent = first_rollout(run), Agent(run, 0)
    agent.init()
    report(agent, rollout, run.family.horizon + 1)
    with pytest.raises(ValueError, match="^cannot adapt: every environment needs the same number"):
        agent.adapt()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "--protocol metaworld: half-cheetah-dir-v1 is not a family of Meta-World, such as",
        ),
        (("--untrained",), "--protocol metaworld evaluates one run: no --against, --untrained"),
    ],
)
def test_what_meta_worlds_evaluator_cannot_do_is_one_line_and_status_2(
    run: StoredRun, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert main(["evaluate", str(run.folder), "--protocol", "metaworld", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(f"warprl: {message}")
    assert output.err.count("\n") == 1


def test_a_policy_with_memory_is_refused_for_meta_worlds_evaluator(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "run", FAMILY, "policy.memory=gru", "policy.warp=none")
    assert main(["evaluate", str(tmp_path / "run"), "--protocol", "metaworld"]) == 2
    error = capsys.readouterr().err
    assert "has a memory (policy.memory = gru), and Meta-World's evaluator adapts" in error
    assert error.count("\n") == 1


def test_where_meta_world_is_missing_its_families_say_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.delitem(sys.modules, "warprl.envs.meta_world", raising=False)
    for arguments in (["envs", "ml45"], ["config", "ml45"], ["train", "ml1-reach-v3"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"warprl: {arguments[1]} needs Meta-World, which is not installed")
        assert "constraints-metaworld.txt '.[metaworld]'" in error and error.count("\n") == 1
