"""The central learner: from trajectory states to the next warp parameters and initialisation.

State in, state out: :meth:`Learner.update` changes nothing it is given. The gradient is summed
over small chunks of states, which fit the processor's cache, in a fixed order; several threads may
compute the chunks, and the result has the same bits for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from warprl import params as P
from warprl.buffer import Indices, TrajectoryBuffer
from warprl.objective import InitKind, init_gradient, init_kl, init_loss, warp_objective
from warprl.trust_region import DAMPING, STRONG_DAMPING, natural_direction
from warprl.types import MetaLoss, MetaLossValue, Params, StepSize, TaskLoss, Trajectory

CHUNK = 2  # states differentiated in one call: they fit the cache, and threads end together
LONG_CHUNK = 5  # where a network runs step by step, which costs the same for several states
MIN_PENALTY, MAX_PENALTY = 1e-4, 1e2
KL_BAND = 1.5  # the penalty adapts outside [target / 1.5, target * 1.5] (Schulman et al., 2017)
BACKTRACKS, BACKTRACK = 15, 0.8  # of TRPO's line search, as the peers
LONG_SEARCH = 30  # of steps whose objective looks at no policy: the KL says little of their length
PATHS = ("leap", "reptile")  # initialisations with such an objective
SHORTEN, LENGTHEN = 0.5, 1.1  # of the step sizes, after an update that went too far or did not

Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Gt(0)]


@dataclass(frozen=True)
class LearnerConfig:
    """What is learned, from which objective, and how fast.

    ``lr`` is the step size of phi (beta in the paper), ``init_lr`` that of theta_0 (lambda beta).
    ``online`` (algorithm 1) takes one step on all states; ``offline`` (algorithm 2) takes
    ``epochs`` passes over them, without replacement, in ``minibatches`` parts. The KL is that of
    the adapted policies from those that drew the data, and the penalty's coefficient adapts
    towards ``kl_target``. A step after which the KL is found above ``kl_limit`` is taken back and
    ends the update, and the next update's step sizes are halved; they recover by a tenth an update.
    The gradients of phi and of theta_0 are each scaled down to the norm ``max_grad_norm``.

    ``trpo`` takes a single natural-gradient step on all states instead, whatever the schedule, of
    the KL ``kl_limit`` (Schulman et al., ICML 2015). It looks at no other of these numbers. Where
    no length of it improves one of both objectives and worsens none, everything stays. For ``leap``
    and ``reptile``, which have no policy in their objective, the KL is ``fomaml``'s.

    ``two-time-scale`` looks ahead of no step: theta_0 and phi descend the same loss on the data of
    theta_0, phi once in ``warp_every`` updates along the sum of their gradients. So did the
    experiment of the paper's section 4.3 (in its released code, 30).
    """

    objective: Literal["exact", "approximate", "two-time-scale"] = "exact"
    schedule: Literal["online", "offline"] = "offline"
    init: InitKind = "fixed"
    loss: Literal["ppo", "vpg"] = "ppo"
    optimizer: Literal["adam", "trpo"] = "adam"
    lr: Positive = 1e-3
    init_lr: Positive = 1e-3
    clip: Positive = 0.3
    epochs: Count = 5
    minibatches: Count = 1
    kl_coefficient: Annotated[float, Gt(0)] = 5e-4
    kl_target: Positive = 0.02
    kl_limit: Positive = 0.1
    max_grad_norm: Positive = 1.0
    warp_every: Count = 30

    def passes(self) -> tuple[int, int]:
        """Epochs and minibatches of one update under the schedule."""
        return (1, 1) if self.schedule == "online" else (self.epochs, self.minibatches)


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
        """The inverse of :meth:`to_tensors` and :meth:`to_scalars`."""
        return LearnerState(
            theta=P.subtree("theta", tensors),
            phi=P.subtree("phi", tensors),
            moments=P.subtree("moments", tensors),
            kl_coefficient=float(scalars["kl_coefficient"]),
            step_scale=float(scalars["step_scale"]),
            iteration=int(scalars["iteration"]),
            gathered=P.subtree("gathered", tensors),
        )


class Report(NamedTuple):
    """What an update did; ``diverged`` names the tasks of the meta-batch that it left out."""

    metrics: dict[str, float]
    diverged: tuple[int, ...]


class _Gradient(NamedTuple):
    """Sums over states (or tasks), and how many there were."""

    gradient: Params
    loss: float
    kl: float
    states: int
    diverged: frozenset[int]


_NOTHING = _Gradient({}, 0.0, 0.0, 0, frozenset())


class _Part(NamedTuple):
    """What a chunk adds to the gradients of phi and of theta_0."""

    warp: _Gradient = _NOTHING
    init: _Gradient = _NOTHING


@dataclass(frozen=True)
class Learner:
    """The meta-learner of one run: pure functions over :class:`LearnerState`."""

    config: LearnerConfig
    inner_lr: StepSize
    task_loss: TaskLoss
    meta_loss: MetaLoss
    threads: int = 1
    chunk: int = CHUNK

    def init(self, theta: Params, phi: Params) -> LearnerState:
        """The state before the first update."""
        return LearnerState(theta, phi, {}, self.config.kl_coefficient, 1.0, 0)

    def update(
        self, state: LearnerState, trajectory: Trajectory, rng: np.random.Generator
    ) -> tuple[LearnerState, Report]:
        """One meta-update from the trajectories of a meta-batch.

        Tasks that diverged (``trajectory.finite``), or whose meta-gradient is not finite, are left
        out and named. If none remains, only the iteration number changes.
        """
        buffer = TrajectoryBuffer()
        buffer.add(trajectory)
        diverged = set(trajectory.task[~trajectory.finite].tolist())
        # A new thread does not inherit torch's number of threads; with more than one each, those of
        # the pool would wait for one another at every small operation.
        one_each = partial(torch.set_num_threads, 1)
        with ThreadPoolExecutor(self.threads, initializer=one_each) as pool:
            if self.config.optimizer == "trpo":
                updated = self._trust_region(pool, state, buffer, diverged)
            else:
                updated = self._epochs(pool, state, buffer, diverged, rng)
        buffer.clear()
        return updated

    def _epochs(
        self,
        pool: ThreadPoolExecutor,
        state: LearnerState,
        buffer: TrajectoryBuffer,
        diverged: set[int],
        rng: np.random.Generator,
    ) -> tuple[LearnerState, Report]:
        """Adam, pass after pass, as far as the KL allows."""
        trainer = _Trainer(self.config, state)
        last, too_far = _Joint({}, {}, 0.0, (0.0, 0.0), 0.0, frozenset()), False
        epochs, minibatches = self.config.passes()
        parts = (part for _ in range(epochs) for part in buffer.draw(rng, minibatches))
        for numbers, rows in parts:
            theta, phi = P.detach(trainer.theta), P.detach(trainer.phi)
            joint = self._gradient(pool, buffer, theta, phi, numbers, rows, state.kl_coefficient)
            if trainer.steps and not joint.diverged <= diverged:
                # What is not finite where the update began is the task's fault, the rest is the
                # steps'.
                coefficient = state.kl_coefficient
                start = state.theta, state.phi
                diverged |= self._gradient(
                    pool, buffer, *start, numbers, rows, coefficient
                ).diverged
            lost = trainer.steps > 0 and not joint.diverged <= diverged
            if not lost:
                diverged |= joint.diverged
                if not (joint.theta or joint.phi):
                    continue
                last = joint
            too_far = trainer.steps > 0 and (lost or joint.kl > self.config.kl_limit)
            if too_far:
                trainer.undo()
                break
            trainer.step(joint.theta, joint.phi)
        coefficient, scale = state.kl_coefficient, state.step_scale
        if trainer.steps or too_far:
            coefficient = _adapt_penalty(coefficient, last.kl, self.config.kl_target)
            scale = scale * SHORTEN if too_far else min(scale * LENGTHEN, 1.0)
        return trainer.state(coefficient, scale), _report(state, last, trainer.steps, diverged)

    def _trust_region(
        self,
        pool: ThreadPoolExecutor,
        state: LearnerState,
        buffer: TrajectoryBuffer,
        diverged: set[int],
    ) -> tuple[LearnerState, Report]:
        """One natural-gradient step, shortened until it is an improvement within the KL limit.

        phi and theta_0 move together, and each descends an objective of its own. Their sum is
        nobody's: a large fall of one would pay for a rise of the other. So at the point that both
        have moved to neither may have risen. Where both are the same function (a single inner
        step), that is TRPO's own condition.
        """
        sound = buffer.without(diverged)
        at = self._gradient(pool, buffer, state.theta, state.phi, *sound, 0.0)
        if at.diverged:  # both objectives have to be of the same tasks, to be compared below
            diverged |= at.diverged
            sound = buffer.without(diverged)
            at = self._gradient(pool, buffer, state.theta, state.phi, *sound, 0.0)
        directions, size = {}, 0.0
        of_paths = self.config.init in PATHS
        for group, gradient in (("theta", at.theta), ("phi", at.phi)):
            if gradient:
                product = self._curvature(pool, buffer, state, group, *sound)
                damping = STRONG_DAMPING if group == "theta" and of_paths else DAMPING
                direction, square = natural_direction(product, P.flatten(gradient), damping)
                directions[group], size = P.unflatten(direction, gradient), size + square
        theta, phi, found, steps = state.theta, state.phi, at, 0
        length = float(np.sqrt(2.0 * self.config.kl_limit / size)) if size > 0.0 else 0.0
        lengths = LONG_SEARCH if of_paths else BACKTRACKS
        for n in range(lengths if directions else 0):
            moved = [
                {k: x - BACKTRACK**n * length * directions[g][k] for k, x in old.items()}
                if g in directions
                else old
                for g, old in (("theta", state.theta), ("phi", state.phi))
            ]
            there = self._gradient(pool, buffer, moved[0], moved[1], *sound, 0.0)
            if _improves(there, at) and there.kl <= self.config.kl_limit:
                (theta, phi), found, steps = moved, there, 1
                break
        after = replace(state, theta=theta, phi=phi, iteration=state.iteration + 1)
        return after, _report(state, found._replace(theta=at.theta, phi=at.phi), steps, diverged)

    def _curvature(
        self,
        pool: ThreadPoolExecutor,
        buffer: TrajectoryBuffer,
        state: LearnerState,
        group: str,
        numbers: Indices,
        rows: Indices,
    ) -> Callable[[Tensor], Tensor]:
        """The product of a vector with the Hessian of the mean KL in one group of parameters."""
        old = state.phi if group == "phi" else state.theta

        def kl(chunk: Indices, leaves: Params) -> Tensor:
            losses = self.task_loss, self.meta_loss
            if group == "phi":
                assert self.config.objective != "two-time-scale"
                states = buffer.states(chunk)
                return warp_objective(
                    self.config.objective, *losses, state.theta, leaves, states, self.inner_lr, 0.0
                ).value.kl
            start, trajectories = P.broadcast(leaves, len(chunk)), buffer.trajectories(chunk)
            return init_kl(self.config.init, *losses, start, state.phi, trajectories, self.inner_lr)

        items = numbers if group == "phi" else rows

        def product(vector: Tensor) -> Tensor:
            def of(chunk: Indices) -> Tensor:
                leaves = P.leaves(old)
                inputs = list(leaves.values())
                slopes = torch.autograd.grad(
                    kl(chunk, leaves).sum(), inputs, create_graph=True, materialize_grads=True
                )
                rise = P.flatten(dict(zip(leaves, slopes, strict=True))).dot(vector)
                found = torch.autograd.grad(rise, inputs, materialize_grads=True)
                return P.flatten(dict(zip(leaves, found, strict=True)))

            parts = list(pool.map(of, self._chunks(items)))
            return torch.stack(parts).sum(0) / len(items)

        return product

    def _gradient(
        self,
        pool: ThreadPoolExecutor,
        buffer: TrajectoryBuffer,
        theta: Params,
        phi: Params,
        numbers: Indices,
        rows: Indices,
        kl_coefficient: float,
    ) -> _Joint:
        """The joint gradient on some states and some trajectories.

        First-order MAML's is the outer factor of the look-ahead's from the last visited point: with
        warps it is had on the way to theirs, from the states, and the trajectories are not needed.
        """
        if self.config.objective == "two-time-scale":
            return self._gradient_at_start(pool, buffer, theta, phi, rows, kl_coefficient)
        kind, objective = self.config.init, self.config.objective
        on_the_way = bool(phi) and kind == "fomaml"

        def warp(chunk: Indices) -> _Part:
            leaves = P.leaves(phi)
            states = buffer.states(chunk)
            ahead, value = warp_objective(
                objective, self.task_loss, self.meta_loss,
                theta, leaves, states, self.inner_lr, kl_coefficient,
            )  # fmt: skip
            inputs = [*leaves.values(), *(ahead.values() if on_the_way else ())]
            gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
            part = _Part(_summed({name: next(gradients) for name in leaves}, value, states.task))
            if not on_the_way:
                return part
            end = states.step == buffer.steps - 1
            by_theta = {name: next(gradients)[end].sum(0) for name in ahead}
            at_end = MetaLossValue(value.loss[end], value.kl[end])
            return part._replace(init=_summed(by_theta, at_end, states.task[end]))

        def init(chunk: Indices) -> _Part:
            trajectories = buffer.trajectories(chunk)
            stacked, value = init_gradient(
                kind, self.task_loss, self.meta_loss,
                theta, phi, trajectories, self.inner_lr, kl_coefficient,
            )  # fmt: skip
            if kind in PATHS and self.config.optimizer == "trpo":
                start = P.broadcast(theta, len(chunk))
                kl = init_kl(
                    kind, self.task_loss, self.meta_loss, start, phi, trajectories, self.inner_lr
                )
                value = value._replace(kl=kl)
            gradient = P.tree_map(lambda g: g.sum(0), stacked)
            return _Part(init=_summed(gradient, value, trajectories.task))

        jobs = [(warp, chunk) for chunk in self._chunks(numbers)] if phi else []
        if kind != "fixed" and not on_the_way:
            jobs += [(init, chunk) for chunk in self._chunks(rows)]
        parts = list(pool.map(lambda job: _finite(*job), jobs))
        return _joint(_mean([part.warp for part in parts]), _mean([part.init for part in parts]))

    def _gradient_at_start(
        self,
        pool: ThreadPoolExecutor,
        buffer: TrajectoryBuffer,
        theta: Params,
        phi: Params,
        rows: Indices,
        kl_coefficient: float,
    ) -> _Joint:
        """The gradients of the meta-loss at theta_0, without any step, in phi and theta_0."""

        def both(chunk: Indices) -> _Part:
            trajectories = buffer.trajectories(chunk)
            initial, warps = P.leaves(theta), P.leaves(phi)
            value = init_loss(
                "maml", self.task_loss, self.meta_loss,
                P.broadcast(initial, len(chunk)), warps, trajectories,
                self.inner_lr, kl_coefficient,
            )  # fmt: skip
            inputs = [*warps.values(), *initial.values()]
            gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
            found = [{name: next(gradients) for name in group} for group in (warps, initial)]
            return _Part(*(_summed(gradient, value, trajectories.task) for gradient in found))

        parts = list(pool.map(lambda chunk: _finite(both, chunk), self._chunks(rows)))
        return _joint(_mean([part.warp for part in parts]), _mean([part.init for part in parts]))

    def _chunks(self, numbers: Indices) -> Iterable[Indices]:
        return [numbers[i : i + self.chunk] for i in range(0, len(numbers), self.chunk)]


class _Joint(NamedTuple):
    """The mean gradients of both objectives, with the meta-loss and the larger KL.

    A gradient is empty where nothing finite contributed to it; its parameters then stay. The
    meta-loss is that of the warps where there are any; ``losses`` are those of both.
    """

    theta: Params
    phi: Params
    loss: float
    losses: tuple[float, float]
    kl: float
    diverged: frozenset[int]


def _joint(warp: _Gradient, init: _Gradient) -> _Joint:
    driver = warp if warp.gradient else init
    return _Joint(
        init.gradient,
        warp.gradient,
        driver.loss,
        (warp.loss, init.loss),
        max(warp.kl, init.kl),
        warp.diverged | init.diverged,
    )


def _improves(there: _Joint, at: _Joint) -> bool:
    """Whether no loss is above what it was, one is below, and none was lost."""
    pairs = list(zip(there.losses, at.losses, strict=True))
    return not there.diverged and all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


class _Trainer:
    """Adam over phi and theta_0 for the length of one update."""

    def __init__(self, config: LearnerConfig, state: LearnerState) -> None:
        self.theta = P.leaves(P.tree_map(torch.clone, state.theta))
        self.phi = P.leaves(P.tree_map(torch.clone, state.phi))
        self.steps = 0
        self._gathered = state.gathered
        self._slow = config.objective == "two-time-scale"
        self._due = (state.iteration + 1) % config.warp_every == 0
        self._max_norm = config.max_grad_norm
        self._iteration = state.iteration
        self._named = P.prefix("theta", self.theta) | P.prefix("phi", self.phi)
        groups = [
            {"params": list(self.theta.values()), "lr": config.init_lr * state.step_scale},
            {"params": list(self.phi.values()), "lr": config.lr * state.step_scale},
        ]
        self._adam = torch.optim.Adam([group for group in groups if group["params"]])
        self._set_moments(state.moments)

    def step(self, theta_gradient: Params, phi_gradient: Params) -> None:
        """One Adam step along the two gradients, each clipped by its norm."""
        self._before = P.tree_map(torch.clone, P.detach(self._named)), self._moments()
        if self._slow:
            phi_gradient = self._turn_of_phi(phi_gradient)
        gradients = P.prefix("theta", theta_gradient) | P.prefix("phi", phi_gradient)
        for name, parameter in self._named.items():
            parameter.grad = gradients.get(name)  # Adam's momentum moves nothing without one
        for group in self._adam.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self._max_norm)
        self._adam.step()
        self.steps += 1

    def undo(self) -> None:
        """Take the last step back, out of Adam's memory too."""
        values, moments = self._before
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(values[name])
        self._set_moments(moments)
        self.steps -= 1

    def state(self, kl_coefficient: float, step_scale: float) -> LearnerState:
        """The learner's state after these steps."""
        return LearnerState(
            P.detach(self.theta), P.detach(self.phi), self._moments(),
            kl_coefficient, step_scale, self._iteration + 1, self._gathered,
        )  # fmt: skip

    def _turn_of_phi(self, gradient: Params) -> Params:
        """All of phi's gradients since its last step if it is due, else none."""
        total = P.add(self._gathered, gradient) if self._gathered else gradient
        self._gathered = {} if self._due else total
        return total if self._due else {}

    def _moments(self) -> dict[str, Tensor]:
        moments: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            moments |= P.prefix(name, P.tree_map(torch.clone, self._adam.state.get(parameter, {})))
        return moments

    def _set_moments(self, moments: dict[str, Tensor]) -> None:
        self._adam.state.clear()
        for name, parameter in self._named.items():
            own = P.subtree(name, moments)
            if own:
                self._adam.state[parameter] = P.tree_map(torch.clone, own)


