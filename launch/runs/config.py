"""The configuration of a run: typed, frozen, complete, and stored beside its results.

A family, a preset (see :mod:`warprl.agents.presets`) and overrides such as
``outer.warp_lr=3e-4`` resolve to one complete configuration, which is written to ``config.yaml``
and repeats the run.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from warprl.agents.consistency import Choices, idle_key
from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.counts import shown
from warprl.envs import UnknownFamily, family_names, is_meta_world, make_family
from warprl.envs.physics import NoNativeBatchError
from warprl.keys import Key, either
from warprl.launch.errors import UserError, nearest, reading, require_known
from warprl.launch.machine import available_cores
from warprl.launch.runs import files, key_table, schema_1
from warprl.launch.runs import trust as trusted
from warprl.launch.runs.advice import Advice
from warprl.launch.runs.copies import address
from warprl.launch.runs.metrics import MAX_ITERATIONS
from warprl.launch.runs.plain import require_plain
from warprl.launch.runs.trust import OURS, Trust
from warprl.launch.runs.writers import WRITERS
from warprl.launch.search_path import look_for, own_folders
from warprl.learner import LearnerConfig, Loss, Outer
from warprl.objective import InitKind, Objective

MAX_SEED = 2**32 - 1
MAX_TASKS = 10_000
# Limits of what a configuration may make this machine allocate, whoever wrote it.
MAX_PARAMETERS = 2**26  # of a network: 256 MiB
MAX_NUMBERS = 2**33  # of the trajectories of a meta-batch: 32 GiB
MAX_FILE = 2**18  # bytes of a file of keys
MAX_TIMEOUT_S = 1e6
MAX_MINUTES = 1e6
OPTIONS = {"workers": "compute.workers"}  # options whose key has another name
WORKER_TIMEOUT_S = 3600.0  # far longer than any reasonable iteration
DEVICE = re.compile(r"cpu|cuda(:\d+)?")
# Keys and sections that say how long a run is and how it is carried out, but not what it computes.
CARRIED_OUT = ("schema_version", "iterations", "compute", "output")
ARGUMENTS = ("schema_version", "family", "agent")  # given as arguments of a command, not by --set

_LEARNER = LearnerConfig()


@dataclass(frozen=True)
class Compute:
    """How a run is carried out, which never changes its results."""

    workers: Annotated[
        int, Ge(0), Key("Ray workers, one core each; 0 samples in the process that learns")
    ] = 0
    device: Annotated[str, Key("where the learner computes: cpu, cuda or cuda:N")] = "cpu"
    worker_timeout_s: Annotated[
        float,
        Gt(0),
        Le(MAX_TIMEOUT_S),
        Key("seconds after which a worker without an answer is replaced"),
    ] = WORKER_TIMEOUT_S
    restart_timeout_s: Annotated[
        float,
        Gt(0),
        Le(MAX_TIMEOUT_S),
        Key("seconds to wait for workers to start, or to come back when all are lost"),
    ] = 120.0
    max_losses: Annotated[
        int,
        Gt(0),
        Key("workers that are lost in a row over the same tasks before the run ends"),
    ] = 4


@dataclass(frozen=True)
class Output:
    """What a run saves."""

    checkpoint_every: Annotated[int, Gt(0), Key("iterations from one checkpoint to the next")] = 10
    checkpoint_minutes: Annotated[
        float,
        Gt(0),
        Le(MAX_MINUTES),
        Key("minutes from one checkpoint to the next, at most"),
    ] = 10.0
    keep: Annotated[int, Ge(2), Key("newest checkpoints that are kept")] = 3
    writers: Annotated[
        tuple[str, ...], Key(f"where metrics are written besides metrics.jsonl: {either(WRITERS)}")
    ] = ("tensorboard",)


class RunConfig(BaseModel):
    """Everything that determines a run, and how it is carried out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Annotated[Literal[2], Key("version of this list of keys")] = 2
    family: Annotated[str, Key("task family, as 'warprl envs' lists them")]
    agent: Annotated[str, Key("named agent, as 'warprl agents' lists them")]
    seed: Annotated[int, Ge(0), Le(MAX_SEED), Key("seed of every random number")] = 0
    iterations: Annotated[int, Gt(0), Le(MAX_ITERATIONS), Key("meta-iterations of the run")] = 200
    tasks: Annotated[int, Gt(0), Le(MAX_TASKS), Key("tasks of a meta-batch")] = 20
    policy: PolicyConfig
    adaptation: Annotated[AdaptationConfig, Field(discriminator="type")]
    objective: Annotated[Objective, Field(discriminator="type")] = _LEARNER.objective
    init: Annotated[
        InitKind, Key("objective of the learned initialisation; fixed: it is not learned")
    ]
    loss: Annotated[Loss, Field(discriminator="type")] = _LEARNER.loss
    outer: Annotated[Outer, Field(discriminator="type")] = _LEARNER.outer
    compute: Compute = Compute()
    output: Output = Output()

    @property
    def learner(self) -> LearnerConfig:
        """What is learned, from which objective and loss, and by which outer steps."""
        return LearnerConfig(self.objective, self.init, self.loss, self.outer)

    @property
    def network(self) -> Policy:
        """The policy on the family's spaces, without parameters."""
        return Policy.for_spaces(make_family(self.family).spaces, self.policy)

    @property
    def choices(self) -> Choices:
        """The choices that make the agent; they know what works together and what has an effect."""
        return Choices.of(self.network, self.adaptation, self.learner)


