"""Stable-Baselines3 sees the same policy as we do, in both directions."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.seeding import np_random
from helpers import perturbed
from helpers_launch import SMALL, fabricate
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from warprl import checkpoint
from warprl.agents.inner import Shard, adapt
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.rollout import Draws, collect
from warprl.envs import make_family
from warprl.envs.vector import gymnasium_id
from warprl.launch.cli import main
from warprl.launch.evaluation import ppo
from warprl.launch.evaluation import sb3_models as sb3
from warprl.launch.runs import config, stored
from warprl.seeding import generator
from warprl.types import Params, Spaces
from warprl.warp import WARP_KINDS, WarpKind

POINT, CHEETAH, ANT = "point-navigation-v1", "half-cheetah-dir-v1", "ant-dir-v1"
MAZE = "maze-11-v1"
HOPPER = "hopper-rand-params-v1"
each_warp_and_none = pytest.mark.parametrize("warp", [*WARP_KINDS, None])


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))


def make_env(family: str, task: int = 0) -> gymnasium.Env[Any, Any]:
    """The Gymnasium environment of one of a family's held-out tasks."""
    values = asdict(make_family(family).held_out_tasks()[task])
    env: gymnasium.Env[Any, Any] = gymnasium.make(gymnasium_id(family), task=values)
    return env


def some_policy(
    family: str, warp: WarpKind | None, warped: tuple[int, ...] | None = None
) -> tuple[Policy, Params, Params]:
    """A policy with large actions, so that trajectories are chaotic, and phi off the identity."""
    policy = Policy.for_spaces(
        make_family(family).spaces,
        PolicyConfig((16, 8), warp, rates=True, log_std=0.5, warped=warped),
    )
    rng = np.random.default_rng(0)
    theta, phi = (
        {name: value.float() for name, value in perturbed(params, rng, 0.3).items()}
        for params in policy.init(rng)
    )
    return policy, theta | {"weight_2": 10.0 * theta["weight_2"]}, phi


def alone(theta: Params) -> Params:
    """Parameters of one task, stacked."""
    return {name: value.unsqueeze(0) for name, value in theta.items()}


def observations(policy: Policy, n: int = 30) -> NDArray[np.float64]:
    return np.random.default_rng(1).standard_normal((n, policy.obs_dim))


def as_tensor(obs: NDArray[np.float64]) -> Tensor:
    return torch.as_tensor(obs, dtype=torch.float32).unsqueeze(0)


@each_warp_and_none
def test_an_exported_policy_acts_bit_for_bit_as_ours(warp: WarpKind | None) -> None:
    policy, theta, phi = some_policy(CHEETAH, warp)
    env = make_env(CHEETAH)
    obs = observations(policy)
    expected = policy.outputs(alone(theta), phi, as_tensor(obs))[0].numpy()
    assert isinstance(env.action_space, Box)
    bounds = env.action_space.low, env.action_space.high
    assert np.abs(expected).max() > 10.0, "some actions are past the bounds, where SB3 clips them"
    found, _ = sb3.to_ppo(policy, theta, phi, env).predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, np.clip(expected, *bounds))


@each_warp_and_none
def test_an_exported_policy_explores_as_ours(warp: WarpKind | None) -> None:
    policy, theta, phi = some_policy(POINT, warp)
    actor = sb3.to_ppo(policy, theta, phi, make_env(POINT)).policy
    obs = as_tensor(observations(policy))[0]
    torch.manual_seed(3)
    actions, _, log_prob = actor(obs)
    torch.manual_seed(3)
    noise = torch.normal(torch.zeros(1, 30, 2), torch.ones(1, 30, 2))
    ours = policy.outputs(alone(theta), phi, obs[None]) + theta["log_std"].exp() * noise
    torch.testing.assert_close(actions, ours[0])
    torch.testing.assert_close(log_prob, policy.log_prob(alone(theta), phi, obs[None], ours)[0])


