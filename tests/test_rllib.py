"""WarpGrad behind RLlib's seams: configuration, metrics, Tune, saving and restoring."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import ray
import torch
from helpers_runs import history, running, small, start_ray, train
from ray import tune

from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.checkpoint import CheckpointError
from warprl.launch.errors import UserError
from warprl.launch.training.algorithm import WarpGrad, WarpGradConfig, iteration_metrics

CONTRACT = {
    "iteration", "env_steps", "wall_s", "kl", "meta_loss", "grad_norm", "steps_per_s",
    "physics_fraction", "diverged_tasks", "workers_replaced",
    "return_step_0", "return_step_1", "return_step_2",
    "time.physics", "time.policy", "time.inner", "time.transfer", "time.meta_update",
}  # fmt: skip


def test_metrics_keep_the_contract() -> None:
    with running(small()) as algorithm:
        first, second = train(algorithm), train(algorithm)
    assert first.keys() >= CONTRACT
    assert json.loads(json.dumps(second)) == second
    assert all(math.isfinite(value) for value in second.values())
    # 5 tasks, 2 episodes, 100 steps, 3 rollouts
    assert (first["env_steps"], second["env_steps"]) == (3000, 6000)
    assert (first["iteration"], second["iteration"]) == (1, 2)
    seconds = sum(value for name, value in second.items() if name.startswith("time."))
    assert seconds == pytest.approx(second["wall_s"] - first["wall_s"])
    assert second["physics_fraction"] == pytest.approx(second["time.physics"] / seconds)


def test_what_is_not_learned_stays_bit_for_bit() -> None:
    config = small().meta(learner=replace(PRESETS["warpgrad"].learner, init="fixed"))
    with running(config) as algorithm:
        before = algorithm.learner_state.to_tensors()
        after = history(algorithm, 1).tensors
    changed = {name for name in before if before[name].numpy().tobytes() != after[name]}
    assert changed
    assert all(name.startswith("phi.") for name in changed)


@pytest.mark.parametrize(
    ("agent", "optimizer"),
    [
        (agent, optimizer)
        for agent, preset in PRESETS.items()
        for optimizer in ("adam", "trpo")
        if optimizer == "adam" or preset.learner.objective != "two-time-scale"
    ],
)
def test_every_preset_learns_what_it_names_and_nothing_else(
    agent: str, optimizer: Literal["adam", "trpo"]
) -> None:
    preset = PRESETS[agent]
    policy = replace(preset.policy, hidden=(8, 8))
    adaptation = replace(preset.adaptation, episodes=2)
    learner = replace(preset.learner, optimizer=optimizer, warp_every=1)
    config = small().meta(policy=policy, adaptation=adaptation, learner=learner)
    with running(config) as algorithm:
        before = algorithm.learner_state.to_tensors()
        metrics = train(algorithm)
        after = algorithm.learner_state.to_tensors()
    assert f"return_step_{adaptation.steps}" in metrics
    assert f"return_step_{adaptation.steps + 1}" not in metrics
    assert not metrics["diverged_tasks"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {"phi", "theta"} if policy.warp or policy.rates else {"theta"}
    assert {name.partition(".")[0] for name in moved} == (set() if agent == "random" else learned)
    if policy.rates:
        assert moved >= {name for name in before if name.startswith("phi.rate.")}


def test_diverged_tasks_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    config = small().meta(adaptation=AdaptationConfig(steps=2, episodes=2, lr=1e30))
    with running(config) as algorithm, caplog.at_level(logging.WARNING, "warprl"):
        before = algorithm.learner_state.to_tensors()
        metrics = train(algorithm)
        after = algorithm.learner_state.to_tensors()
    assert metrics["diverged_tasks"] == 5
    assert "iteration 1: diverged tasks left out: (0, 1, 2, 3, 4)" in caplog.text
    assert {n: t.tolist() for n, t in after.items()} == {n: t.tolist() for n, t in before.items()}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (WarpGradConfig(), "family is not set"),
        (small("point-navigation-v2"), "unknown task family 'point-navigation-v2'; did you mean"),
        (small().meta(adaptation=AdaptationConfig(steps=0)), "adaptation.steps = 0 (one policy "),
        (small(tasks=0), "tasks = 0: must be a whole number, 1 or more"),
        (small().env_runners(sample_timeout_s=0), "sample_timeout_s = 0: must be a number of sec"),
        (small().meta(seed=-1), "seed = -1: must be a whole number, 0 or more"),
        (small().meta(keep=1), "keep = 1: must be a whole number, 2 or more"),
        (small().meta(adaptation=AdaptationConfig(lr=-1.0)), "adaptation.lr = -1.0: "),
        (small().meta(adaptation=AdaptationConfig(lr=math.inf)), "must hold finite numbers"),
        (small().meta(policy=PolicyConfig(hidden=())), "policy.hidden = []: "),
        (small().meta(policy={"hidden": [8]}), "must be a PolicyConfig"),  # type: ignore[arg-type]
        (small(workers=6), "num_env_runners = 6: must not exceed tasks = 5"),
        (small().learners(num_learners=1), "num_learners = 1: must be 0"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(config: WarpGradConfig, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.validate()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_restoring_in_place_undoes_what_came_after(tmp_path: Path) -> None:
    with running(small()) as algorithm:
        train(algorithm)
        algorithm.save(str(tmp_path))
        once = history(algorithm, 1)
        algorithm.restore(str(tmp_path))
        again = history(algorithm, 1)
    assert again == once


def test_a_broken_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(small()) as algorithm:
        for _ in range(2):
            train(algorithm)
            algorithm.save_checkpoint(str(tmp_path))
        (tmp_path / "2" / "state.json").unlink()
        with caplog.at_level(logging.WARNING, "warprl"):
            algorithm.load_checkpoint(str(tmp_path))
        assert algorithm.learner_state.iteration == 1
        with pytest.raises(CheckpointError, match="there are no checkpoints"):
            algorithm.load_checkpoint(str(tmp_path / "elsewhere"))
    assert f"checkpoint {tmp_path / '2'} is broken and was skipped: state.json is" in caplog.text


def test_a_checkpoint_from_before_a_key_of_the_policy_existed_is_continued() -> None:
    with running(small()) as algorithm:
        train(algorithm)
        state = algorithm.get_state()
        del state["document"]["policy"]["memory"]
        algorithm.set_state(state)
        assert train(algorithm)["iteration"] == 2


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    with running(small()) as algorithm:
        algorithm.save_checkpoint(str(tmp_path))
    with running(small().meta(policy=PolicyConfig(hidden=(4,)))) as other:
        with pytest.raises(UserError, match="cannot continue: policy was .* and is now"):
            other.load_checkpoint(str(tmp_path))


def test_tune_runs_a_trial_that_can_be_continued(tmp_path: Path) -> None:
    start_ray()
    tuner = tune.Tuner(
        WarpGrad,
        param_space=small(),  # type: ignore[arg-type]  # Ray's annotation knows dicts only
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    result = tuner.fit()[0]
    assert result.error is None
    metrics = iteration_metrics(result.metrics or {})
    assert metrics["iteration"] == 2
    with running(small()) as algorithm:
        expected = history(algorithm, 3).metrics
    with running(small()) as continued:
        assert result.checkpoint is not None
        continued.restore(result.checkpoint)
        assert history(continued, 1).metrics == expected[2:]
    assert metrics["return_step_2"] == expected[1]["return_step_2"]
    assert ray.is_initialized()
