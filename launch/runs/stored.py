"""A trained run, read back from its folder: its configuration and its learned parameters."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from warprl import checkpoint as checkpoints
from warprl.agents.adapted import AdaptedPolicy, adapt_policy
from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import Policy
from warprl.checkpoint import Checkpoint, CheckpointError
from warprl.counts import shown, whole
from warprl.envs import TaskFamily, make_family
from warprl.launch.errors import RunFailedError, UserError, reading
from warprl.launch.runs import config as configuration
from warprl.launch.runs import contents
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.copies import CHECKPOINTS, IMPORTED, LAST, address
from warprl.launch.runs.metrics import Logged
from warprl.launch.runs.trust import OURS, Trust
from warprl.learner import Learner, LearnerState
from warprl.params import require_like, subtree
from warprl.seeding import generator
from warprl.threads import one_thread
from warprl.types import Params, Task

CHECKSUM = re.compile("[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredRun:
    """A run's policy at one of its checkpoints."""

    folder: Path
    config: RunConfig
    iteration: int
    theta: Params
    phi: Params

    @property
    def address(self) -> str:
        """How users know the run: its folder, or its URI in storage."""
        return address(self.folder)

    @property
    def family(self) -> TaskFamily:
        """The task family that the run was trained on."""
        return make_family(self.config.family)

    @property
    def policy(self) -> Policy:
        """The network that the parameters belong to."""
        return self.config.network

    def held_out_task(self, number: int) -> Task:
        """The held-out task at this position. Raises UserError if there is none."""
        tasks = self.family.held_out_tasks()
        try:
            return tasks[whole("task", number, 0, len(tasks) - 1)]
        except ValueError:
            raise UserError(
                f"task = {shown(number)}: {self.config.family} has held-out tasks "
                f"0 to {len(tasks) - 1}"
            ) from None

    @property
    def start(self) -> AdaptedPolicy:
        """The policy before adaptation, under theta_0, ready to act."""
        spaces, seed = self.family.spaces, self.config.seed
        return AdaptedPolicy(spaces, self.config.policy, self.theta, self.phi, seed=seed)

    def adapt(self, task: Task, config: AdaptationConfig, seed: int) -> AdaptedPolicy:
        """The policy adapted to one task, as :func:`warprl.agents.adapted.adapt_policy` says.

        Raises RunFailedError if the adaptation diverges.
        """
        env = self.family.make_batch(config.episodes)
        try:
            with one_thread():
                return adapt_policy(env, self.start, task, config, seed)
        except FloatingPointError as error:
            raise RunFailedError(str(error)) from error


def open_run(folder: Path, iteration: int | None, trust: Trust = OURS) -> StoredRun:
    """Load a run at one iteration, or at its newest intact checkpoint.

    Raises UserError if there is none, if it does not fit the run's configuration, or if its task
    family is not trusted.
    """
    config = configuration.load(folder / "config.yaml", trust)
    saved = load_checkpoint(folder, config, iteration)
    return StoredRun(
        folder,
        config,
        saved.iteration,
        subtree("theta", saved.tensors),
        subtree("phi", saved.tensors),
    )


def newest(folder: Path, config: RunConfig) -> Checkpoint | None:
    """The newest intact state of a run; None if it was stopped before its first iteration ended.

    It is a checkpoint, or the last iteration of a process that ended without a word. Raises
    UserError if there are only broken ones.
    """
    known = checkpoints.iterations(folder / CHECKPOINTS)
    last = _last(folder)
    if last is not None and (not known or last > known[0]):
        return load_checkpoint(folder, config, last, LAST)
    return load_checkpoint(folder, config, None) if known else None


def _last(folder: Path) -> int | None:
    """The last iteration that a process left behind, if it is whole."""
    try:
        return checkpoints.load(folder / LAST).iteration
    except (CheckpointError, OSError):
        return None