@pytest.mark.parametrize("family", [POINT, CHEETAH, ANT])
@each_warp_and_none
def test_evaluate_policy_gives_the_returns_of_our_own_rollout(
    family: str, warp: WarpKind | None
) -> None:
    """Exactly: the robots are chaotic, so that one wrong bit in an action would show."""
    policy, theta, phi = some_policy(family, warp)
    envs = DummyVecEnv([lambda: make_env(family, task=1)])
    envs.seed(7)
    model = sb3.to_ppo(policy, theta, phi, make_env(family))
    found, lengths = evaluate_policy(model, envs, 2, warn=False, return_episode_rewards=True)
    rng, still = np_random(7)[0], theta | {"log_std": torch.full((policy.act_dim,), -torch.inf)}
    batch, task = make_family(family).make_batch(1), make_family(family).held_out_tasks()[1]
    for episode in range(2):
        draws = Draws([task], [rng], [rng.spawn(1)[0]])
        ours = collect(batch, policy, alone(still), phi, draws).rollout
        assert found[episode] == sum(ours.reward.double().flatten().tolist())  # type: ignore[index]
        assert lengths[episode] == ours.valid.sum()  # type: ignore[index]


@each_warp_and_none
def test_an_exported_policy_survives_saving_and_loading(warp: WarpKind | None) -> None:
    policy, theta, phi = some_policy(POINT, warp)
    model = sb3.to_ppo(policy, theta, phi, make_env(POINT))
    loaded = sb3.load_ppo(sb3.save_ppo(model))
    obs = observations(policy)
    np.testing.assert_array_equal(
        loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
    )
    torch.testing.assert_close(loaded.policy.log_std, theta["log_std"], rtol=0, atol=0)


def test_a_policy_with_a_single_warp_survives_saving_and_loading() -> None:
    policy, theta, phi = some_policy(POINT, "gate", warped=(1,))
    loaded = sb3.load_ppo(sb3.save_ppo(sb3.to_ppo(policy, theta, phi, make_env(POINT))))
    obs = observations(policy)
    expected = policy.outputs(alone(theta), phi, as_tensor(obs))[0].numpy()
    found, _ = loaded.predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, np.clip(expected, -1.0, 1.0))


