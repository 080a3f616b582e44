"""Configurations: typed, complete, refused in one line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Gt
from pydantic import ValidationError

from warprl.adam import Adam
from warprl.agents.inner import GradientAdaptation
from warprl.agents.meta import Agent, Experiment
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.envs import make_family
from warprl.initialisation import LEARNED_INIT
from warprl.keys import LEARNING, Key
from warprl.launch.cli import main
from warprl.launch.errors import UserError
from warprl.launch.runs import key_table, reference
from warprl.launch.runs.config import (
    KEYS,
    VARIANTS,
    RunConfig,
    differences,
    dump,
    flat,
    load,
    resolve,
)
from warprl.learner import LearnerConfig, Outer, Vpg
from warprl.natural_step import Trpo
from warprl.objective import TwoTimeScale

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
        ["outer.init_lr=3e-4", "policy.hidden=[32, 16]", "policy.warp=none", "tasks=1", "seed=3"],
    )
    preset = PRESETS["warpgrad"]
    assert config.adaptation == preset.adaptation
    assert config.outer == Adam(init_lr=3e-4, kl_target=0.04), "the latter of the preset"
    assert config.loss == preset.learner.loss
    assert config.policy.hidden == (32, 16)
    assert config.policy.warp is None
    assert config.seed == 7
    assert config.compute.workers == 1, "never more workers than tasks, unless asked for"


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = resolve(FAMILY, "warpgrad", {"iterations": 5}, ["outer.warp_lr=1e-05"])
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("agent", PRESETS)
@pytest.mark.parametrize("family", [FAMILY, "maze-11-v1"])
def test_every_preset_survives_its_file(family: str, agent: str, tmp_path: Path) -> None:
    config = resolve(family, agent, {})
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml") == config


def test_configurations_of_different_agents_differ_in_keys_that_both_have() -> None:
    configs = [resolve(FAMILY, agent, {}) for agent in PRESETS]
    for left in configs:
        for right in configs:
            found = differences(left, right)
            assert ("agent" in found) == (left is not right)
            assert set(found) <= flat(left).keys() & flat(right).keys()
            others = [key for key in found if key != "agent"]
            alike = replace_agent(left) == replace_agent(right)
            assert alike == (others == [])


def replace_agent(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"agent": ""})


def test_the_keys_of_another_variant_have_its_defaults() -> None:
    config = resolve(FAMILY, "warpgrad", {}, ["outer.kl_limit=0.05", "outer.type=trpo"])
    assert config.outer == Trpo(kl_limit=0.05)
    assert resolve(FAMILY, "warpgrad", {}, ["outer.type=trpo"]).outer == Trpo()
    same = resolve(FAMILY, "warpgrad", {}, ["outer.type=adam"])
    assert same.outer == PRESETS["warpgrad"].learner.outer, "which has values of its own"


def test_what_a_preset_sets_and_a_setting_makes_useless_is_left_out() -> None:
    config = resolve(FAMILY, "warp-leap", {}, ["policy.warp=none"])
    assert config == resolve(FAMILY, "warp-leap", {}, ["policy.warp=none", "outer.epochs=5"])
    assert "outer.kl_target" not in flat(config)
    assert config.outer == Adam(), "with the default in place of the preset's value"


def test_a_configuration_cannot_be_changed() -> None:
    config = resolve(FAMILY, "promp", {})
    with pytest.raises(ValidationError):
        config.seed = 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("outer.warp_lrr=1", "unknown key 'outer.warp_lrr': did you mean 'outer.warp_lr'?"),
        ("warp_lr=1", "unknown key 'warp_lr': did you mean 'outer.warp_lr'?"),
        ("type=1", "unknown key 'type': did you mean 'adaptation.type' or 'objective.type' or"),
        ("outer.init_lr=fast", 'outer.init_lr = "fast": should be a number'),
        ("outer.init_lr=-1", "outer.init_lr = -1: should be greater than 0"),
        ("outer.init_lr=NaN", "outer.init_lr = NaN: should be a finite number"),
        ("outer.betas=[0.9]", "outer.betas = [0.9]: should be a list of 2, each a number >= 0 and"),
        ("outer.betas=[0.9, 1]", "outer.betas.1 = 1: should be less than 1"),
        ("adaptation.steps=2.5", "adaptation.steps = 2.5: should be a whole number"),
        ("adaptation.steps=true", "adaptation.steps = true: should be a whole number"),
        ("adaptation.steps=-1", "adaptation.steps = -1: should be greater than or equal to 0"),
        ("adaptation.gamma=1.1", "adaptation.gamma = 1.1: should be less than or equal to 1"),
        (
            "policy.warp=lineer",
            'policy.warp = "lineer": should be none or linear, residual, gate, recurrent',
        ),
        ("policy.hidden=[]", "policy.hidden = []: "),
        ("policy.hidden=64", "policy.hidden = 64: should be "),
        ("policy.memory=lstm", 'policy.memory = "lstm": should be none or gru, rnn'),
        ("init=slow", 'init = "slow": should be fixed, leap, reptile, fomaml, maml'),
        ("outer.type=sgd", "outer.type = \"sgd\": should be 'adam' or 'trpo'"),
        ("outer.type=[1]", "outer.type = [1]: should be 'adam' or 'trpo'"),
        ("outer=3", "'outer' is a section: set one of its keys, such as 'outer.type'"),
        ("outer.init_lr", "--set outer.init_lr: expected KEY=VALUE, such as outer.init_lr=3e-4"),
        ("family=ant-goal-v1", "'family' cannot be set"),
        ("output.keep=1", "output.keep = 1: should be greater than or equal to 2"),
        ("tasks=twenty", 'tasks = "twenty": should be'),
        ("tasks=none", "tasks = null: should be"),
        ("tasks=true", "tasks = true: should be"),
        (f"tasks={'9' * 5000}", "tasks = "),
        ("policy.hidden=" + "[" * 5000, "policy.hidden = "),
        ("compute.workers=21", "compute.workers = 21: must not exceed tasks = 20"),
        ('output.writers=["tensorbord"]', 'output.writers = ["tensorbord"]: did you mean'),
        ("output.writers=tensorboard", 'output.writers = "tensorboard": should be a list of names'),
        ("policy.rates=2", "policy.rates = 2: should be true or false"),
        ("compute.device=tpu", 'compute.device = "tpu": should be cpu, cuda or cuda:N'),
        ("compute.device=cuda:99", "compute.device = cuda:99: this machine has only cpu"),
    ],
)
def test_a_bad_setting_is_refused_with_key_value_and_remedy(setting: str, message: str) -> None:
    assert refusal(setting).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "compute.workers = -1: should be greater than or equal to 0"),
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


# policy.warp, adaptation.steps, init, objective, loss, outer; None where there is no choice
METHODS = {
    "warpgrad": ("gate", 3, "fomaml", "look-ahead", "ppo", "adam"),
    "warp-leap": ("gate", 3, "leap", "look-ahead", "ppo", "adam"),
    "warp-maml": ("gate", 1, "maml", "look-ahead", None, "adam"),
    "warp-promp": ("gate", 1, "maml", "look-ahead", "ppo", "adam"),
    "t-net": ("linear", 1, "maml", "look-ahead", "ppo", "adam"),
    "meta-sgd": (None, 1, "maml", "look-ahead", "ppo", "adam"),
    "promp": (None, 1, "maml", None, "ppo", "adam"),
    "anil": (None, 1, "maml", None, "ppo", "adam"),
    "boil": (None, 1, "maml", None, "ppo", "adam"),
    "maml": (None, 1, "maml", None, None, "adam"),
    "maml-trpo": (None, 1, "maml", None, "vpg", "trpo"),
    "fomaml": (None, 1, "fomaml", None, "ppo", "adam"),
    "leap": (None, 3, "leap", None, None, "adam"),
    "reptile": (None, 3, "reptile", None, None, "adam"),
    "rl2": (None, 3, "maml", None, "ppo", "adam"),
    "warp-rnn": ("recurrent", 0, "maml", "two-time-scale", None, "adam"),
    "warp-rnn-lookahead": ("recurrent", 1, "fomaml", "look-ahead", "ppo", "adam"),
    "multitask": (None, 0, "maml", None, "ppo", "adam"),
    "random": (None, 1, "fixed", None, None, None),
}
ONE_STEP = {"warp-maml", "maml", "leap", "reptile", "warp-rnn"}


def test_every_preset_is_the_method_of_its_name() -> None:
    chosen = ("policy.warp", "adaptation.steps", "init")
    kinds = ("objective.type", "loss.type", "outer.type")
    keys = {agent: flat(resolve(FAMILY, agent, {})) for agent in PRESETS}
    found = {agent: tuple(keys[agent].get(name) for name in (*chosen, *kinds)) for agent in PRESETS}
    assert found == METHODS
    once = {
        a
        for a in PRESETS
        if (keys[a].get("outer.epochs"), keys[a].get("outer.minibatches")) == (1, 1)
    }
    assert once == ONE_STEP
    usual = {
        "policy.rates": False,
        "policy.memory": None,
        "adaptation.layers": "all",
        "adaptation.type": "gradient",
        "objective.kind": "exact",
    }
    unlike = {
        (agent, key): keys[agent][key]
        for agent in PRESETS
        for key in usual
        if keys[agent].get(key, usual[key]) != usual[key]
    }
    assert unlike == {
        ("meta-sgd", "policy.rates"): True,
        ("anil", "adaptation.layers"): "head",
        ("boil", "adaptation.layers"): "body",
        ("rl2", "policy.memory"): "gru",
        ("rl2", "adaptation.type"): "memory",
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
        ("multitask", "init=leap", "adaptation.steps = 0 (one policy for all tasks) needs"),
        ("rl2", "policy.memory=none", "adaptation.type = memory needs policy.memory = gru or rnn"),
        ("rl2", "policy.warp=gate", "policy.memory = gru needs policy.warp = recurrent (of an"),
        ("rl2", "policy.warp=recurrent", "policy.warp = recurrent needs policy.memory = rnn"),
        ("rl2", "policy.rates=true", "adaptation.type = memory needs init = maml, policy.rates"),
        ("rl2", "init=fomaml", "adaptation.type = memory needs init = maml, policy."),
        ("warp-rnn", "policy.memory=none", "policy.warp = recurrent needs policy.memory = rnn"),
        ("warp-rnn", "adaptation.steps=1", "objective.type = two-time-scale needs adaptation.s"),
        ("warp-rnn", "objective.type=look-ahead", "adaptation.steps = 0 (one policy for all tas"),
        ("warp-rnn", "outer.epochs=2", "objective.type = two-time-scale needs outer.type = adam, "),
        ("warp-rnn", "outer.type=trpo", "objective.type = two-time-scale needs outer.type = adam"),
        ("warpgrad", "policy.warped=[2]", "policy.warped = [2]: should be in order and each once"),
        ("warpgrad", "policy.warped=[1, 1]", "policy.warped = [1, 1]: should be in order and e"),
        ("warpgrad", "policy.warped=[1, 0]", "policy.warped = [1, 0]: should be in order and e"),
        ("warpgrad", "policy.warped=[-1]", "policy.warped.0 = -1: should be greater than or"),
        ("warpgrad", "policy.warped=[]", "policy.warped = []: should be a list of 1 to 32"),
        ("warpgrad", "policy.warped=1", "policy.warped = 1: should be a list of 1 to 32"),
        ("meta-sgd", "objective.kind=approximate", "policy.rates = true needs objective.kind = e"),
        ("anil", "adaptation.layers=tail", "adaptation.layers = "),
        ("reptile", "adaptation.layers=head", "init = reptile needs adaptation.layers = "),
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
    ("agent", "setting", "message"),
    [
        ("promp", "policy.warped=[0]", "policy.warp = linear, residual or gate"),
        ("promp", "outer.warp_lr=0.01", "policy.warp or policy.rates = true"),
        ("promp", "objective.kind=approximate", "policy.warp or policy.rates = true"),
        ("promp", "objective.type=two-time-scale", "policy.warp or policy.rates = true"),
        ("warpgrad", "outer.init_lr=0.01", "init = leap, reptile, fomaml or maml"),
        ("maml", "loss.clip=0.2", "outer.epochs or outer.minibatches above 1"),
        ("maml", "outer.kl_target=0.1", "outer.epochs or outer.minibatches above 1"),
        ("leap", "loss.type=vpg", "policy.warp, policy.rates = true or init = fomaml or maml"),
        ("random", "outer.type=trpo", "policy.warp, policy.rates = true or a learned init"),
        ("random", "outer.max_grad_norm=2", "policy.warp, policy.rates = true or a learned init"),
    ],
)
def test_a_key_that_does_nothing_is_refused_and_its_choice_named(
    agent: str, setting: str, message: str
) -> None:
    beside = ["init=fixed"] if agent == "warpgrad" else []
    said = refusal(setting, *beside, agent=agent)
    key, _, value = setting.partition("=")
    assert said.startswith(f"{key} = ") and value in said
    assert f" does nothing here: it belongs to {message}" in said


def test_discrete_actions_have_no_standard_deviation() -> None:
    assert "policy.log_std" not in flat(resolve("maze-v1", "promp", {}))
    with pytest.raises(UserError, match="it belongs to a family with continuous actions"):
        resolve("maze-v1", "promp", {}, ["policy.log_std=-1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["outer.type=trpo", "outer.kl_target=0.1"],
            "outer.kl_target belongs to outer.type = adam, and outer.type is trpo",
        ),
        (
            ["objective.warp_every=2"],
            "objective.warp_every belongs to objective.type = two-time-scale, and objective.type",
        ),
    ],
)
def test_a_key_of_another_variant_is_refused(settings: list[str], message: str) -> None:
    assert refusal(*settings, agent="warpgrad").startswith(message)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("learner.lr=1", "'outer.warp_lr'"),
        ("adaptation.lr=1", "'adaptation.inner_lr'"),
        ("learner.optimizer=trpo", "'outer.type'"),
        ("learner.schedule=online", "'outer.epochs' and 'outer.minibatches'"),
        ("workers=1", "'compute.workers'"),
        ("keep=3", "'output.keep'"),
    ],
)
def test_the_new_name_of_an_old_key_is_told(setting: str, names: str) -> None:
    old = setting.partition("=")[0]
    assert refusal(setting) == f"unknown key {old!r}: it is now {names}"


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (LearnerConfig(init="maml", outer=Adam(warp_lr=0.5)), "outer.warp_lr = 0.5 does nothing"),
        (LearnerConfig(init="leap", loss=Vpg()), 'loss.type = "vpg" does nothing here'),
        (LearnerConfig(outer=Trpo()), 'outer.type = "trpo" does nothing here'),
        (LearnerConfig(TwoTimeScale(), "maml"), 'objective.type = "two-time-scale" does nothing'),
    ],
)
def test_a_python_object_with_a_key_that_does_nothing_is_refused(
    learner: LearnerConfig, message: str
) -> None:
    family = make_family(FAMILY)
    policy = Policy.for_spaces(family.spaces, PolicyConfig())
    with pytest.raises(ValueError, match=re.escape(message)):
        Experiment(family, Agent(policy, GradientAdaptation(), learner), 2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 3}, "has schema version 3 and this warprl reads 1 and 2"),
        ({"schema_version": None}, "has schema version None"),
        ({"tasks": "many"}, 'tasks = "many": should be'),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"outer": {"type": "adam", "epoch": 1}}, "'outer.epoch': did you mean 'outer.epochs'?"),
        ({"outer": {"type": "sgd"}}, "outer.type = \"sgd\": should be 'adam' or 'trpo'"),
        ({"outer": {"epochs": 1}}, "key 'outer.type' is missing"),
        ({"outer": {"type": "adam", "epochs": 0}}, "outer.epochs = 0: should be greater than 0"),
        (
            {"outer": {"type": "trpo", "epochs": 1}},
            "outer.epochs belongs to outer.type = adam, and",
        ),
        ({"objective": {"type": "look-ahead"}}, 'objective.type = "look-ahead" does nothing here'),
        ({"learner": {"lr": 1.0}}, "unknown key 'learner'"),
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
    ["a: [", "just words", "", "\x00", "a: 2020-13-45", "2020-01-02: b", "[" * 5000],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="not"):
        load(tmp_path / "config.yaml")


@pytest.mark.parametrize("key", ["policy", "adaptation", "init", "loss", "outer"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    path = stored(tmp_path)
    data = yaml.safe_load(path.read_text())
    del data[key]
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=f"key '{key}' is missing"):
        load(path)


# --- schema 1 ---------------------------------------------------------------------------------

OLD = {
    "schema_version": 1,
    "family": FAMILY,
    "agent": "promp",
    "workers": 1,
    "keep": 5,
    "policy": {},
    "adaptation": {"lr": 0.2},
    "learner": {"init": "maml", "lr": 0.5, "init_lr": 0.01},
}


def old(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(OLD | changes))
    return path


def test_a_run_of_schema_1_is_read_in_the_words_of_schema_2(tmp_path: Path) -> None:
    settings = ["output.keep=5", "adaptation.inner_lr=0.2", "outer.init_lr=0.01"]
    expected = resolve(FAMILY, "promp", {"workers": 1}, settings)
    assert load(old(tmp_path)) == expected, "without the step size of warps that there are not"
    online = {"init": "maml", "schedule": "online", "epochs": 9, "loss": "vpg"}
    expected = resolve(FAMILY, "maml", {"workers": 1}, [*settings[:2], "outer.init_lr=0.001"])
    assert load(old(tmp_path, learner=online, agent="maml")) == expected


def test_a_run_of_schema_1_that_took_no_inner_step_keeps_those_of_its_evaluation(
    tmp_path: Path,
) -> None:
    without = {"steps": 0, "lr": 1.5, "layers": "head"}
    found = load(old(tmp_path, agent="multitask", adaptation=without)).adaptation
    assert found == GradientAdaptation(steps=0, inner_lr=1.5, layers="head")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": {"objectiv": "exact"}}, "unknown key 'learner.objectiv': did you mean 'learn"),
        ({"learner": {"schedule": "sometimes"}}, "learner.schedule = 'sometimes': should be"),
        ({"learner": {"optimizer": "sgd"}}, "outer.type = \"sgd\": should be 'adam' or 'trpo'"),
        (
            {"learner": {"objective": "slow"}},
            'objective.kind = "slow": should be exact, approximate',
        ),
        ({"learner": 3}, "key 'learner' is missing"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_file_of_schema_1_that_is_wrong_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = old(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


# --- descriptions -------------------------------------------------------------------------------


def test_every_key_is_described_in_one_short_line() -> None:
    entries = [entry for found in KEYS.values() for entry in found]
    assert len(entries) > 30
    for entry in entries:
        assert entry.key.meaning and "\n" not in entry.key.meaning and len(entry.key.meaning) <= 75


@dataclass(frozen=True)
class Wider(Adam):
    """An outer step with one more key: a key needs no other edit."""

    type: Annotated[Literal["wider"], Key("for this test", LEARNING)] = "wider"  # type: ignore[assignment]
    slack: Annotated[float, Gt(0), Key("room to move", LEARNED_INIT)] = 0.5


class Wide(RunConfig):
    """A configuration with that outer step."""

    outer: Wider = Wider()


@pytest.mark.parametrize("kind", VARIANTS["outer"].values(), ids=list(VARIANTS["outer"]))
def test_an_outer_step_names_its_key_that_bounds_it(kind: type[Outer]) -> None:
    (entry,) = (e for e in KEYS[f"outer.{kind.step_key}"] if e.variant == kind.type)
    assert entry.default > 0


def test_a_key_is_added_in_one_place() -> None:
    (entry,) = (entry for entry in key_table.entries(Wide) if entry.path == "outer.slack")
    assert (entry.default, entry.values, entry.key.meaning) == (0.5, "number > 0", "room to move")
    assert key_table.defaults(key_table.variants(Wide)["outer"]["wider"])["slack"] == 0.5
    config = resolve(FAMILY, "promp", {})
    wide = Wide(
        **{name: getattr(config, name) for name in config.model_dump()} | {"outer": Wider()}
    )
    assert flat(wide)["outer.slack"] == 0.5
    assert "outer.slack" not in flat(wide.model_copy(update={"init": "fixed"}))


def test_the_reference_page_is_the_one_that_the_code_writes() -> None:
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference.page(), "run: make reference"


def test_explain_tells_each_key_with_value_meaning_and_choices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", FAMILY, "--agent", "maml", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(flat(resolve(FAMILY, "maml", {})))
    (line,) = (line for line in lines if line.startswith("outer.type"))
    assert re.fullmatch(r"outer.type +adam +\S.* \[adam, trpo\]", line)
    assert main(["config", FAMILY, "--explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == {
        "value": 20,
        "meaning": "tasks of a meta-batch",
        "takes": "whole number > 0 and <= 10,000",
    }


def test_stored_values_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(UserError, match="not valid YAML"):
        load(path)
    assert not (tmp_path / "made").exists()


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
