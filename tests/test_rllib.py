"""The RLlib adapter: configuration, results, Tune, saving and restoring."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from helpers_runs import SMALL, as_bytes, running, start_ray, timeless
from helpers_runs import small as small_run
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from warprl.launch.cli import main
from warprl.launch.errors import UserError
from warprl.launch.training import rllib
from warprl.launch.training.rllib import WarpGrad, WarpGradConfig, iteration_metrics
from warprl.launch.training.rllib_absent import ABSENT

FAMILY = "point-navigation-v1"
KEYS = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in SMALL)}


def small(**settings: Any) -> WarpGradConfig:
    """The same run as that of the helpers."""
    return WarpGradConfig().meta(family=FAMILY, tasks=5, seed=3, **KEYS).meta(**settings)


@contextmanager
def building(config: WarpGradConfig) -> Iterator[WarpGrad]:
    """The algorithm of a configuration, stopped at the end."""
    algorithm = config.build_algo()
    assert isinstance(algorithm, WarpGrad)
    try:
        yield algorithm
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]


def results(algorithm: WarpGrad, number: int) -> list[dict[str, Any]]:
    return [algorithm.train() for _ in range(number)]  # type: ignore[no-untyped-call]


def rows(algorithm: WarpGrad, number: int) -> list[dict[str, Any]]:
    return [timeless(iteration_metrics(result)) for result in results(algorithm, number)]


def learned(algorithm: WarpGrad) -> dict[str, bytes]:
    return as_bytes(algorithm.learner_state.to_tensors())


def test_the_example_in_the_docstring_is_true() -> None:
    found = doctest.testmod(rllib)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_results_have_the_bits_of_the_plain_loop(workers: int) -> None:
    if workers:
        start_ray()
    with running(small_run()) as run:
        expected = run.history(3)
    with building(small().env_runners(num_env_runners=workers)) as algorithm:
        assert rows(algorithm, 3) == expected.metrics
        assert learned(algorithm) == expected.tensors


def test_without_workers_ray_is_not_started() -> None:
    ray.shutdown()
    with building(small()) as algorithm:
        rows(algorithm, 1)
    assert not ray.is_initialized()


def test_without_tune_no_folder_of_results_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    with building(small()) as algorithm:
        rows(algorithm, 1)
    assert list(tmp_path.iterdir()) == []


def test_rllibs_own_keys_are_filled() -> None:
    with building(small()) as algorithm:
        first, second = results(algorithm, 2)
    assert [result["training_iteration"] for result in (first, second)] == [1, 2]
    # 5 tasks, 2 episodes, 100 steps, 3 rollouts
    lifetime = [result["num_env_steps_sampled_lifetime"] for result in (first, second)]
    assert lifetime == [3000, 6000]
    ours = iteration_metrics(second)
    assert second["env_runners"] == {
        "episode_return_mean": ours["return_step_2"],
        "num_env_steps_sampled": 3000,
        "num_env_steps_sampled_lifetime": 6000,
    }
    timers = second["timers"]
    assert timers["training_step"] == pytest.approx(
        ours["wall_s"] - iteration_metrics(first)["wall_s"]
    )
    assert timers["learner_update_timer"] == ours["time.gradient"] + ours["time.learner"]
    both = timers["env_runner_sampling_timer"] + timers["learner_update_timer"]
    assert both == pytest.approx(timers["training_step"])
    assert second["fault_tolerance"] == {"num_remote_worker_restarts": 0}
    assert second["config"]["adaptation.episodes"] == 2
    assert not second["done"]


def test_a_run_that_is_given_iterations_is_done_after_them() -> None:
    with building(small(iterations=2)) as algorithm:
        assert [result["done"] for result in results(algorithm, 2)] == [False, True]


def test_what_is_to_be_called_after_an_iteration_is_called() -> None:
    seen: list[float] = []

    def callback(*, algorithm: WarpGrad, result: dict[str, Any], **_: Any) -> None:
        seen.append(iteration_metrics(result)["iteration"])

    with building(small().callbacks(on_train_result=callback)) as algorithm:
        rows(algorithm, 2)
    assert seen == [1, 2]


class Listener(RLlibCallback):
    """Waits for episodes, which RLlib would never report here."""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small().environment("CartPole-v1"), "env = 'CartPole-v1': set family instead"),
        (small().environment(clip_rewards=True), "clip_rewards = True"),
        (
            small().training(lr=0.01),
            "lr = 0.01: set outer.warp_lr and outer.init_lr instead",
        ),
        (small().training(gamma=0.9), "gamma = 0.9: set adaptation.gamma instead"),
        (small().training(grad_clip=1.0), "grad_clip = 1.0: set outer.max_grad_norm instead"),
        (
            small().training(train_batch_size_per_learner=100),
            "train_batch_size_per_learner = 100: set tasks and adaptation.episodes instead",
        ),
        (small().training(num_epochs=3), "num_epochs = 3: set outer.epochs instead"),
        (small().learners(num_learners=2), "num_learners = 2"),
        (small().learners(num_gpus_per_learner=1), "num_gpus_per_learner = 1: set compute.device"),
        (small().evaluation(evaluation_interval=1), "evaluation_interval = 1"),
        (small().env_runners(num_envs_per_env_runner=4), "num_envs_per_env_runner = 4"),
        (small().env_runners(rollout_fragment_length=50), "rollout_fragment_length = 50"),
        (small().env_runners(explore=False), "explore = False"),
        (small().framework("tf2"), "framework_str = 'tf2'"),
        (small().callbacks(Listener), "callbacks_class = <class '"),
        (small().callbacks(on_episode_end=print), "callbacks_on_episode_end = <built-in"),
        (small().multi_agent(policies={"one", "two"}), "policies = {'"),
        (small().offline_data(input_="somewhere"), "input_ = 'somewhere'"),
        (small().rl_module(model_config={"fcnet_hiddens": [8]}), "model_config = {'fcnet_hidd"),
        (small().fault_tolerance(restart_failed_env_runners=False), "restart_failed_env_runners"),
        (small().debugging(log_level="INFO"), "log_level = 'INFO'"),
        (small().resources(num_gpus=1), "num_gpus = 1: set compute.device instead"),
    ],
)
def test_a_setting_of_rllibs_that_would_be_ignored_is_refused_in_one_line(
    config: WarpGradConfig, message: str
) -> None:
    for refuse in (config.validate, config.build_algo):
        with pytest.raises(UserError) as caught:
            refuse()
        assert str(caught.value).startswith(f"WarpGrad does not use {message}")
        assert "\n" not in str(caught.value)


def test_no_setting_of_rllibs_is_ignored() -> None:
    """Each is honoured or refused: a list names those that are honoured."""
    honoured = {
        "num_env_runners", "sample_timeout_s", "seed", "placement_strategy", "log_sys_usage",
        "callbacks_on_train_result", "callbacks_on_checkpoint_loaded",
    }  # fmt: skip
    settings = vars(AlgorithmConfig()).keys() - {"algo_class", "_is_frozen"}
    assert len(settings) > 200
    for name in settings - honoured:
        config = small()
        setattr(config, name, object())
        with pytest.raises(UserError, match="^WarpGrad does not use "):
            config.validate()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (WarpGradConfig(), "family is not set"),
        (small(family="point-navigation-v2"), "unknown family 'point-navigation-v2': did you mean"),
        (small(agent="mamml"), "unknown agent 'mamml': did you mean 'maml'?"),
        (small(**{"adaptation.inner_lrr": 1}), "unknown key 'adaptation.inner_lrr': did you mean"),
        (small(tasks=math.inf), "tasks = Infinity: "),
        (small(**{"adaptation.inner_lr": tune.uniform(0, 1)}), "adaptation.inner_lr = <ray."),
        (small(tasks=0), "tasks = 0: "),
        (small(seed=-1), "seed = -1: "),
        (small().debugging(seed=-1), "seed = -1: "),
        (small().env_runners(sample_timeout_s=-1), "compute.worker_timeout_s = -1"),
        (small().env_runners(num_env_runners=-1), "compute.workers = -1: "),
        (small().env_runners(num_env_runners=6), "compute.workers = 6: must not exceed tasks = 5"),
    ],
)
def test_a_bad_key_or_value_is_refused_in_one_line(config: WarpGradConfig, message: str) -> None:
    for refuse in (config.validate, config.build_algo):
        with pytest.raises(UserError) as caught:
            refuse()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_keys_and_settings_meet_in_one_configuration() -> None:
    config = small(**{"policy.hidden": (np.int64(4),), "adaptation.inner_lr": np.float32(0.5)})
    config.env_runners(num_env_runners=2, sample_timeout_s=90)
    run = config.run()
    assert (run.policy.hidden, run.compute.workers, run.compute.worker_timeout_s) == ((4,), 2, 90)
    assert run == WarpGradConfig().update_from_dict(config.to_dict()).run()
    compute = {"compute.workers": 2, "compute.worker_timeout_s": 90.0}
    assert run == small(**{"policy.hidden": [4], "adaptation.inner_lr": 0.5}, **compute).run()


def test_restoring_in_place_undoes_what_came_after(tmp_path: Path) -> None:
    with building(small()) as algorithm:
        rows(algorithm, 1)
        algorithm.save(str(tmp_path))
        once = rows(algorithm, 1)
        algorithm.restore(str(tmp_path))
        assert rows(algorithm, 1) == once


def test_a_saved_algorithm_is_built_again_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    variant = {"outer.type": "trpo", "outer.kl_limit": 0.02, "adaptation.inner_lr": 0.2}
    config = small(**variant, **{"compute.worker_timeout_s": 9})
    with building(config) as algorithm:
        rows(algorithm, 1)
        algorithm.save_to_path(tmp_path)
        expected = rows(algorithm, 2)
        tensors = learned(algorithm)
    again = WarpGrad.from_checkpoint(tmp_path)
    try:
        assert again.config.run() == config.run()
        assert rows(again, 2) == expected
        assert learned(again) == tensors
        assert again.training_iteration == 3
    finally:
        again.stop()  # type: ignore[no-untyped-call]


def test_a_saved_algorithm_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with building(small()) as algorithm:
        rows(algorithm, 1)
        algorithm.save(str(tmp_path))
        expected = rows(algorithm, 1)
    assert main(["evaluate", str(tmp_path), "--episodes", "1", "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == FAMILY
    assert main(["resume", str(tmp_path), "--iterations", "1"]) == 0
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["return_step_2"] == expected[0]["return_step_2"]


def test_a_broken_checkpoint_is_named_and_the_one_before_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with building(small()) as algorithm:
        for _ in range(2):
            rows(algorithm, 1)
            algorithm.save(str(tmp_path))
        (tmp_path / "checkpoints" / "2" / "state.json").unlink()
        algorithm.restore(str(tmp_path))
        assert algorithm.training_iteration == algorithm.learner_state.iteration == 1
        with pytest.raises(UserError, match="cannot read"):
            algorithm.restore(str(tmp_path / "checkpoints"))
    assert "checkpoint 2 is broken (state.json is" in caplog.text


def test_the_checkpoint_of_another_policy_is_refused_and_another_run_is_not_overwritten(
    tmp_path: Path,
) -> None:
    with building(small()) as algorithm:
        algorithm.save(str(tmp_path))
    with building(small(**{"policy.hidden": [4]})) as other:
        with pytest.raises(UserError, match=r"cannot continue: policy.hidden was \[8, 8\] and is"):
            other.restore(str(tmp_path))
        rows(other, 1)
        with pytest.raises(UserError, match="holds another run, with another policy.hidden$"):
            other.save(str(tmp_path))


def test_a_trial_asks_for_a_core_for_each_worker() -> None:
    for workers, cores in ((0, [1.0]), (3, [1.0] * 3)):
        bundles = WarpGrad.default_resource_request(
            {"family": FAMILY, "num_env_runners": workers}
        ).bundles
        assert [bundle["CPU"] for bundle in bundles if bundle.get("CPU")] == cores


def test_methods_that_would_need_parts_of_rllib_are_refused_in_one_line() -> None:
    with building(small()) as algorithm:
        for name in ABSENT:
            assert hasattr(Algorithm, name), f"RLlib has no {name} any more"
            with pytest.raises(UserError, match=f"^WarpGrad has no {name}..: (use|a run)") as error:
                getattr(algorithm, name)()
            assert "\n" not in str(error.value)


def space_as_dict() -> Any:
    """Keys of the run and settings of RLlib's side by side."""
    searched = {"adaptation.inner_lr": tune.grid_search([0.05, 0.1]), "num_env_runners": 0}
    return {"family": FAMILY, "agent": "warpgrad", "tasks": 5, "seed": 3, **KEYS, **searched}


