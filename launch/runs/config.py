"""The configuration of a run: typed, frozen, complete, and stored beside its results.

A family, a preset (see :mod:`warprl.agents.presets`) and overrides such as ``learner.lr=3e-4``
resolve to one complete configuration, which is written to ``config.yaml`` and repeats the run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from warprl.adam import Adam
from warprl.agents.inner import AdaptationConfig, GradientAdaptation, MemoryAdaptation
from warprl.agents.policy import PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.envs import UnknownFamily, family_names, is_meta_world, make_family
from warprl.envs.physics import NoNativeBatchError
from warprl.initialisation import INITIALISATIONS
from warprl.launch.errors import UserError, nearest
from warprl.launch.machine import available_cores
from warprl.launch.runs import schema_1
from warprl.learner import LearnerConfig, Loss, Outer
from warprl.objective import InitKind, LookAhead, Objective, TwoTimeScale
from warprl.warp import WARP_KINDS

MAX_SEED = 2**32 - 1
MAX_TASKS = 10_000
MAX_TIMEOUT_S = 1e6
OPTIONS = {"workers": "compute.workers"}  # options that are keys of another name
WORKER_TIMEOUT_S = 3600.0  # far above any iteration that is worth waiting for
# Keys and sections that say how long a run goes on and how it is carried out, and never what it
# computes.
CARRIED_OUT = ("schema_version", "iterations", "compute", "output")


@dataclass(frozen=True)
class Compute:
    """How a run is carried out, which never changes its results.

    ``workers`` = 0 samples in this process. A worker that takes longer than ``worker_timeout_s``
    seconds over an iteration is taken for hung, and replaced like one that died. The learner
    computes on ``device``.
    """

    workers: Annotated[int, Ge(0)] = 0
    device: str = "cpu"
    worker_timeout_s: Annotated[float, Gt(0), Le(MAX_TIMEOUT_S)] = WORKER_TIMEOUT_S


@dataclass(frozen=True)
class Output:
    """What a run saves: a checkpoint every so many iterations, and how many of them stay."""

    checkpoint_every: Annotated[int, Gt(0)] = 10
    keep: Annotated[int, Ge(2)] = 3


class RunConfig(BaseModel):
    """Everything that determines a run, and how it is carried out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[2] = 2
    family: str
    agent: str
    seed: Annotated[int, Ge(0), Le(MAX_SEED)] = 0
    iterations: Annotated[int, Gt(0)] = 200
    tasks: Annotated[int, Gt(0), Le(MAX_TASKS), Field(description="tasks of a meta-batch")] = 20
    policy: PolicyConfig
    adaptation: Annotated[AdaptationConfig, Field(discriminator="type")]
    objective: Annotated[Objective, Field(discriminator="type")]
    init: InitKind
    loss: Annotated[Loss, Field(discriminator="type")]
    outer: Annotated[Outer, Field(discriminator="type")]
    compute: Compute = Compute()
    output: Output = Output()

    @property
    def learner(self) -> LearnerConfig:
        """What is learned, from which objective and loss, and by which outer steps."""
        return LearnerConfig(self.objective, self.init, self.loss, self.outer)


def resolve(
    family: str, agent: str, options: Mapping[str, int | None], settings: Sequence[str] = ()
) -> RunConfig:
    """The configuration of a new run: the preset, then ``settings`` (``a.b=c``), then ``options``.

    An option that is None was not given. Raises UserError, in one line, for an unknown name or key
    and for a value of wrong type or range.
    """
    require_family(family)
    _require_physics(family)
    _known("agent", agent, PRESETS)
    data = of_preset(family, agent).model_dump(mode="json")
    given = dict(map(_parse, settings))
    given |= {OPTIONS.get(k, k): v for k, v in options.items() if v is not None}
    for key in sorted(given, key=lambda key: not key.endswith(".type")):  # variants come first
        _assign(data, key, given[key])
    config = _validate(data)
    if "compute.workers" in given:
        return config
    workers = min(available_cores(), config.tasks)
    return config.model_copy(update={"compute": replace(config.compute, workers=workers)})


def of_preset(family: str, agent: str) -> RunConfig:
    """The configuration of a named agent on a family, without any setting."""
    preset = PRESETS[agent]
    return RunConfig(
        family=family,
        agent=agent,
        policy=preset.policy,
        adaptation=preset.adaptation,
        objective=preset.learner.objective,
        init=preset.learner.init,
        loss=preset.learner.loss,
        outer=preset.learner.outer,
    )


