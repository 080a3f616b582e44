"""The central learner: from a meta-batch to the next warp parameters and initialisation.

State in, state out: :meth:`Learner.update` changes nothing that it is given. It asks the meta-batch
for gradients and takes outer steps along them: Adam (:mod:`warprl.adam`), pass after pass as far as
the KL allows, or one natural step (:mod:`warprl.natural_step`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from warprl import params as P
from warprl.adam import Adam, Point, adam_init, adam_step, require_moments
from warprl.counts import shown
from warprl.initialisation import INITIALISATIONS, LEARNED_INIT, META_LOSS
from warprl.keys import LEARNING, SEVERAL_STEPS, WARPS, Key, Need
from warprl.meta_batch import MetaBatch, finite_tasks
from warprl.natural_step import Trpo, natural_step
from warprl.objective import InitKind, LookAhead, Objective, TwoTimeScale
from warprl.sums import Gradients, mean_gradients
from warprl.threads import one_thread
from warprl.trajectories import Selection, draw
from warprl.types import Params

MIN_PENALTY, MAX_PENALTY = 1e-4, 1e2
KL_BAND = 1.5  # the penalty adapts outside [target / 1.5, target * 1.5] (Schulman et al., 2017)
_LATER = META_LOSS, SEVERAL_STEPS  # every loss has the policy gradient at first
SHORTEN, LENGTHEN = 0.5, 1.1  # of the step sizes, after an update that went too far or did not
GROUPS = ("theta", "phi", "moments", "gathered")  # of the tensors of a state


@dataclass(frozen=True)
class Ppo:
    """The meta-loss is the likelihood-ratio surrogate, clipped (Schulman et al., PPO, 2017)."""

    type: Annotated[Literal["ppo"], Key("the clipped surrogate", *_LATER)] = "ppo"
    clip: Annotated[
        float, Gt(0), Key("largest distance of a likelihood ratio from 1 that counts")
    ] = 0.3


@dataclass(frozen=True)
class Vpg:
    """The meta-loss is the plain surrogate, whose gradient is the policy gradient."""

    type: Annotated[Literal["vpg"], Key("the plain surrogate", *_LATER)] = "vpg"


Loss: TypeAlias = Ppo | Vpg
Outer: TypeAlias = Adam | Trpo


@dataclass(frozen=True)
class LearnerConfig:
    """What is learned, from which objective and loss, and by which outer steps."""

    objective: Objective = LookAhead()
    init: InitKind = "fixed"
    loss: Loss = Ppo()
    outer: Outer = Adam()

    def require_consistent(self) -> None:
        """Raise ValueError, in one line, for parts that cannot work together."""
        if isinstance(self.objective, TwoTimeScale) and not (
            isinstance(self.outer, Adam) and self.outer.steps == 1
        ):
            raise ValueError(
                "objective.type = two-time-scale needs outer.type = adam, outer.epochs = 1 and "
                "outer.minibatches = 1: the warps gather one gradient an iteration"
            )

    def met(self, phi: bool) -> set[Need]:
        """What keys of the learner may need and find here, where phi has parameters or has none."""
        kind = INITIALISATIONS[self.init]
        found = {
            WARPS: phi,
            LEARNED_INIT: kind.learned,
            LEARNING: phi or kind.learned,
            META_LOSS: phi or kind.meta_loss,
            SEVERAL_STEPS: not isinstance(self.outer, Adam) or self.outer.steps > 1,
        }
        return {need for need, here in found.items() if here}


@dataclass(frozen=True)
class LearnerState:
    """Everything an update depends on and changes.

    ``moments`` are Adam's, named ``theta.<parameter>.<moment>`` and ``phi.<parameter>.<moment>``;
    ``gathered`` is the sum of phi's gradients that wait for its turn (``two-time-scale``).
    """

    theta: Params  # the initialisation theta_0, unstacked
    phi: Params
    moments: dict[str, Tensor]
    kl_coefficient: float
    step_scale: float  # of both step sizes, in (0, 1]
    iteration: int
    gathered: Params = field(default_factory=dict)

    def to_tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, for a checkpoint."""
        return (
            P.prefix("theta", self.theta)
            | P.prefix("phi", self.phi)
            | P.prefix("moments", self.moments)
            | P.prefix("gathered", self.gathered)
        )

    def to_scalars(self) -> dict[str, float | int]:
        """What :meth:`to_tensors` leaves out, as JSON-able numbers."""
        return {
            "kl_coefficient": self.kl_coefficient,
            "step_scale": self.step_scale,
            "iteration": self.iteration,
        }

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], scalars: dict[str, float | int]) -> LearnerState:
        """The inverse of :meth:`to_tensors` and :meth:`to_scalars`.

        Args:
            tensors: as the former returns them.
            scalars: as the latter does.

        Returns:
            The state.

        Raises:
            ValueError: in one line, for a tensor that belongs to no part of a state.
        """
        for name in tensors:
            if name.partition(".")[0] not in GROUPS:
                raise ValueError(f"{shown(name)} does not belong there")
        return LearnerState(
            theta=P.subtree("theta", tensors),
            phi=P.subtree("phi", tensors),
            moments=P.subtree("moments", tensors),
            kl_coefficient=float(scalars["kl_coefficient"]),
            step_scale=float(scalars["step_scale"]),
            iteration=int(scalars["iteration"]),
            gathered=P.subtree("gathered", tensors),
        )

    def to_device(self, device: str | torch.device) -> LearnerState:
        """The same state on another device."""
        tensors = P.tree_map(lambda tensor: tensor.to(device), self.to_tensors())
        return LearnerState.from_tensors(tensors, self.to_scalars())


