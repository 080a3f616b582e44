"""Ray workers, which adapt to shards of a meta-batch and compute gradients where the data are.

A request says which shard it is about, where the adaptation began, and what is asked of the
trajectories. A worker keeps the trajectories of one meta-batch; if it does not have those of a
shard, it makes them, with the same bits as any other worker. So any worker can answer any request,
at any time.
"""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple, Protocol

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl import params as P
from warprl.agents.inner import Shard, adapt
from warprl.agents.meta import Agent
from warprl.agents.timing import Timing
from warprl.envs import make_family
from warprl.launch.machine import keep_freed_memory
from warprl.launch.search_path import look_for
from warprl.meta_batch import At, Group, InMemory
from warprl.sums import GradientSums, Sums
from warprl.trajectories import Selection
from warprl.tree import Span
from warprl.types import BatchEnv, Params

Arrays = dict[str, NDArray[Any]]


class Question(Protocol):
    """Something that is asked of the trajectories of a shard."""

    def __call__(self, here: InMemory) -> Any:
        """The answer, made of what Ray moves without copying: arrays and plain data."""
        ...


@dataclass(frozen=True)
class Start:
    """Where the adaptations of a meta-batch begin, and how many tasks there are in all."""

    number: int  # of the meta-batch, among those of a sampler
    tasks: int
    parameters: Any  # a reference to the arrays theta.* and phi.*, fetched only if needed


class Facts(NamedTuple):
    """What the learner's process keeps of a shard: see :class:`warprl.types.Trajectory`."""

    returns: NDArray[Any]  # [T, K+1]
    finite: NDArray[np.bool_]  # [T]
    steps: int


@dataclass(frozen=True)
class AskFacts:
    """Returns, and who stayed finite."""

    def __call__(self, here: InMemory) -> Facts:
        """See :class:`Facts`."""
        return Facts(here.returns.cpu().numpy(), here.finite.cpu().numpy(), here.steps)


@dataclass(frozen=True)
class AskGradient:
    """The sums of the meta-gradient; see :meth:`warprl.meta_batch.InMemory.gradient_parts`."""

    parameters: Arrays  # theta.* and phi.*
    kl_coefficient: float
    which: Selection

    def __call__(self, here: InMemory) -> dict[Span, list[tuple[Any, ...]]]:
        """The sums of the largest subtrees in the shard, to be read by :func:`read_sums`."""
        at = _at(self.parameters, self.kl_coefficient, here)
        found = here.gradient_parts(at, self.which)
        return {
            span: [(to_arrays(part.gradient), *part[1:]) for part in sums]
            for span, sums in found.items()
        }


def read_sums(found: list[tuple[Any, ...]], device: str | torch.device) -> GradientSums:
    """Sums of gradients on a device, from the form in which they travel."""
    return GradientSums(*(Sums(to_tensors(arrays, device), *rest) for arrays, *rest in found))


@dataclass(frozen=True)
class AskCurvature:
    """Summed Hessian products; see :meth:`warprl.meta_batch.InMemory.curvature_parts`."""

    parameters: Arrays  # theta.* and phi.*
    group: Group
    which: Selection
    vector: NDArray[Any]

    def __call__(self, here: InMemory) -> dict[Span, NDArray[Any]]:
        """The products of the largest subtrees in the shard."""
        at, vector = _at(self.parameters, 0.0, here), to_tensor(self.vector, here.task.device)
        found = here.curvature_parts(at, self.group, self.which, vector)
        return {span: product.cpu().numpy() for span, product in found.items()}


class Answer(NamedTuple):
    """The answer to a question, and what it took.

    Args:
        content: the answer.
        sampling: seconds that its trajectories took, if they were made for it.
        busy: seconds that all of it took.
    """

    content: Any
    sampling: Timing
    busy: float


class Worker:
    """Adapts an agent to the tasks of one family, on one thread; an actor of Ray."""

    def __init__(self, family: str, agent: Agent, device: str, folders: Sequence[str] = ()) -> None:
        """``family`` is a name, because physics cannot be sent to another process.

        Its module may lie in ``folders``, which are those of the learner's process.
        """
        look_for(family, folders)
        _hear_no_stop()
        torch.set_num_threads(1)
        keep_freed_memory()
        self._family, self._agent, self._device = make_family(family), agent, device
        self._simulated: BatchEnv | None = None
        self._number = 0
        self._here: dict[tuple[int, ...], InMemory] = {}  # by the positions of the tasks

    def answer(self, shard: Shard, start: Start, question: Question) -> Answer:
        """The answer of a shard's trajectories, which are made first if they are not here."""
        began = time.perf_counter()
        if start.number != self._number:  # what is left of an earlier meta-batch
            self._here.clear()
            self._number = start.number
        key, timing = tuple(shard.indices), Timing()
        if key not in self._here:
            self._here[key], timing = self._sample(shard, start)
        content = question(self._here[key])
        return Answer(content, timing, time.perf_counter() - began)

    def _sample(self, shard: Shard, start: Start) -> tuple[InMemory, Timing]:
        named, agent = to_tensors(ray.get(start.parameters)), self._agent
        env = self._simulations(len(shard.tasks) * agent.adaptation.episodes)
        theta, phi = (P.subtree(group, named) for group in ("theta", "phi"))
        trajectory, timing = adapt(env, agent.policy, theta, phi, shard, agent.adaptation)
        return agent.gather([trajectory], 1, self._device, (0, start.tasks)), timing

    def _simulations(self, number: int) -> BatchEnv:
        if self._simulated is None or self._simulated.num_envs != number:
            self._simulated = self._family.make_batch(number)
        return self._simulated


def _hear_no_stop() -> None:
    """Ignore SIGTERM and SIGHUP in this process, but in none that it starts.

    A signal that stops the run may go to all of its processes, and the iteration is to end first.
    """
    mine, numbers = os.getpid(), (signal.SIGTERM, signal.SIGHUP)

    def ignore(number: int, frame: FrameType | None) -> None:
        if os.getpid() != mine:  # a process that was forked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in numbers:
        signal.signal(number, ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def to_arrays(params: Params) -> Arrays:
    """The same values as arrays, which Ray moves without copying."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in params.items()}


def to_tensors(arrays: Arrays, device: str | torch.device = "cpu") -> Params:
    """The inverse of :func:`to_arrays`, on any device."""
    return {name: to_tensor(array, device) for name, array in arrays.items()}


def to_tensor(array: NDArray[Any], device: str | torch.device = "cpu") -> Tensor:
    """A tensor of an array; on the processor a view, which must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array)).to(device)


def _at(parameters: Arrays, kl_coefficient: float, here: InMemory) -> At:
    named = to_tensors(parameters, here.task.device)
    return At(P.subtree("theta", named), P.subtree("phi", named), kl_coefficient)
