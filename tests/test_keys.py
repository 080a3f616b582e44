"""Every key of every agent: it changes the result, says how a run is carried out, or is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import torch

from warprl.agents.consistency import Choices
from warprl.agents.inner import GradientAdaptation, Shard, adapt
from warprl.agents.meta import Experiment, InProcess, iterate
from warprl.agents.policy import PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.keys import from_plain
from warprl.launch.errors import UserError
from warprl.launch.runs.config import CARRIED_OUT, KEYS, RunConfig, flat, resolve
from warprl.launch.training.loop import experiment_of
from warprl.params import select
from warprl.seeding import generator
from warprl.types import Params

POINT, MAZE = "point-navigation-v1", "maze-11-v1"
CASES = [*((POINT, agent) for agent in PRESETS), (MAZE, "promp"), (MAZE, "warp-rnn")]
HORIZON = 4
# Small, and so that two iterations show a difference: the clip is reached, and warps take steps.
SMALL = {
    "tasks": 2,
    "adaptation.episodes": 2,
    "policy.hidden": [4, 3],
    "loss.clip": 1e-3,
    "objective.warp_every": 1,
}
ASIDE = (*CARRIED_OUT, "family", "agent")
# Values that make a difference within two iterations; twice the value does for other numbers.
OTHERS: dict[str, list[Any]] = {
    "seed": [1],
    "tasks": [3],
    "policy.hidden": [[5, 3], [4]],
    "policy.warped": [[0], [1]],
    "policy.log_std": [-1.0],
    "adaptation.steps": [0, 2],
    "adaptation.episodes": [3],
    "adaptation.gamma": [0.5],
    "adaptation.lam": [0.3],
    "objective.warp_every": [2],
    "loss.clip": [0.3],
    "outer.betas": [[0.5, 0.9]],
    "outer.weight_decay": [0.1],
    "outer.max_grad_norm": [1e-4],
    "outer.kl_coefficient": [100.0],
    "outer.kl_target": [1e-9],
    "outer.kl_limit": [1e-9],
}


class Outcome(NamedTuple):
    """What is found, but for the weight of the penalty: there may be none."""

    tensors: Params
    numbers: list[float]


def outcomes(experiment: Experiment) -> Iterator[Outcome]:
    """Of two iterations, and of an inner step after them, on episodes that are cut short.

    A policy that was trained without inner steps is evaluated and exported with some.
    """
    family = copy.copy(experiment.family)
    family.horizon = HORIZON
    experiment = replace(experiment, family=family)
    sampler, state = InProcess(experiment), experiment.agent.init(experiment.seed)
    for _ in range(2):
        state, metrics, _ = iterate(experiment, sampler, state)
        returns = [value for name, value in metrics.items() if name.startswith("return_step_")]
        yield Outcome(state.to_tensors(), [*returns, state.step_scale])

    agent = experiment.agent
    if isinstance(agent.adaptation, GradientAdaptation):
        one_step = replace(agent.adaptation, steps=1)
        tasks = family.sample_tasks(generator(experiment.seed, "tasks", iteration=1), 2)
        shard = Shard(tasks, [0, 1], experiment.seed, 1)
        env = family.make_batch(len(tasks) * one_step.episodes)
        adapted, _ = adapt(env, agent.policy, state.theta, state.phi, shard, one_step)
        yield Outcome(select(adapted.theta, slice(None), 1), adapted.returns.flatten().tolist())


@cache
def usual(family: str, agent: str) -> tuple[RunConfig, list[Outcome]]:
    """The small configuration of a preset, and its outcomes."""
    torch.set_num_threads(1)
    keys = flat(resolve(family, agent, {}))
    config = resolve(family, agent, {"workers": 0}, [said(k, SMALL[k]) for k in SMALL if k in keys])
    return config, list(outcomes(experiment_of(config)))


def same(config: RunConfig, expected: list[Outcome], tolerance: float = 0.0) -> bool:
    """Whether a configuration has these outcomes; it ends with the first difference."""
    return all(map(partial(alike, tolerance), outcomes(experiment_of(config)), expected))


def alike(tolerance: float, left: Outcome, right: Outcome) -> bool:
    return (
        left.numbers == pytest.approx(right.numbers, rel=tolerance, abs=tolerance)
        and left.tensors.keys() == right.tensors.keys()
        and all(
            x.shape == y.shape and torch.allclose(x, y, rtol=tolerance, atol=tolerance)
            for x, y in zip(left.tensors.values(), right.tensors.values(), strict=True)
        )
    )


def said(path: str, value: Any) -> str:
    """A key and its value, as ``--set`` takes them."""
    return f"{path}={value if isinstance(value, str) else json.dumps(value)}"


def choices(hint: Any) -> list[Any]:
    """The words that an annotation takes, ``None`` included."""
    if hint is type(None):
        return [None]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in choices(part)]


def others(path: str, value: Any) -> list[Any]:
    """Other values of a key than this one."""
    if path in OTHERS:
        return [other for other in OTHERS[path] if other != value]
    words = [word for entry in KEYS[path] for word in choices(entry.hint)]
    if words:
        return [word for word in words if word != value]
    return [not value] if isinstance(value, bool) else [2 * value]


def settings(keys: Mapping[str, Any], path: str, other: Any) -> list[str]:
    """One key of a configuration changed, and the small settings beside it.

    Another type of a section brings other keys.
    """
    section, _, name = path.rpartition(".")
    given = {key: keys[key] for key in SMALL if key in keys}
    if name == "type":
        given = {key: value for key, value in given.items() if key.partition(".")[0] != section}
        of_type = [key for key in SMALL if KEYS[key][0].variant == other]
        given |= {key: SMALL[key] for key in of_type if key.partition(".")[0] == section}
    return [said(key, value) for key, value in (given | {path: other}).items()]


@pytest.mark.parametrize(("family", "agent"), CASES)
def test_every_key_does_something_or_is_refused(family: str, agent: str) -> None:
    usually, expected = usual(family, agent)
    keys = flat(usually)
    idle = []
    for path in KEYS:
        if path.partition(".")[0] in ASIDE:
            continue
        for other in others(path, keys.get(path, KEYS[path][0].default)):
            try:
                config = resolve(family, agent, {"workers": 0}, settings(keys, path, other))
            except UserError as error:
                assert "\n" not in str(error)
            else:
                if same(config, expected):
                    idle.append((path, other))
    assert idle == []


@pytest.mark.parametrize(("family", "agent"), CASES)
def test_no_key_that_does_something_is_refused_as_one_that_does_nothing(
    family: str, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = usual(family, agent)
    monkeypatch.setattr(Choices, "require_used", lambda self: None)
    alive = []
    for path in config.choices.unused():
        section, _, key = path.partition(".")
        part = getattr(config, section)
        for other in [] if key == "type" else others(path, getattr(part, key)):
            value = tuple(other) if isinstance(other, list) else other
            changed = config.model_copy(update={section: replace(part, **{key: value})})
            # A penalty on a KL that is zero has a gradient of rounding errors.
            tolerance = 1e-4 if path == "outer.kl_coefficient" else 0.0
            if not same(changed, expected, tolerance):
                alive.append((path, other))
    assert alive == []


@pytest.mark.parametrize("agent", PRESETS)
def test_a_configuration_comes_back_from_plain_values(agent: str) -> None:
    preset = PRESETS[agent]
    learner = preset.learner
    for part in (preset.policy, preset.adaptation, learner.objective, learner.loss, learner.outer):
        plain = json.loads(json.dumps(asdict(part)))
        assert from_plain(type(part), plain) == part
        assert from_plain(type(part), {}) == type(part)(), "what is missing has its default"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (PolicyConfig, [], "is not a mapping"),
        (PolicyConfig, {"widths": [8]}, "unknown key 'widths'"),
        (PolicyConfig, {"hidden": 8}, "hidden = 8: not a value"),
        (PolicyConfig, {"hidden": []}, "hidden = .*: out of range"),
        (PolicyConfig, {"hidden": [8] * 33}, "hidden = .*: out of range"),
        (PolicyConfig, {"hidden": [8, 0]}, "hidden = 0: out of range"),
        (PolicyConfig, {"hidden": [8, 5000]}, "hidden = 5000: out of range"),
        (PolicyConfig, {"hidden": [8, True]}, "hidden = True: not a value"),
        (PolicyConfig, {"rates": 1}, "rates = 1: not a value"),
        (PolicyConfig, {"warp": "gates"}, "warp = 'gates': not a value"),
        (PolicyConfig, {"warp": []}, "not a value"),
        (PolicyConfig, {"log_std": 11}, "log_std = 11: out of range"),
        (PolicyConfig, {"log_std": float("nan")}, "log_std = nan: not a value"),
        (GradientAdaptation, {"steps": -1}, "steps = -1: out of range"),
        (GradientAdaptation, {"steps": 1.0}, "steps = 1.0: not a value"),
        (GradientAdaptation, {"inner_lr": 0}, "inner_lr = 0: out of range"),
        (GradientAdaptation, {"type": "memory"}, "type = 'memory': not a value"),
        (GradientAdaptation, {"gamma": "1"}, "gamma = '1': not a value"),
    ],
)
def test_plain_values_that_do_not_fit_are_refused(
    kind: type[Any], values: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(kind, values)