class Report(NamedTuple):
    """What an update did; ``diverged`` names the tasks of the meta-batch that it left out."""

    metrics: dict[str, float]
    diverged: tuple[int, ...]


@dataclass(frozen=True)
class Learner:
    """The meta-learner of one run: pure functions over :class:`LearnerState`."""

    config: LearnerConfig

    def init(self, theta: Params, phi: Params) -> LearnerState:
        """The state before the first update.

        Args:
            theta: the initialisation theta_0 ``[...]``.
            phi: the warp parameters ``[...]``.

        Returns:
            The state at iteration 0.
        """
        outer = self.config.outer
        if not isinstance(outer, Adam):
            return LearnerState(theta, phi, {}, 0.0, 1.0, 0)
        moments = _moments(adam_init(theta), adam_init(phi))
        return LearnerState(theta, phi, moments, outer.kl_coefficient, 1.0, 0)

    def require_fit(self, state: LearnerState, theta: Params, phi: Params) -> None:
        """Make sure of a state from elsewhere, such as a file.

        Args:
            state: where the learner may have stood.
            theta: an initialisation of the names, shapes and types that the state's should have.
            phi: warp parameters of those that it should have.

        Raises:
            ValueError: in one line, for a state in which this learner is never.
        """
        # The parameters. Their order decides how sums over them are rounded.
        for group, found, expected in (("theta", state.theta, theta), ("phi", state.phi, phi)):
            P.require_like(P.prefix(group, found), P.prefix(group, expected))
            if list(found) != list(expected):
                raise ValueError(f"{group} should be in the order {', '.join(expected)}")

        # The moments of Adam, and gradients that wait for their turn.
        moved = P.prefix("theta", theta) | P.prefix("phi", phi)
        adam = isinstance(self.config.outer, Adam)
        require_moments(Point(moved if adam else {}, state.moments))
        slow = isinstance(self.config.objective, TwoTimeScale)
        waiting = {name: x for name, x in phi.items() if slow and name in state.gathered}
        P.require_like(P.prefix("gathered", state.gathered), P.prefix("gathered", waiting))

    def update(
        self, state: LearnerState, batch: MetaBatch, rng: np.random.Generator
    ) -> tuple[LearnerState, Report]:
        """One meta-update from the trajectories of a meta-batch.

        Args:
            state: where the learner stands.
            batch: the meta-batch, drawn under the state's theta_0 and phi.
            rng: decides which states and tasks share a minibatch.

        Returns:
            The next state and what the update did. Tasks that diverged (``batch.finite``), or whose
            meta-gradient is not finite, are left out and named. If none remains, only the iteration
            number changes.
        """
        diverged = frozenset(batch.task[~batch.finite].tolist())
        with one_thread():  # several would add up the numbers of a large tensor in another order
            if isinstance(self.config.outer, Trpo):
                return self._trust_region(self.config.outer, state, batch, diverged)
            return self._descend(self.config.outer, state, batch, diverged, rng)

    def _descend(
        self,
        adam: Adam,
        state: LearnerState,
        batch: MetaBatch,
        diverged: frozenset[int],
        rng: np.random.Generator,
    ) -> tuple[LearnerState, Report]:
        """Adam, pass after pass, as far as the KL allows."""

        def gradients(at: LearnerState, which: Selection) -> Gradients:
            sums = batch.gradient(at.theta, at.phi, which, state.kl_coefficient)
            return mean_gradients(sums)

        def step(at: LearnerState, found: Gradients) -> LearnerState:
            return self._step(adam, at, found)

        # The passes.
        parts = (
            part
            for _ in range(adam.epochs)
            for part in draw(rng, finite_tasks(batch), adam.minibatches)
        )
        done = guarded(state, parts, gradients, step, adam.kl_limit, diverged)

        # What adapts from update to update.
        coefficient, scale = state.kl_coefficient, state.step_scale
        if done.steps or done.too_far:
            coefficient = _adapt_penalty(coefficient, done.last.kl, adam.kl_target)
            scale = scale * SHORTEN if done.too_far else min(scale * LENGTHEN, 1.0)
        after = replace(
            done.state,
            kl_coefficient=coefficient,
            step_scale=scale,
            iteration=state.iteration + 1,
        )
        return after, _report(state, done.last, done.steps, done.diverged)

    def _step(self, adam: Adam, at: LearnerState, found: Gradients) -> LearnerState:
        """One Adam step of theta_0 and one of phi, each along its own gradient."""
        # On two time scales phi waits for its turn, and then steps along the sum.
        of_phi, gathered = found.phi, at.gathered
        if isinstance(self.config.objective, TwoTimeScale):
            total = P.add(gathered, of_phi) if gathered else of_phi
            due = (at.iteration + 1) % self.config.objective.warp_every == 0
            of_phi, gathered = (total, {}) if due else ({}, total)

        theta, phi = (
            Point(params, P.subtree(group, at.moments))
            for group, params in (("theta", at.theta), ("phi", at.phi))
        )
        theta = adam_step(theta, found.theta, adam.init_lr * at.step_scale, adam)
        phi = adam_step(phi, of_phi, adam.warp_lr * at.step_scale, adam)
        moments = _moments(theta, phi)
        return replace(at, theta=theta.params, phi=phi.params, moments=moments, gathered=gathered)

    def _trust_region(
        self, trpo: Trpo, state: LearnerState, batch: MetaBatch, diverged: frozenset[int]
    ) -> tuple[LearnerState, Report]:
        """One natural step on all states of the tasks whose gradient is finite."""
        which = finite_tasks(batch, diverged)
        at = mean_gradients(batch.gradient(state.theta, state.phi, which, 0.0))
        if at.diverged:  # both objectives have to be of the same tasks, to be compared
            diverged |= at.diverged
            which = finite_tasks(batch, diverged)
            at = mean_gradients(batch.gradient(state.theta, state.phi, which, 0.0))
        meta_loss = INITIALISATIONS[self.config.init].meta_loss
        done = natural_step(trpo, batch, at, (state.theta, state.phi), which, meta_loss)
        after = replace(state, theta=done.theta, phi=done.phi, iteration=state.iteration + 1)
        return after, _report(state, done.found, int(done.taken), diverged)