KEYS = key_table.by_path(key_table.entries(RunConfig))
VARIANTS = key_table.variants(RunConfig)
ADVICE = Advice(KEYS, VARIANTS)


def resolve(
    family: str,
    agent: str,
    options: Mapping[str, int | None],
    settings: Sequence[str] = (),
    cores: Callable[[], int] = available_cores,
) -> RunConfig:
    """The configuration of a new run: the preset, then ``settings`` (``a.b=c``), then ``options``.

    An option that is None was not given. Without a number of workers, there is one for each of the
    ``cores``. Raises UserError, in one line, for an unknown name or key, for a value of the wrong
    type or range, and for a key that has no effect.
    """
    require_family(family)
    _require_physics(family)
    require_known("agent", agent, PRESETS)
    data = of_preset(family, agent).model_dump(mode="json")
    given = dict(map(_parse, settings))
    given |= {OPTIONS.get(k, k): v for k, v in options.items() if v is not None}
    # Types come first, because they decide which other keys there are.
    for key in sorted(given, key=lambda key: not key.endswith(".type")):
        _assign(data, key, given[key])
    config = _settled(_validated(data), given)
    require_device(config)
    if "compute.workers" in given:
        return config
    workers = min(cores(), config.tasks)
    return config.model_copy(update={"compute": replace(config.compute, workers=workers)})


def of_preset(family: str, agent: str) -> RunConfig:
    """The configuration of a named agent on a family, without any setting."""
    preset = PRESETS[agent]
    parts = {"policy": preset.policy, "adaptation": preset.adaptation, **vars(preset.learner)}
    return RunConfig(family=family, agent=agent, **parts)


def load(path: Path, trust: Trust = OURS) -> RunConfig:
    """Read a stored configuration, one of schema 1 in the words of schema 2.

    Raises UserError if it is broken or of another version, if there is anything but files and
    folders beside it, and before its task family is imported unless that is trusted: see
    :mod:`warprl.launch.runs.trust`.
    """
    with reading(path.parent):
        require_plain(path.parent)
    return parse(read_yaml(path, "a run's configuration"), path, trust)


def save(path: Path, config: RunConfig) -> None:
    """Write the configuration of a run that begins here, and note that it does."""
    files.write(path, dump(config))
    note_begun(config)


def note_begun(config: RunConfig) -> None:
    """Note that the user has begun a run with this configuration, which is trusted from now on."""
    trusted.note(config.family, _computed(plain(config)))