def _report(state: LearnerState, at: _Joint, steps: int, diverged: set[int]) -> Report:
    metrics = {
        "meta_loss": at.loss,
        "kl": at.kl,
        "grad_norm": float(torch.hypot(P.norm(at.theta), P.norm(at.phi))),
        "meta_steps": float(steps),
        "kl_coefficient": state.kl_coefficient,
        "step_scale": state.step_scale,
    }
    return Report(metrics, tuple(sorted(diverged)))


def _summed(gradient: Params, value: MetaLossValue, task: Tensor) -> _Gradient:
    finite = P.all_finite(gradient) and bool(torch.isfinite(value.loss).all())
    diverged = frozenset() if finite else frozenset(task.tolist())
    loss, kl = (float(x.detach().sum()) for x in value)
    return _Gradient(gradient, loss, kl, len(task), diverged)


def _finite(function: Callable[[Indices], _Part], chunk: Indices) -> _Part:
    """The chunk's gradients without the states that make them non-finite, which are named."""
    whole = function(chunk)
    diverged = whole.warp.diverged | whole.init.diverged
    if not diverged:
        return whole
    if len(chunk) == 1:
        return _Part(_NOTHING._replace(diverged=diverged))
    parts = [_finite(function, chunk[i : i + 1]) for i in range(len(chunk))]
    return _Part(_sum([part.warp for part in parts]), _sum([part.init for part in parts]))


def _sum(parts: list[_Gradient]) -> _Gradient:
    total = _NOTHING
    for part in parts:
        if part.states:
            gradient = P.add(total.gradient, part.gradient) if total.states else part.gradient
            total = _Gradient(
                gradient,
                total.loss + part.loss,
                total.kl + part.kl,
                total.states + part.states,
                total.diverged,
            )
        total = total._replace(diverged=total.diverged | part.diverged)
    return total


def _mean(parts: list[_Gradient]) -> _Gradient:
    total = _sum(parts)
    count = total.states
    if not count:
        return total._replace(gradient={})
    return total._replace(
        gradient=P.tree_map(lambda g: g / count, total.gradient),
        loss=total.loss / count,
        kl=total.kl / count,
    )


def _adapt_penalty(coefficient: float, kl: float, target: float) -> float:
    if kl > target * KL_BAND:
        coefficient *= 2.0
    elif kl < target / KL_BAND:
        coefficient /= 2.0
    # Bounded, so that a long calm (or a single step, which sees no KL) leaves a brake to grow from.
    return min(max(coefficient, MIN_PENALTY), MAX_PENALTY)