def test_an_exported_policy_is_always_the_same_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    models = [sb3.to_ppo(*some_policy(POINT, "gate"), make_env(POINT)) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = (model.policy.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ppo_goes_on_with_the_task_layers_of_an_exported_policy_and_leaves_the_warps() -> None:
    model = sb3.to_ppo(*some_policy(POINT, "residual"), make_env(POINT))
    model.n_steps = model.batch_size = 50
    model._setup_model()
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(50)
    moved = {
        name
        for name, value in model.policy.state_dict().items()
        if not torch.equal(value, before[name])
    }
    actor = {name for name in before if name.startswith("action_net.")}
    assert {name for name in actor if ".theta." in name} == moved & actor


def export(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["export", *arguments, "--json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with bad input prints before it exits with status 2."""
    status = main(arguments)
    output = capsys.readouterr()
    assert (status, output.out, output.err.count("\n")) == (2, "", 1)
    return output.err


@pytest.mark.parametrize("steps", [0, 2])
def test_the_export_verb_saves_the_policy_after_so_many_inner_steps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, steps: int
) -> None:
    fabricate(tmp_path / "a", POINT, "policy.warp=gate")
    file = tmp_path / "policy.zip"
    goal = ("--task", "x=0.25", "--task", "y=-0.5")
    data = export(capsys, "a", *goal, "--steps", str(steps), "--seed", "4", "--out", str(file))
    run = stored.open_run(tmp_path / "a", None)
    shard = Shard([run.family.parse_task({"x": 0.25, "y": -0.5})], [0], 4, 0)
    config = replace(run.config.adaptation, steps=steps)
    env = run.family.make_batch(2)
    trajectory, _ = adapt(env, run.policy, run.theta, run.phi, shard, config)
    theta = {name: value[:, steps] for name, value in trajectory.theta.items()}
    obs = observations(run.policy)
    expected = run.policy.outputs(theta, run.phi, as_tensor(obs))[0].numpy()
    found, _ = PPO.load(file, device="cpu").predict(obs, deterministic=True)
    np.testing.assert_array_equal(found, np.clip(expected, -1.0, 1.0))
    assert data["returns"] == trajectory.returns[0].tolist()
    assert (data["task"], data["inner_steps"]) == ({"x": 0.25, "y": -0.5}, steps)
    made = gymnasium.make(data["environment"], task=data["task"])
    assert made.reset(seed=0)[1]["task"] == data["task"]


def test_a_task_of_many_numbers_is_named_by_its_position_or_by_lists(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", HOPPER)
    values = asdict(make_family(HOPPER).held_out_tasks()[3])
    lists = [part for k, v in values.items() for part in ("--task", f"{k}={json.dumps(v)}")]
    ways = (["--task", "3"], lists)
    found = [
        export(capsys, "a", *task, "--steps", "0", "--out", str(tmp_path / f"{number}.zip"))
        for number, task in enumerate(ways)
    ]
    assert found[0]["task"] == found[1]["task"] == json.loads(json.dumps(values))
    assert found[0]["returns"] == found[1]["returns"]
    made: gymnasium.Env[Any, Any] = gymnasium.make(found[0]["environment"], task=found[0]["task"])
    assert made.reset(seed=0)[1]["task"] == values
    assert (
        main(["export", "a", "--task", "3", "--steps", "0", "--out", str(tmp_path / "c.zip")]) == 0
    )
    text = capsys.readouterr().out
    assert f"task=asdict(make_family({HOPPER!r}).held_out_tasks()[3]))" in text


def test_what_cannot_be_exported_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", CHEETAH)
    (tmp_path / "mine.zip").write_text("dear diary")
    new, ahead = str(tmp_path / "new.zip"), ("export", "a", "--task", "direction=-1", "--out")
    for arguments, message in [
        ((*ahead, str(tmp_path / "mine.zip")), "exists, and nothing is overwritten"),
        ((*ahead, str(tmp_path / "new.tar")), "the name must end in .zip"),
        ((*ahead, str(tmp_path / "gone" / "new.zip")), "there is no folder"),
        ((*ahead, new, "--steps", "-1"), "steps = -1: must be a whole number, 0 or more"),
        ((*ahead, new, "--seed", "-1"), "seed = -1: must be a whole number, 0 or more"),
        (("export", "a", "--out", new), "--task is missing: give KEY=NUMBER for direction, or"),
        (("export", "a", "--out", new, "--task", "direction"), "--task direction: expected KEY="),
        (("export", "a", "--out", new, "--task", "direction=up"), "expected KEY=NUMBER"),
        (("export", "a", "--out", new, "--task", "direction=3"), "must be -1 or 1, got 3"),
        ((*ahead, new, "--task", "direction=1"), "--task direction=1: direction is given twice"),
        (("export", "a", "--out", new, "--task", "direction=[1"), "KEY=[NUMBER,...], or only the"),
        (("export", "a", "--out", new, "--task", "direction=[1]"), "a finite number, got [1]"),
        (
            ("export", "a", "--out", new, "--task", "2"),
            "task = 2: half-cheetah-dir-v1 has held-out",
        ),
        (("export", "a", "--out", new, "--task", "0", "--task", "1"), "--task 0: expected KEY="),
        (("export", "gone", "--out", new), "no run 'gone'"),
    ]:
        assert message in refused(capsys, *arguments)
    by_memory = ("policy.memory=gru", "policy.warp=none")
    fabricate(tmp_path / "b", CHEETAH, *by_memory)
    message = refused(capsys, "export", "b", "--task", "direction=-1", "--out", new)
    assert "has a memory (policy.memory = gru), and PPO of Stable-Baselines3 acts with" in message
    assert (tmp_path / "mine.zip").read_text() == "dear diary"
    assert not Path(new).exists()


def test_an_adaptation_that_diverges_is_not_exported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, "adaptation.inner_lr=1e38")
    file = tmp_path / "new.zip"
    assert main(["export", "a", "--task", "x=0", "--task", "y=0", "--out", str(file)]) == 1
    assert "the adaptation to x=0 y=0 diverges: not exported" in capsys.readouterr().err
    assert not file.exists()


# --- from Stable-Baselines3 -----------------------------------------------------------------------


def small_ppo(
    env: gymnasium.Env[Any, Any], hidden: tuple[int, ...] = (16, 8), **network: Any
) -> PPO:
    """An untrained MlpPolicy that does something: SB3's own last layer starts near zero."""
    settings = {"net_arch": list(hidden), "ortho_init": False, "log_std_init": -0.7} | network
    return PPO("MlpPolicy", env, policy_kwargs=settings, seed=2, device="cpu")


class Stub(gymnasium.Env[NDArray[np.float64], Any]):
    """Spaces only."""

    def __init__(self, action_space: Box | Discrete[Any], obs_dim: int = 2) -> None:
        self.observation_space = Box(-np.inf, np.inf, (obs_dim,), np.float64)
        self.action_space = action_space


@each_warp_and_none
def test_an_imported_policy_acts_as_the_sb3_policy(warp: WarpKind | None) -> None:
    """Whatever the kind of warp, for these start as the identity."""
    policy, _, _ = some_policy(CHEETAH, warp)
    model = small_ppo(make_env(CHEETAH))
    theta = sb3.from_ppo(model, policy, make_family(CHEETAH).action_space)
    fresh, phi = policy.init(np.random.default_rng(0))
    assert list(theta) == list(fresh), "the order decides how sums over parameters are rounded"
    obs = observations(policy)
    expected, _ = model.predict(obs, deterministic=True)
    assert np.ptp(expected) > 0.1
    found = policy.outputs(alone(theta), phi, as_tensor(obs))[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert theta["log_std"].tolist() == pytest.approx([-0.7] * 6)


@pytest.mark.parametrize(
    ("exported", "warped"), [("linear", None), ("linear", (0,)), ("linear", (1,)), (None, None)]
)
@each_warp_and_none
def test_an_exported_policy_comes_back_bit_for_bit(
    exported: WarpKind | None, warped: tuple[int, ...] | None, warp: WarpKind | None
) -> None:
    """Its linear warps merged; whatever the kind of warp of the new run."""
    before, theta, phi = some_policy(CHEETAH, exported, warped)
    model = sb3.load_ppo(sb3.save_ppo(sb3.to_ppo(before, theta, phi, make_env(CHEETAH))))
    policy, _, _ = some_policy(CHEETAH, warp)
    found = sb3.from_ppo(model, policy, make_family(CHEETAH).action_space)
    fresh, identity = policy.init(np.random.default_rng(0))
    assert list(found) == list(fresh), "the order decides how sums over parameters are rounded"
    obs = as_tensor(observations(policy))
    for name, ours, theirs in (
        (
            "outputs",
            policy.outputs(alone(found), identity, obs),
            before.outputs(alone(theta), phi, obs),
        ),
        ("log_std", found["log_std"], theta["log_std"]),
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)


def test_actions_are_mapped_from_the_bounds_that_the_model_was_trained_with() -> None:
    policy, _, _ = some_policy(POINT, None)
    wanted = Box(-1.0, 1.0, (2,), np.float32)
    low, high = np.array([-3.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)
    model = small_ppo(Stub(Box(low, high)))
    theta = sb3.from_ppo(model, policy, wanted)
    obs = as_tensor(observations(policy))
    given = model.policy.get_distribution(obs[0]).mode().detach().numpy()
    found = policy.outputs(alone(theta), {}, obs)[0].numpy()
    expected = -1.0 + 2.0 * (given - low) / (high - low)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    std = np.exp(-0.7) * 2.0 / (high - low)
    np.testing.assert_allclose(theta["log_std"].exp().numpy(), std, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: small_ppo(make_env(POINT), (16, 9)),
            "its layers are 2-16-9-2, from observation to action, and 2-16-8-2 are needed",
        ),
        (
            lambda: small_ppo(make_env(CHEETAH)),
            "its layers are 17-16-8-6, from observation to action, and 2-16-8-2 are needed",
        ),
        (
            lambda: small_ppo(make_env(POINT), activation_fn=nn.ReLU),
            "its hidden layers have ReLU, and only Linear with Tanh can be used",
        ),
        (
            lambda: PPO("MlpPolicy", make_env(POINT), use_sde=True, device="cpu"),
            "an MlpPolicy with Gaussian actions is needed, and this is of type ActorCriticPolicy "
            "with StateDependentNoiseDistribution",
        ),
        (
            lambda: sb3.to_ppo(*some_policy(POINT, "gate"), make_env(POINT)),
            "its warp layers are of kind gate, and an initialisation is task layers alone, into ",
        ),
    ],
)
def test_another_architecture_is_refused_in_one_line(make: Callable[[], PPO], message: str) -> None:
    policy, _, _ = some_policy(POINT, None)
    with pytest.raises(ValueError) as refusal:
        sb3.from_ppo(make(), policy, make_family(POINT).action_space)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_bounds_that_differ_and_are_not_finite_are_refused() -> None:
    policy, _, _ = some_policy(POINT, None)
    with pytest.raises(ValueError, match="not finite, so the scale of its actions is unknown"):
        sb3.from_ppo(small_ppo(make_env(POINT)), policy, Box(-np.inf, np.inf, (2,), np.float32))


def test_weights_that_are_not_finite_are_refused() -> None:
    policy, _, _ = some_policy(POINT, None)
    model = small_ppo(make_env(POINT))
    with torch.no_grad():
        model.policy.log_std.fill_(torch.nan)
    with pytest.raises(ValueError, match="its weights are not all finite"):
        sb3.from_ppo(model, policy, make_family(POINT).action_space)


# --- a choice among actions -----------------------------------------------------------------------


def choosing(warp: WarpKind | None) -> tuple[Policy, Params, Params, Stub]:
    """A policy that chooses among four actions, and an environment with its spaces."""
    env, rng = Stub(Discrete(4)), np.random.default_rng(0)
    policy = Policy.for_spaces(Spaces(2, 4), PolicyConfig((16, 8), warp))
    theta, phi = (
        {name: value.float() for name, value in perturbed(params, rng, 0.5).items()}
        for params in policy.init(rng)
    )
    return policy, theta, phi, env


@each_warp_and_none
def test_an_exported_policy_chooses_as_ours(warp: WarpKind | None) -> None:
    policy, theta, phi, env = choosing(warp)
    model = sb3.load_ppo(sb3.save_ppo(sb3.to_ppo(policy, theta, phi, env)))
    obs = observations(policy)
    logits = policy.outputs(alone(theta), phi, as_tensor(obs))
    expected = logits[0].argmax(-1).numpy()
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], expected)
    actions, _, log_prob = model.policy(as_tensor(obs)[0])
    ours = policy.log_prob(alone(theta), phi, as_tensor(obs), torch.eye(4)[actions][None])
    torch.testing.assert_close(log_prob, ours[0])


def test_an_imported_policy_chooses_as_the_sb3_policy() -> None:
    policy, fresh, phi, env = choosing("gate")
    model = small_ppo(env)
    theta = sb3.from_ppo(model, policy, Discrete(4))
    assert list(theta) == list(fresh)
    obs = observations(policy)
    logits = policy.outputs(alone(theta), policy.init(np.random.default_rng(0))[1], as_tensor(obs))
    theirs = model.policy.get_distribution(as_tensor(obs)[0])
    expected = [theirs.log_prob(torch.full((len(obs),), choice)) for choice in range(4)]
    torch.testing.assert_close(logits[0].log_softmax(-1), torch.stack(expected, -1))


def test_a_policy_with_other_actions_is_refused_in_one_line() -> None:
    choose, _, _, env = choosing(None)
    with pytest.raises(
        ValueError, match="with discrete actions is needed, and this is of type Act"
    ):
        sb3.from_ppo(small_ppo(make_env(POINT)), choose, Discrete(4))
    with pytest.raises(
        ValueError, match="with Gaussian actions is needed, and this is of type Act"
    ):
        sb3.from_ppo(small_ppo(env), some_policy(POINT, None)[0], Box(-1.0, 1.0, (2,)))


TINY = ("--workers", "0", *(part for setting in SMALL for part in ("--set", setting)))


def test_importing_needs_trust_and_the_refusal_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small_ppo(make_env(POINT), (8,)).save(tmp_path / "model.zip")
    message = refused(capsys, "train", POINT, *TINY, "--init-from", str(tmp_path / "model.zip"))
    assert "pickled objects, and loading it runs whatever code its author put in" in message
    assert "add --trust" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_what_is_no_ppo_model_of_this_shape_is_refused_before_a_run_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "text.zip").write_text("hello")
    small_ppo(make_env(POINT)).save(tmp_path / "wide.zip")
    SAC("MlpPolicy", make_env(POINT), buffer_size=10, device="cpu").save(tmp_path / "sac.zip")
    for name, reason in [
        ("gone.zip", "cannot be read: No such file or directory"),
        ("text.zip", "not a zip file"),
        ("sac.zip", "not a PPO model of Stable-Baselines3: "),
        ("wide.zip", "its layers are 2-16-8-2, from observation to action, and 2-8-2 are needed"),
    ]:
        file = str(tmp_path / name)
        message = refused(capsys, "train", POINT, *TINY, "--trust", "--init-from", file)
        assert f"--init-from {file}: {reason}" in message
    memory = (*TINY, "--set", "policy.memory=gru", "--set", "policy.warp=none")
    message = refused(capsys, "train", POINT, *memory, "--trust", "--init-from", file)
    assert "needs policy.memory = none: a policy of SB3's PPO has no memory" in message
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_training_begins_with_the_imported_policy_and_again_if_it_is_stopped_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = small_ppo(make_env(POINT), (8,))
    model.save(tmp_path / "model.zip")
    source = ("--init-from", str(tmp_path / "model.zip"), "--trust")
    assert main(["train", POINT, *TINY, *source, "--iterations", "1", "--run", "a"]) == 0
    folder = tmp_path / "a"
    resolved = config.load(folder / "config.yaml")
    theta, phi = stored.initial(folder, resolved)
    expected = sb3.from_ppo(model, resolved.network, make_family(POINT).action_space)
    assert all(torch.equal(theta[name], expected[name]) for name in expected)
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    # Every task starts at the origin, so the first returns tell which policy played them.
    first = stored.load_checkpoint(folder, resolved, 1).tensors
    assert not torch.equal(first["theta.weight_0"], stored.fresh(resolved)[0]["weight_0"])
    assert torch.allclose(first["theta.weight_0"], expected["weight_0"], atol=0.01)
    shutil.rmtree(folder / "checkpoints")
    assert main(["resume", "a"]) == 0
    (again,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(again)["return_step_1"] == json.loads(line)["return_step_1"]
    second = stored.load_checkpoint(folder, resolved, 1).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)
    capsys.readouterr()