def parse(data: dict[str, Any], path: Path, trust: Trust = OURS) -> RunConfig:
    """The configuration in a file's data. Raises UserError, as :func:`load` says."""
    version = data.get("schema_version")
    if version not in (1, 2):
        raise UserError(
            f"{path} has schema version {shown(version)} and this warprl reads 1 and 2: "
            "use the release that wrote it"
        )
    with _naming(path):
        config = _validated(schema_1.upgrade(data) if version == 1 else data)
    trusted.require(config.family, _computed(data), address(path.parent), trust)
    require_family(config.family)
    _require_physics(config.family)
    require_known("agent", config.agent, PRESETS)
    with _naming(path):
        if version == 1:  # in which every key had a value, even without effect
            return _settled(config, given=())
        config = _settled(config, given=dict(_leaves(data)))
        for section in plain(config):
            if section in VARIANTS and section not in (*data, *CARRIED_OUT):
                raise UserError(f"key {section!r} is missing")
        return config


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have errors begin with the name of a file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


class _AnchorError(yaml.YAMLError):
    """Anchors and aliases, by which a short file can stand for more than a machine can hold."""


class _PlainLoader(yaml.SafeLoader):
    """Reads plain values, each of which is written where it stands."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node. Raises _AnchorError if it is an alias, or can be the aim of one."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            line = event.start_mark.line + 1
            raise _AnchorError(f"line {line} has an anchor or an alias (& or *): write its value")
        return super().compose_node(parent, index)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises UserError if it cannot be read or is not one."""
    try:
        # Through JSON, which has no dates, no keys but text and no cycles.
        with reading(path):
            text = files.read(path, MAX_FILE).decode()
        data = json.loads(json.dumps(yaml.load(text, _PlainLoader)))
    except _AnchorError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML of plain values") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not {what}")
    return data


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain data, keys in the order of their definition.

    Keys that have no effect are left out.
    """
    data = config.model_dump(mode="json")
    for path in config.choices.unused():
        section, _, key = path.partition(".")
        del data[section][key]
    return {key: value for key, value in data.items() if value != {}}


def _computed(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration computes, without how that is carried out."""
    return {key: value for key, value in data.items() if key not in CARRIED_OUT}


def dump(config: RunConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(plain(config), sort_keys=False)


def flat(config: RunConfig) -> dict[str, Any]:
    """Every key as ``--set`` takes it, such as ``outer.warp_lr``, with its value."""
    return dict(_leaves(plain(config)))


def computed(config: RunConfig) -> dict[str, Any]:
    """The keys that decide what a run computes, as :func:`flat` has them."""
    return dict(_leaves(_computed(plain(config))))


def differences(found: RunConfig, wanted: RunConfig) -> list[str]:
    """The keys that make two configurations compute different things; see :func:`changed`."""
    return changed(computed(found), computed(wanted))


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys with another value.

    A key that only one side has is left out: it follows from a choice that is listed, or one side
    is older than the key.
    """
    return [key for key in before if key in after and before[key] != after[key]]


def steps_per_iteration(config: RunConfig) -> int:
    """Environment steps of one meta-iteration: tasks x episodes x horizon x (K + 1)."""
    rollouts = config.adaptation.steps + 1
    return config.tasks * config.adaptation.episodes * make_family(config.family).horizon * rollouts


def with_env_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same with the fewest whole iterations that take at least this many environment steps.

    Raises UserError if they are too many.
    """
    iterations = -(-steps // steps_per_iteration(config))
    if iterations > MAX_ITERATIONS:
        raise UserError(f"env_steps = {steps}: {MAX_ITERATIONS:,} iterations are the most")
    return config.model_copy(update={"iterations": iterations})


def require_family(name: str) -> None:
    """Raise UserError, in one line that says what would be right, unless this is a task family.

    From now on, this process looks for the module of a user's own family in the working directory
    as well, behind all other places.
    """
    if ":" not in name and not is_meta_world(name):
        return require_known("family", name, family_names())
    look_for(name, own_folders())
    try:
        make_family(name)
    except UnknownFamily as error:
        hint = f"; {nearest(name, error.known)}" if error.known else ""
        raise UserError(f"{error.reason}{hint}") from error


def _require_physics(family: str) -> None:
    """Raise UserError if the installed mujoco is too old to step this family."""
    if importlib.util.find_spec("mujoco.batch") is not None:
        return
    try:
        make_family(family).make_batch(1)
    except NoNativeBatchError as error:
        raise UserError(f"{family}: {error}") from error


def require_device(config: RunConfig) -> None:
    """Raise UserError unless this machine has the learner's device."""
    device = config.compute.device
    if device == "cpu":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= found:
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(found))])
        raise UserError(f"compute.device = {device}: this machine has only {there}")


