"""Stable-Baselines3 at the command line: adapted policies as files, and files as a start."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium

from warprl.envs import family_names, make_family
from warprl.envs.vector import gymnasium_id
from warprl.launch.errors import RunFailedError, UserError, os_errors, whole_number, writing
from warprl.launch.evaluation import sb3_models
from warprl.launch.outcome import Document, Outcome, parameters
from warprl.launch.runs import files
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.stored import Imported, StoredRun
from warprl.types import Task

LONG = 80  # characters of a task
WHOLE = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, kw_only=True)
class ExportSummary(Document):
    """A file for Stable-Baselines3, the task of its policy, and the returns of the adaptation."""

    file: str
    run: str
    family: str
    environment: str
    task: Mapping[str, Any]
    checkpoint: int
    inner_steps: int
    seed: int
    returns: Sequence[float]


def export(
    run: StoredRun, task: Task, steps: int | None, out: str | Path, seed: int | None
) -> Outcome[ExportSummary]:
    """Adapt a run's policy to a task and write it for SB3's PPO.

    Raises UserError for a policy with memory, a family without a Gymnasium id (the user's own,
    Meta-World's), an impossible number of steps and a file that exists, and RunFailedError if the
    adaptation diverges or the disk refuses.
    """
    # Refuse what cannot be exported before any work.
    path = _require_new(Path(out))
    if run.config.policy.memory is not None:
        raise UserError(
            f"cannot export: the policy of {run.address} has a memory (policy.memory = "
            f"{run.config.policy.memory}), and PPO of Stable-Baselines3 acts without one"
        )
    if run.config.family not in family_names():
        raise UserError(
            f"cannot export: {run.config.family} has no id in Gymnasium's registry, which the "
            "exported policy's environment needs; warprl's own families have one"
        )
    steps = whole_number("steps", run.config.adaptation.steps if steps is None else steps, 0)
    seed = whole_number("seed", run.config.seed if seed is None else seed, 0)

    # Adapt, and write the policy with the environment of its task.
    try:
        policy = run.adapt(task, replace(run.config.adaptation, steps=steps), seed)
    except RunFailedError as error:
        name = parameters(asdict(task))
        raise RunFailedError(f"the adaptation to {name} diverges: not exported") from error
    identifier, values = gymnasium_id(run.config.family), asdict(task)
    env = gymnasium.make(identifier, task=values)
    _write_new(path, sb3_models.save_ppo(sb3_models.to_ppo(run.policy, policy.theta, run.phi, env)))

    # What was written, and how to use it. A held-out task may have dozens of values.
    summary = ExportSummary(
        file=str(path),
        run=run.address,
        family=run.config.family,
        environment=identifier,
        task=values,
        checkpoint=run.iteration,
        inner_steps=steps,
        seed=seed,
        returns=policy.returns,
    )
    shown = " > ".join(f"{value:.1f}" for value in policy.returns)
    shown_task, held_out = str(values), run.family.held_out_tasks()
    if len(shown_task) > LONG and task in held_out:
        position = held_out.index(task)
        shown_task = f"asdict(make_family({run.config.family!r}).held_out_tasks()[{position}])"
    text = (
        f"{parameters(values)}: returns after 0 to {steps} inner steps: {shown}\n"
        f"PPO.load({str(path)!r}) acts in gymnasium.make({identifier!r}, task={shown_task})\n{path}"
    )
    return Outcome(summary, text)


def parse_task(run: StoredRun, settings: Sequence[str]) -> Task:
    """The held-out task of a single whole number, or the task of ``key=value`` for every field.

    A value is a number or a list of them, as JSON. Raises UserError, saying what would be right.
    """
    if len(settings) == 1 and WHOLE.fullmatch(settings[0]):
        return run.held_out_task(int(settings[0]))
    if not settings:
        fields = " and ".join(asdict(run.family.held_out_tasks()[0]))
        raise UserError(
            f"--task is missing: give KEY=NUMBER for {fields}, or the number of a held-out task"
        )

    # Each field once, whatever its name: the family knows which there are.
    values: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if key in values:
            raise UserError(f"--task {setting}: {key} is given twice")
        try:
            values[key] = _number_or_list(text)
        except (ValueError, RecursionError):  # too many brackets are not valid JSON either
            separator = ""
        if not separator or not key:
            raise UserError(
                f"--task {setting}: expected KEY=NUMBER, such as direction=-1, KEY=[NUMBER,...], "
                "or only the number of a held-out task"
            )
    try:
        return run.family.parse_task(values)
    except ValueError as error:
        raise UserError(f"--task: {error}") from error


def _number_or_list(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return json.loads(text)


def read(name: str, trust: bool, config: RunConfig) -> Imported:
    """theta_0 from a file of SB3's PPO, for runs of this configuration.

    Raises UserError without ``trust``, for any other file, and for another architecture.
    """
    if not trust:
        raise UserError(
            f"--init-from {name}: a Stable-Baselines3 file holds pickled objects, and loading it "
            "runs whatever code its author put in; add --trust if you trust where it came from"
        )
    if config.policy.memory is not None:
        raise UserError(
            f"--init-from {name}: needs policy.memory = none: a policy of SB3's PPO has no memory"
        )
    path = Path(name)
    policy, family = config.network, make_family(config.family)
    with os_errors(UserError, f"--init-from {name}: cannot be read"):
        content = path.read_bytes()
    try:
        theta = sb3_models.from_ppo(sb3_models.load_ppo(content), policy, family.action_space)
    except ValueError as error:
        raise UserError(f"--init-from {name}: {error}") from error
    return Imported(theta, {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()})


def _require_new(path: Path) -> Path:
    if path.suffix != ".zip":
        raise UserError(f"{path}: the name must end in .zip")
    if os.path.lexists(path):
        raise UserError(f"{path}: exists, and nothing is overwritten")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    return path


def _write_new(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and never over another one."""
    with writing(path):
        if os.path.lexists(path):  # it was not there before the adaptation
            raise FileExistsError(17, "File exists")
        files.write(path, content)