class Guarded(NamedTuple):
    """Where the passes ended, the last gradients that counted, and whether a step was undone."""

    state: LearnerState
    last: Gradients
    steps: int
    too_far: bool
    diverged: frozenset[int]


def guarded(
    start: LearnerState,
    parts: Iterable[Selection],
    gradients: Callable[[LearnerState, Selection], Gradients],
    step: Callable[[LearnerState, Gradients], LearnerState],
    kl_limit: float,
    diverged: frozenset[int],
) -> Guarded:
    """Outer steps, part after part, until one went too far: the KL guard round any of them.

    A step went too far if the KL is found above its limit afterwards, or a gradient is not finite
    that was so where the update began. It is then taken back, and the update ends.

    Args:
        start: where the update begins.
        parts: the parts of the meta-batch, one for each step.
        gradients: the mean gradients at a state on a part.
        step: one outer step along gradients.
        kl_limit: the largest KL.
        diverged: the tasks that are left out already.

    Returns:
        The state after the last step that counts, and what was found on the way.
    """
    at = before = start
    last, steps = Gradients({}, {}, 0.0, (0.0, 0.0), 0.0, frozenset()), 0
    for part in parts:
        found = gradients(at, part)

        # What is not finite where the update began is the task's fault, the rest is the steps'.
        if steps and not found.diverged <= diverged:
            diverged |= gradients(start, part).diverged
        lost = steps > 0 and not found.diverged <= diverged
        if not lost:
            diverged |= found.diverged
            if not (found.theta or found.phi):
                continue
            last = found

        # The step before went too far: take it back.
        if steps and (lost or found.kl > kl_limit):
            return Guarded(before, last, steps - 1, True, diverged)
        before, at, steps = at, step(at, found), steps + 1
    return Guarded(at, last, steps, False, diverged)


def _report(state: LearnerState, at: Gradients, steps: int, diverged: frozenset[int]) -> Report:
    metrics = {
        "meta_loss": at.loss,
        "kl": at.kl,
        "grad_norm": float(torch.hypot(P.norm(at.theta), P.norm(at.phi))),
        "meta_steps": float(steps),
        "kl_coefficient": state.kl_coefficient,
        "step_scale": state.step_scale,
    }
    return Report(metrics, tuple(sorted(diverged)))


def _moments(theta: Point, phi: Point) -> dict[str, Tensor]:
    return P.prefix("theta", theta.moments) | P.prefix("phi", phi.moments)


def _adapt_penalty(coefficient: float, kl: float, target: float) -> float:
    if kl > target * KL_BAND:
        coefficient *= 2.0
    elif kl < target / KL_BAND:
        coefficient /= 2.0
    # Bounded, so that the penalty can grow again after many updates with a small KL.
    return min(max(coefficient, MIN_PENALTY), MAX_PENALTY)