def load_checkpoint(
    folder: Path, config: RunConfig, iteration: int | None, where: str = CHECKPOINTS
) -> Checkpoint:
    """Load a checkpoint that fits ``config``, with a warning for each newer one that is broken.

    Raises UserError if there is none.
    """
    # Load it; if that fails, say which iterations are stored.
    place = folder / where
    try:
        with reading(place):
            saved = checkpoints.load(place, iteration)
    except CheckpointError as error:
        known = checkpoints.iterations(place)
        hint = f"; there are checkpoints of iterations {', '.join(map(str, known))}" * bool(known)
        message = str(error).replace(str(folder), address(folder))
        raise UserError(f"{message}{hint}") from error

    # Falling back loses iterations, so the user should know.
    for path, reason in saved.skipped:
        log.warning("checkpoint %s is broken (%s): using %d", path.name, reason, saved.iteration)

    _require_ours(saved, config)
    return saved


def _require_ours(saved: Checkpoint, config: RunConfig) -> None:
    """Raise UserError, in one line, unless this run may have left a checkpoint.

    Its checksums say that it is as it was written, and not who has written it.
    """
    where = address(saved.path)
    document = contents.read(saved.document, where)
    contents.require_fit(document, config, where)
    if document.learner.iteration != saved.iteration:
        raise UserError(f"{where}: its learner is at iteration {document.learner.iteration}")
    theta, phi = fresh(config)
    try:
        state = LearnerState.from_tensors(saved.tensors, saved.document["learner"])
        Learner(config.learner).require_fit(state, theta, phi)
    except ValueError as error:
        raise UserError(f"{where} does not belong to this run: {error}") from error


def require_unchanged(saved: Checkpoint, config: RunConfig) -> None:
    """Raise UserError if the configuration has changed since a checkpoint was saved.

    It names the keys. Older checkpoints do not tell.
    """
    where = address(saved.path)
    contents.require_unchanged(contents.read(saved.document, where), config, where)


def logged(saved: Checkpoint) -> Logged | None:
    """What a checkpoint knows of metrics.jsonl; older ones know nothing."""
    return contents.read(saved.document, address(saved.path)).metrics


def fresh(config: RunConfig) -> tuple[Params, Params]:
    """Random parameters (theta_0, phi), keyed by the run's seed."""
    return config.network.init(generator(config.seed, "init"))


class Imported(NamedTuple):
    """An initialisation that was trained elsewhere, and its source as plain JSON values."""

    theta: Params
    source: dict[str, str]


def save_imported(folder: Path, imported: Imported) -> None:
    """Store the initialisation of a run in its folder, with checksums and without pickle."""
    checkpoints.save(folder / IMPORTED, 0, imported.theta, imported.source)


def imported_from(folder: Path) -> str | None:
    """A short checksum of a run's imported parameters, or None if it began with random ones.

    Raises UserError if what was imported is damaged.
    """
    saved = _imported(folder)
    if saved is None:
        return None
    found = saved.document.get("sha256")
    if not isinstance(found, str) or not CHECKSUM.fullmatch(found):
        raise UserError(f"{address(saved.path)}: sha256 = {shown(found)}: should be a checksum")
    return found[:12]


def initial(folder: Path, config: RunConfig) -> tuple[Params, Params]:
    """The parameters (theta_0, phi) that a run starts from: random ones, or an imported theta_0.

    Raises UserError if what was imported is damaged or does not fit the configuration.
    """
    theta, phi = fresh(config)
    saved = _imported(folder)
    if saved is None:
        return theta, phi
    try:
        require_like(saved.tensors, theta)
    except ValueError as error:
        place = address(saved.path)
        raise UserError(f"{place} does not belong to this run: {error}") from error
    return saved.tensors, phi


def _imported(folder: Path) -> Checkpoint | None:
    if not (folder / IMPORTED).is_dir():
        return None
    try:
        return checkpoints.load(folder / IMPORTED, 0)
    except (CheckpointError, OSError) as error:
        raise UserError(f"the imported initialisation cannot be used: {error}") from error