def load(path: Path) -> RunConfig:
    """Read a stored configuration, one of schema 1 in the words of schema 2.

    Raises UserError if it is broken or of another version.
    """
    config = parse(read_yaml(path, "a run's configuration"), path)
    require_family(config.family)
    _require_physics(config.family)
    _known("agent", config.agent, PRESETS)
    return config


def parse(data: dict[str, Any], path: Path) -> RunConfig:
    """The configuration that a file held. Raises UserError, naming the file, if it is none."""
    version = data.get("schema_version")
    if version not in (1, 2):
        raise UserError(
            f"{path} has schema version {version!r} and this warprl reads 1 and 2: "
            "use the release that wrote it"
        )
    try:
        return _validate(schema_1.upgrade(data) if version == 1 else data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML file of named plain values. Raises UserError if it cannot be read or is no such."""
    try:
        # Through JSON, which has no dates, no keys but text and no cycles.
        data = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML of plain values") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not {what}")
    return data


def dump(config: RunConfig) -> str:
    """The configuration as YAML, keys in the order of their definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def require_consistent(
    policy: PolicyConfig, adaptation: AdaptationConfig, learner: LearnerConfig
) -> None:
    """Raise UserError for parts that are each in range and cannot work together."""
    _require_cell(policy, adaptation)
    _require_places(policy)
    slow = isinstance(learner.objective, TwoTimeScale)
    remembers = isinstance(adaptation, MemoryAdaptation)
    if not adaptation.steps or remembers:
        if (policy.warp and not slow) or policy.rates or learner.init != "maml":
            reason = "type = memory" if remembers else "steps = 0 (one policy for all tasks)"
            raise UserError(
                f"adaptation.{reason} needs init = maml, policy.rates = false, and "
                "policy.warp = none or objective.type = two-time-scale: the others learn from "
                "inner steps"
            )
    elif slow:
        raise UserError(
            "objective.type = two-time-scale needs adaptation.steps = 0 or adaptation.type = "
            "memory: it looks ahead of no inner step"
        )
    if slow and not (
        isinstance(learner.outer, Adam) and learner.outer.epochs == learner.outer.minibatches == 1
    ):
        raise UserError(
            "objective.type = two-time-scale needs outer.type = adam, outer.epochs = 1 and "
            "outer.minibatches = 1: the warps gather one gradient an iteration"
        )
    if isinstance(adaptation, GradientAdaptation):
        if INITIALISATIONS[learner.init].all_layers and adaptation.layers != "all":
            raise UserError(
                f"init = {learner.init} needs adaptation.layers = all: beside {adaptation.layers} "
                "alone it never learns the layers that stay"
            )
    if policy.rates and learner.objective == LookAhead(kind="approximate"):
        raise UserError(
            "policy.rates = true needs objective.kind = exact: the approximate objective (eq. 12) "
            "does not depend on them"
        )


def _require_cell(policy: PolicyConfig, adaptation: AdaptationConfig) -> None:
    """Raise UserError unless what needs a memory has one, of the kind that it needs."""
    if isinstance(adaptation, MemoryAdaptation) and policy.memory is None:
        raise UserError(
            "adaptation.type = memory needs policy.memory = gru or rnn: without one, nothing is "
            "carried from episode to episode"
        )
    if policy.warp == "recurrent" and policy.memory != "rnn":
        raise UserError("policy.warp = recurrent needs policy.memory = rnn, the cell that it gates")
    if policy.memory and policy.warp not in (None, "recurrent"):
        raise UserError(
            f"policy.memory = {policy.memory} needs policy.warp = recurrent (of an rnn) or none: "
            f"{policy.warp} warps stand behind feed-forward layers"
        )


def _require_places(policy: PolicyConfig) -> None:
    """Raise UserError unless there are warps and layers where some are to stand."""
    if policy.warped is None:
        return
    places, layers = list(policy.warped), len(policy.hidden)
    if policy.warp in (None, "recurrent"):
        raise UserError(
            f"policy.warped = {places} needs policy.warp = {_either(WARP_KINDS)}: it says behind "
            "which hidden layers these stand"
        )
    # In one order only, so that there is one name for each policy.
    if max(places) >= layers or places != sorted(set(places)):
        raise UserError(
            f"policy.warped = {places}: should be in order and each once, of the hidden layers "
            f"{list(range(layers))}"
        )


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def saved_policy(document: Mapping[str, Any]) -> dict[str, Any]:
    """The policy of a checkpoint's document. One saved before a key existed had its default."""
    defaults = TypeAdapter(PolicyConfig).dump_python(PolicyConfig(), mode="json")
    policy: dict[str, Any] = defaults | document["policy"]
    return policy


def flat(config: RunConfig) -> dict[str, Any]:
    """Every key as ``--set`` takes it, such as ``learner.lr``, with its value."""
    return dict(_leaves(config.model_dump(mode="json")))


def differences(found: RunConfig, wanted: RunConfig) -> list[str]:
    """The keys in which two configurations compute something else."""
    left, right = flat(found), flat(wanted)
    keys = [key for key in left | right if key.partition(".")[0] not in CARRIED_OUT]
    return [key for key in keys if left.get(key) != right.get(key)]


def steps_per_iteration(config: RunConfig) -> int:
    """Environment steps of one meta-iteration: tasks x episodes x horizon x (K + 1)."""
    rollouts = config.adaptation.steps + 1
    return config.tasks * config.adaptation.episodes * make_family(config.family).horizon * rollouts


def with_env_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same with as many whole iterations as take at least this many environment steps."""
    return config.model_copy(update={"iterations": -(-steps // steps_per_iteration(config))})


def require_family(name: str) -> None:
    """Raise UserError, in one line that says what would be right, unless this is a task family.

    The module of a user's own family may lie in the working directory, where Ray's workers look
    first, and so does this process from now on.
    """
    if ":" not in name and not is_meta_world(name):
        return _known("family", name, family_names())
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make_family(name)
    except UnknownFamily as error:
        raise UserError(str(error)) from error


def _require_physics(family: str) -> None:
    """Raise UserError if the installed mujoco is too old to step this family."""
    if importlib.util.find_spec("mujoco.batch") is not None:
        return
    try:
        make_family(family).make_batch(1)
    except NoNativeBatchError as error:
        raise UserError(f"{family}: {error}") from error


def _known(kind: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if name not in known:
        raise UserError(f"unknown {kind} {name!r}: {nearest(name, known)}")


def _parse(setting: str) -> tuple[str, Any]:
    """``"learner.lr=3e-4"`` to ``("learner.lr", 3e-4)``; what is not JSON is text."""
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {setting}: expected KEY=VALUE, such as learner.lr=3e-4")
    if text.lower() == "none":
        return key, None
    try:
        return key, json.loads(text)
    except (ValueError, RecursionError):  # too many digits or brackets are no JSON either
        return key, text


def _assign(data: dict[str, Any], path: str, value: Any) -> None:
    keys = [key for key, _ in _leaves(data)]
    if path not in keys:
        inside = [key for key in keys if key.startswith(f"{path}.")]
        if inside:
            raise UserError(f"{path!r} is a section: set one of its keys, such as {inside[0]!r}")
        raise UserError(f"unknown key {path!r}: {_nearest_key(path, keys)}")
    if path in ("schema_version", "family", "agent"):
        raise UserError(f"{path!r} cannot be set: it is an argument or an option of its own")
    *sections, last = path.split(".")
    for section in sections:
        data = data[section]
    if last == "type":
        data.clear()  # the keys of another variant, at their defaults
    data[last] = value


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _validate(data: dict[str, Any]) -> RunConfig:
    # Strict JSON mode: true is not 1 and 2.5 is not 2, while a list may stand for a tuple.
    try:
        config = RunConfig.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UserError(explain(error, _all_keys())) from error
    require_consistent(config.policy, config.adaptation, config.learner)
    workers = config.compute.workers
    if workers > config.tasks:
        raise UserError(
            f"compute.workers = {workers}: must not exceed tasks = {config.tasks}, "
            "for every worker takes whole tasks"
        )
    return config


def explain(error: ValidationError, keys: Sequence[str]) -> str:
    """The first of pydantic's findings: which field, which value, what would be right.

    ``keys`` are those that there are.
    """
    first = error.errors()[0]
    path = ".".join(map(str, first["loc"]))
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {path!r}: {_nearest_key(path, keys)}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key {path!r} is missing"
    message = first["msg"].removeprefix("Input ").replace("valid ", "")
    if first["type"] in ("tuple_type", "too_short"):  # lists to people; all have an entry at least
        message = "should be a list of one or more"
    return f"{path} = {json.dumps(first['input'])}: {message}"


def _nearest_key(path: str, keys: Sequence[str]) -> str:
    name = path.rpartition(".")[2]
    same = [repr(key) for key in keys if key.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(same)}?" if same else nearest(path, keys)


def _all_keys() -> list[str]:
    """Every key that some agent has."""
    every = {key: None for agent in PRESETS for key in flat(of_preset("", agent))}
    return list(every)