def test_an_imported_start_that_was_damaged_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    resolved = config.load(tmp_path / "a" / "config.yaml")
    theta, _ = stored.fresh(resolved)
    stored.save_imported(tmp_path / "a", stored.Imported(theta, {"file": "model.zip"}))
    (tmp_path / "a" / "init" / "0" / checkpoint.TENSORS).write_bytes(b"")
    message = refused(capsys, "evaluate", "a", "--untrained", "--steps", "1")
    assert "the imported initialisation cannot be used: no usable checkpoint in " in message


# --- PPO as a reference ---------------------------------------------------------------------------

SMALL_AGENT = ppo.Likeness((8,), log_std=0.0, gamma=0.99, lam=0.95, pretrain_steps=0)


def reference(family: str, seed: int = 0) -> PPO:
    """PPO from scratch on one task; its updates are as small as an inner step of two episodes."""
    horizon = make_family(family).horizon
    return ppo.new_ppo(lambda: make_env(family), SMALL_AGENT, 2, horizon, seed)


@pytest.mark.parametrize(
    ("family", "numbers"), [(CHEETAH, 1), (POINT, 2), (MAZE, 2), ("hopper-rand-params-v1", 41)]
)
def test_the_oracle_sees_the_task(family: str, numbers: int) -> None:
    plain: gymnasium.Env[Any, Any] = gymnasium.make(gymnasium_id(family))
    env = ppo.TaskObservation(plain, numbers)
    seen = set()
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        expected = np.hstack(list(info["task"].values())).tolist()
        assert observation[-numbers:].tolist() == expected
        assert observation in env.observation_space
        assert observation[:-numbers].tolist() == plain.reset(seed=seed)[0].tolist()
        after = env.step(np.zeros_like(env.action_space.sample()))[0]
        assert after[-numbers:].tolist() == expected
        seen.add(tuple(expected))
    assert len(seen) > 1, "the tasks differ, and were seen to"