def space_as_config() -> Any:
    """The object of RLlib, of which Tune makes a dict."""
    searched = {"adaptation.inner_lr": tune.grid_search([0.05, 0.1])}
    return small(**searched).env_runners(num_env_runners=1)


@pytest.mark.ray
@pytest.mark.parametrize("space", [space_as_dict, space_as_config])
def test_trials_of_tune_are_runs_that_can_be_continued(
    space: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_ray()
    tuner = tune.Tuner(
        WarpGrad,
        param_space=space(),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    found = tuner.fit()
    assert not found.errors and len(found) == 2
    best = found.get_best_result("env_runners/episode_return_mean", mode="max")
    assert best.metrics is not None and best.checkpoint is not None

    # Tune's sample is in the configuration, and the trial has the bits of the plain loop.
    inner_lr = best.metrics["config"]["adaptation.inner_lr"]
    with running(small_run(FAMILY, f"adaptation.inner_lr={inner_lr}")) as run:
        expected = run.history(3)
    assert timeless(iteration_metrics(best.metrics)) == expected.metrics[1]

    # It goes on in RLlib and in the commands.
    algorithm = WarpGrad.from_checkpoint(best.checkpoint)
    try:
        assert rows(algorithm, 1) == expected.metrics[2:]
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]
    capsys.readouterr()
    saved = best.checkpoint.path
    assert main(["evaluate", saved, "--episodes", "1", "--steps", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == FAMILY
