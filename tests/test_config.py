"""Configurations: typed, complete, refused in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from warprl.agents.presets import PRESETS
from warprl.launch.errors import UserError
from warprl.launch.runs.config import RunConfig, dump, flat, load, resolve

FAMILY = "point-navigation-v1"


def refusal(*settings: str, agent: str = "promp") -> str:
    with pytest.raises(UserError) as caught:
        resolve(FAMILY, agent, {}, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def stored(folder: Path, **changes: Any) -> Path:
    data = yaml.safe_load(dump(resolve(FAMILY, "promp", {"workers": 0}))) | changes
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_preset_gives_the_defaults_and_settings_override_them() -> None:
    config = resolve(
        FAMILY,
        "warpgrad",
        {"seed": 7, "workers": None},
        ["learner.lr=3e-4", "policy.hidden=[32, 16]", "policy.warp=none", "tasks=1", "seed=3"],
    )
    preset = PRESETS["warpgrad"]
    assert config.adaptation == preset.adaptation
    assert config.learner.lr == 3e-4
    assert config.learner.objective == preset.learner.objective
    assert config.policy.hidden == (32, 16)
    assert config.policy.warp is None
    assert config.seed == 7
    assert config.workers == 1, "never more workers than tasks, unless asked for"


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = resolve(FAMILY, "warpgrad", {"iterations": 5}, ["learner.lr=1e-05"])
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml") == config


def test_a_configuration_cannot_be_changed() -> None:
    config = resolve(FAMILY, "promp", {})
    with pytest.raises(ValidationError):
        config.seed = 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learner.lrr=1", "unknown key 'learner.lrr': did you mean 'learner.lr'?"),
        ("lr=1", "unknown key 'lr': did you mean 'adaptation.lr' or 'learner.lr'?"),
        ("learner.lr=fast", 'learner.lr = "fast": should be a number'),
        ("learner.lr=-1", "learner.lr = -1: should be greater than 0"),
        ("learner.lr=NaN", "learner.lr = NaN: should be a finite number"),
        ("adaptation.steps=2.5", "adaptation.steps = 2.5: should be a"),
        ("adaptation.steps=true", "adaptation.steps = true: should be a"),
        ("adaptation.steps=-1", "adaptation.steps = -1: should be greater than or equal to 0"),
        ("adaptation.gamma=1.1", "adaptation.gamma = 1.1: should be less than or equal to 1"),
        (
            "policy.warp=lineer",
            "policy.warp = \"lineer\": should be 'linear', 'residual', 'gate' or 'recurrent'",
        ),
        ("policy.hidden=[]", "policy.hidden = []: "),
        ("policy.hidden=64", "policy.hidden = 64: should be "),
        ("policy.memory=lstm", "policy.memory = \"lstm\": should be 'gru' or 'rnn'"),
        ("learner.objective=slow", 'learner.objective = "slow": should be'),
        ("learner=3", "'learner' is a section: set one of its keys, such as 'learner."),
        ("learner.lr", "--set learner.lr: expected KEY=VALUE"),
        ("family=ant-goal-v1", "'family' cannot be set"),
        ("keep=1", "keep = 1: should be greater than or equal to 2"),
        ("tasks=twenty", 'tasks = "twenty": should be'),
        ("tasks=none", "tasks = null: should be"),
        ("tasks=true", "tasks = true: should be"),
        (f"tasks={'9' * 5000}", "tasks = "),
        ("policy.hidden=" + "[" * 5000, "policy.hidden = "),
        ("workers=21", "workers = 21: must not exceed tasks = 20"),
    ],
)
def test_a_bad_setting_is_refused_with_key_value_and_remedy(setting: str, message: str) -> None:
    assert refusal(setting).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers = -1: should be greater than or equal to 0"),
        ({"iterations": 0}, "iterations = 0: should be greater than 0"),
        ({"seed": -1}, "seed = -1: should be greater than or equal to 0"),
        ({"seed": 2**40}, f"seed = {2**40}: should be less than or equal to"),
    ],
)
def test_a_bad_option_is_refused_like_a_setting(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(FAMILY, "promp", options)
    assert str(caught.value).startswith(message)


def test_unknown_names_are_refused_with_the_nearest_one() -> None:
    assert refusal(agent="warpgard") == "unknown agent 'warpgard': did you mean 'warpgrad'?"
    with pytest.raises(UserError, match="did you mean 'point-navigation-v1'"):
        resolve("point-navigation", "promp", {})


# policy.warp, adaptation.steps, learner.objective, schedule, init, loss
METHODS = {
    "warpgrad": ("gate", 3, "exact", "offline", "fomaml", "ppo"),
    "warp-leap": ("gate", 3, "exact", "offline", "leap", "ppo"),
    "warp-maml": ("gate", 1, "exact", "online", "maml", "vpg"),
    "warp-promp": ("gate", 1, "exact", "offline", "maml", "ppo"),
    "t-net": ("linear", 1, "exact", "offline", "maml", "ppo"),
    "meta-sgd": (None, 1, "exact", "offline", "maml", "ppo"),
    "promp": (None, 1, "exact", "offline", "maml", "ppo"),
    "anil": (None, 1, "exact", "offline", "maml", "ppo"),
    "boil": (None, 1, "exact", "offline", "maml", "ppo"),
    "maml": (None, 1, "exact", "online", "maml", "vpg"),
    "maml-trpo": (None, 1, "exact", "offline", "maml", "vpg"),
    "fomaml": (None, 1, "exact", "offline", "fomaml", "ppo"),
    "leap": (None, 3, "exact", "online", "leap", "ppo"),
    "reptile": (None, 3, "exact", "online", "reptile", "ppo"),
    "rl2": (None, 3, "exact", "offline", "maml", "ppo"),
    "warp-rnn": ("recurrent", 0, "two-time-scale", "online", "maml", "vpg"),
    "warp-rnn-lookahead": ("recurrent", 1, "exact", "offline", "fomaml", "ppo"),
    "multitask": (None, 0, "exact", "offline", "maml", "ppo"),
    "random": (None, 1, "exact", "offline", "fixed", "ppo"),
}


def test_every_preset_is_the_method_of_its_name() -> None:
    found = {}
    for agent in PRESETS:
        config = resolve(FAMILY, agent, {})
        learner, warp, steps = config.learner, config.policy.warp, config.adaptation.steps
        found[agent] = (
            warp, steps, learner.objective, learner.schedule, learner.init, learner.loss
        )  # fmt: skip
    assert found == METHODS
    maml = flat(resolve(FAMILY, "maml", {}))
    rare = ("policy.rates", "policy.memory", "adaptation.layers", "adaptation.by")
    unlike = {
        (agent, key): value
        for agent in PRESETS
        for key, value in flat(resolve(FAMILY, agent, {})).items()
        if key in (*rare, "learner.optimizer") and value != maml[key]
    }
    assert unlike == {
        ("meta-sgd", "policy.rates"): True,
        ("anil", "adaptation.layers"): "head",
        ("boil", "adaptation.layers"): "body",
        ("maml-trpo", "learner.optimizer"): "trpo",
        ("rl2", "policy.memory"): "gru",
        ("rl2", "adaptation.by"): "memory",
        ("warp-rnn", "policy.memory"): "rnn",
        ("warp-rnn-lookahead", "policy.memory"): "rnn",
    }


@pytest.mark.parametrize("agent", PRESETS)
def test_every_preset_resolves(agent: str) -> None:
    config = resolve(FAMILY, agent, {})
    preset = PRESETS[agent]
    assert (config.policy, config.adaptation, config.learner) == (
        preset.policy,
        preset.adaptation,
        preset.learner,
    )


@pytest.mark.parametrize(
    ("agent", "setting", "message"),
    [
        ("warpgrad", "adaptation.steps=0", "adaptation.steps = 0 (one policy for all tasks) needs"),
        ("promp", "adaptation.steps=-1", "adaptation.steps = -1: should be greater than or equal"),
        ("multitask", "policy.rates=true", "adaptation.steps = 0 (one policy for all tasks) needs"),
        ("multitask", "learner.init=leap", "adaptation.steps = 0 (one policy for all tasks) needs"),
        ("rl2", "policy.memory=none", "adaptation.by = memory needs policy.memory = gru or rnn"),
        (
            "rl2",
            "policy.warp=gate",
            "policy.memory = gru needs policy.warp = recurrent (of an",
        ),
        ("rl2", "policy.warp=recurrent", "policy.warp = recurrent needs policy.memory = rnn"),
        ("rl2", "policy.rates=true", "adaptation.by = memory needs learner.init = maml, policy.ra"),
        ("rl2", "learner.init=fomaml", "adaptation.by = memory needs learner.init = maml, policy."),
        ("warp-rnn", "policy.memory=none", "policy.warp = recurrent needs policy.memory = rnn"),
        ("warp-rnn", "adaptation.steps=1", "learner.objective = two-time-scale needs adaptation.s"),
        (
            "warp-rnn",
            "learner.objective=exact",
            "adaptation.steps = 0 (one policy for all tasks) n",
        ),
        ("warp-rnn", "learner.schedule=offline", "learner.objective = two-time-scale needs learne"),
        ("warp-rnn", "learner.optimizer=trpo", "learner.objective = two-time-scale needs learner."),
        (
            "promp",
            "policy.warped=[0]",
            "policy.warped = [0] needs policy.warp = linear, residual or gate: ",
        ),
        ("warp-rnn", "policy.warped=[0]", "policy.warped = [0] needs policy.warp = linear, resid"),
        ("warpgrad", "policy.warped=[2]", "policy.warped = [2]: should be in order and each once"),
        ("warpgrad", "policy.warped=[1, 1]", "policy.warped = [1, 1]: should be in order and e"),
        ("warpgrad", "policy.warped=[1, 0]", "policy.warped = [1, 0]: should be in order and e"),
        ("warpgrad", "policy.warped=[-1]", "policy.warped.0 = -1: should be greater than or"),
        ("warpgrad", "policy.warped=[]", "policy.warped = []: should be a list of one or more"),
        ("warpgrad", "policy.warped=1", "policy.warped = 1: should be a list of one or more"),
        ("meta-sgd", "learner.objective=approximate", "policy.rates = true needs learner.objectiv"),
        ("anil", "adaptation.layers=tail", "adaptation.layers = "),
        ("reptile", "adaptation.layers=head", "learner.init = reptile needs adaptation.layers = "),
        ("promp", "policy.log_std=1e40", "policy.log_std = 1e+40: should be less than or equal"),
        ("promp", "policy.hidden=[1000000000]", "policy.hidden.0 = 1000000000: should be less"),
        ("promp", "adaptation.episodes=1000000000000", "adaptation.episodes = 1000000000000: "),
        ("promp", "tasks=1000000000000000", "tasks = 1000000000000000: should be less than"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(
    agent: str, setting: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve(FAMILY, agent, {}, [setting])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "has schema version 2 and this warprl reads 1"),
        ({"schema_version": None}, "has schema version None"),
        ({"tasks": "many"}, 'tasks = "many": should be'),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"learner": {"objectiv": "exact"}}, "did you mean 'learner.objective'?"),
        ({"family": "gone-v1"}, "unknown family 'gone-v1'"),
        ({"agent": "gone"}, "unknown agent 'gone'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(stored(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["a: [", "just words", "", "\x00", "a: 2020-13-45", "2020-01-02: b", "x: &a [*a]", "[" * 5000],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="not"):
        load(tmp_path / "config.yaml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path)
    data = yaml.safe_load(path.read_text())
    del data["policy"]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match="key 'policy' is missing"):
        load(path)


def test_stored_values_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(UserError, match="not valid YAML"):
        load(path)
    assert not (tmp_path / "made").exists()


def test_every_key_has_a_schema() -> None:
    schema = RunConfig.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(RunConfig.model_fields)


def test_a_family_that_the_installed_mujoco_cannot_step_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = stored(tmp_path, family="half-cheetah-dir-v1")
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    attempts: list[Callable[[], object]] = [
        lambda: resolve("half-cheetah-dir-v1", "promp", {}),
        lambda: load(path),
    ]
    for attempt in attempts:
        with pytest.raises(UserError) as caught:
            attempt()
        assert str(caught.value).startswith("half-cheetah-dir-v1: this family steps on MuJoCo's")
        assert "mujoco 3.17 or newer" in str(caught.value) and "\n" not in str(caught.value)
    assert resolve(FAMILY, "promp", {}).family == FAMILY, "which is plain NumPy"