def test_an_oracle_of_tasks_of_several_lengths_sees_zeros_behind_the_short_ones() -> None:
    env = ppo.TaskObservation(gymnasium.make(gymnasium_id(POINT)), 5)
    observation, info = env.reset(seed=0)
    assert observation[-5:].tolist() == [info["task"]["x"], info["task"]["y"], 0.0, 0.0, 0.0]
    assert observation in env.observation_space


def test_a_reference_learns_from_as_many_environment_steps_as_our_adaptation() -> None:
    model = reference(POINT)
    row = ppo.learning_row(model, lambda: make_env(POINT), steps=3, episodes=2, seed=1)
    assert len(row) == 4
    assert model.num_timesteps == 3 * 2 * make_family(POINT).horizon
    assert model._n_updates == 3 * model.n_epochs
    assert row[0] != row[1]


def test_a_reference_has_the_network_and_the_exploration_of_the_agent_it_is_compared_with() -> None:
    agent = ppo.Likeness((5, 4), log_std=-0.3, gamma=0.9, lam=0.8, pretrain_steps=0)
    model = ppo.new_ppo(lambda: make_env(POINT), agent, 2, 100, 0)
    widths = [x.out_features for x in model.policy.modules() if isinstance(x, nn.Linear)]
    assert widths == [5, 4, 5, 4, 2, 1]
    assert model.policy.log_std.tolist() == pytest.approx([-0.3, -0.3])
    assert (model.gamma, model.gae_lambda) == (0.9, 0.8)