def _parse(setting: str) -> tuple[str, Any]:
    """``"outer.init_lr=3e-4"`` to ``("outer.init_lr", 3e-4)``; what is not JSON is text."""
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {setting}: expected KEY=VALUE, such as outer.init_lr=3e-4")
    if text.lower() == "none":
        return key, None
    try:
        return key, json.loads(text)
    except (ValueError, RecursionError):  # too many digits or brackets are not valid JSON either
        return key, text


def _assign(data: dict[str, Any], path: str, value: Any) -> None:
    """Set one key of plain data. Raises UserError if there is no such key."""
    if path not in KEYS:
        raise UserError(ADVICE.on_unknown(path))
    if path in ARGUMENTS:
        raise UserError(f"{path!r} cannot be set: it is an argument or an option of its own")
    section, _, key = path.rpartition(".")
    if not section:
        data[key] = value
    elif key == "type":
        kinds = VARIANTS[section]
        if value not in list(kinds):
            raise UserError(ADVICE.on_type(section, value))
        if value != data[section]["type"]:
            data[section] = key_table.defaults(kinds[value])
    elif key not in data[section]:
        raise UserError(ADVICE.on_other_variant(path, data[section]["type"]))
    else:
        data[section][key] = value


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _validated(data: dict[str, Any]) -> RunConfig:
    """Plain data as a configuration. Raises UserError for a value that is out of range."""
    # Strict JSON mode: true is not 1 and 2.5 is not 2, while a list may stand for a tuple.
    try:
        config = RunConfig.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UserError(ADVICE.explain(error)) from error
    workers, device = config.compute.workers, config.compute.device
    if workers > config.tasks:
        raise UserError(
            f"compute.workers = {workers}: must not exceed tasks = {config.tasks}, "
            "because every worker takes whole tasks"
        )
    if not DEVICE.fullmatch(device):
        raise UserError(f'compute.device = "{device}": should be cpu, cuda or cuda:N')
    for name in config.output.writers:
        if name not in WRITERS:
            raise UserError(f'output.writers = ["{name}"]: {nearest(name, WRITERS)}')
    return config


def _settled(config: RunConfig, given: Collection[str]) -> RunConfig:
    """The same with defaults for the keys that have no effect.

    Raises UserError if such a key was given, or if parts of it cannot work together.
    """
    choices = config.choices
    values = dict(_leaves(config.model_dump(mode="json")))
    for path, need in choices.unused().items():
        if path in given:
            raise UserError(idle_key(path, need, values[path]))
    neutral = choices.neutral()
    try:
        neutral.require_consistent()
    except ValueError as error:
        raise UserError(str(error)) from None
    settled = config.model_copy(update=neutral.sections)
    _require_room(settled)
    return settled


def _require_room(config: RunConfig) -> None:
    """Raise UserError for a network or a meta-batch that is larger than any machine should hold."""
    # The network.
    network, adaptation = config.network, config.adaptation
    theta, phi = network.sizes
    if theta + phi > MAX_PARAMETERS:
        raise UserError(
            f"policy.hidden = {shown(list(config.policy.hidden))}: makes {theta + phi:,} "
            f"parameters: {MAX_PARAMETERS:,} are the most"
        )

    # The trajectories: at each point theta, and at each step of an episode what was seen and done.
    horizon = make_family(config.family).horizon
    step = network.input_dim + network.act_dim + 4  # and a reward, for instance
    task = (adaptation.steps + 1) * (theta + adaptation.episodes * horizon * step)
    if config.tasks * task > MAX_NUMBERS:
        raise UserError(
            f"tasks = {config.tasks}, adaptation.episodes = {adaptation.episodes} and "
            f"adaptation.steps = {adaptation.steps}: make trajectories of {config.tasks * task:,} "
            f"numbers: {MAX_NUMBERS:,} are the most"
        )