def test_fine_tuning_begins_with_the_trained_model_and_leaves_it_as_it_was() -> None:
    trained = reference(POINT, seed=1).learn(200)
    kept = {name: value.clone() for name, value in trained.policy.state_dict().items()}
    model = reference(POINT, seed=2)
    ppo.take_over(model, trained)
    obs = np.random.default_rng(0).standard_normal((5, 2))
    actions, _ = trained.predict(obs, deterministic=True)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], actions)
    model.learn(200)
    assert not np.array_equal(model.predict(obs, deterministic=True)[0], actions)
    assert all(torch.equal(value, kept[n]) for n, value in trained.policy.state_dict().items())


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """A comparison with references, row by row."""
    assert main(["compare", *arguments, "--episodes", "2", "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {group["group"]: group for group in summary["groups"]} | {"folder": summary["folder"]}


def test_references_stand_beside_a_run_under_its_protocol_and_are_the_same_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warprl.launch.evaluation.evaluate.ADAPTATIONS", 2)
    fabricate(tmp_path / "a", CHEETAH)
    words = ("untrained", "scratch", "finetuned", "oracle")
    first, second = (
        compared(capsys, "a", "--steps", "2", "--with", ",".join(order))
        for order in (words, words[::-1])
    )
    assert list(first) == ["warpgrad", *words, "folder"]
    assert all(first[word] == second[word] for word in words)
    assert [first[word]["reference"] for word in words] == list(words)
    (alone,) = (compared(capsys, "a", "--steps", "2")[key] for key in ["warpgrad"])
    assert first["warpgrad"]["curve"] == alone["curve"]
    assert first["untrained"]["curve"] == alone["curve"], "the run was saved untrained"
    oracle = [point["mean"] for point in first["oracle"]["curve"]]
    assert oracle[0] == oracle[1] == oracle[2]
    assert first["scratch"]["curve"][0] != first["scratch"]["curve"][2]
    # One iteration of 2 tasks, 2 episodes of 100 steps before and after the inner step.
    trained = {word: first[word]["env_steps"] for word in words}
    assert trained == {"untrained": 0, "scratch": 0, "finetuned": 800, "oracle": 800}


def test_a_row_of_scratch_is_ppo_on_that_task_alone_and_references_csv_has_every_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warprl.launch.evaluation.evaluate.ADAPTATIONS", 4)
    fabricate(tmp_path / "a", CHEETAH)
    found = compared(capsys, "a", "--steps", "2", "--with", "scratch")
    with (Path(found["folder"]) / "references.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["task"], row["repeat"]) for row in rows] == [
        ("scratch", task, repeat) for repeat in "01" for task in "01"
    ]
    learn, play = (int(x) for x in generator(0, "reset", task=2).integers(2**31, size=2))

    def alone() -> gymnasium.Env[Any, Any]:
        return make_env(CHEETAH, task=1)

    model = ppo.new_ppo(alone, SMALL_AGENT, 2, make_family(CHEETAH).horizon, learn)
    expected = ppo.learning_row(model, alone, 2, 2, play)
    assert [float(rows[1][f"return_step_{k}"]) for k in range(3)] == expected
    means = np.mean([[float(row[f"return_step_{k}"]) for k in range(3)] for row in rows], axis=0)
    assert [point["mean"] for point in found["scratch"]["curve"]] == pytest.approx(means)


def test_runs_that_ppo_would_be_like_in_the_same_way_share_their_references(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warprl.launch.evaluation.evaluate.ADAPTATIONS", 2)
    fabricate(tmp_path / "a", CHEETAH, "seed=1")
    fabricate(tmp_path / "b", CHEETAH, "outer.warp_lr=0.5")
    fabricate(tmp_path / "c", CHEETAH, "policy.hidden=[4]")
    rows = compared(capsys, "a", "b", "--steps", "1", "--with", "scratch")
    assert [name for name in rows if name.startswith("scratch")] == ["scratch"]
    rows = compared(capsys, "a", "c", "--steps", "1", "--with", "scratch")
    assert [name for name in rows if name.startswith("scratch")] == [
        "scratch (warpgrad policy.hidden=[8])",
        "scratch (warpgrad policy.hidden=[4])",
    ]


def test_a_family_of_ones_own_has_references_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warprl.launch.evaluation.evaluate.ADAPTATIONS", 2)
    fabricate(tmp_path / "a", "helpers_gym:CART")
    words = "scratch,finetuned,oracle"
    options = ("--steps", "1", "--episodes", "2", "--with", words)
    assert main(["compare", "a", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["warpgrad", *words.split(",")]
    notes = [line for line in lines if line.startswith("oracle: ")]
    assert len(notes) == 1 and "it does not adapt" in notes[0]
