"""A crew of Ray workers: it puts questions to them, and goes on when some of them are lost.

The shards of a lost worker go to those that live; Ray starts the worker anew as soon as there is a
core for it, and it gets a shard again with the next meta-batch.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from warprl.agents.inner import Shard
from warprl.agents.timing import Cost, waiting
from warprl.launch.errors import WorkersLostError, one_line
from warprl.launch.training.workers import Answer, Question, Start

POLL_S = 0.2

log = logging.getLogger(__name__)


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """Turn an error of Ray itself into WorkersLostError; those of workers' programs stay."""
    try:
        yield
    except RayTaskError:
        raise
    except RayError as error:
        reason = f"{type(error).__name__}: {one_line(error)[:160]}"
        raise WorkersLostError(
            f"Ray failed: {reason}: 'warprl resume' continues the run"
        ) from error


class Lost(NamedTuple):
    """In place of an answer: why a worker was lost."""

    reason: str


@dataclass(frozen=True)
class Piece:
    """A shard, the number of the worker that has it, and how many it has cost in a row.

    Losses are in a row if the crew gave no answer between them; ``answers`` are those that it had
    given before the last one.
    """

    shard: Shard
    worker: int
    losses: int = 0
    answers: int = 0


@dataclass
class Crew:
    """Workers that answer questions about shards.

    Args:
        actors: their handles; Ray restarts those that die.
        timeout_s: seconds after which a worker that has not answered is replaced.
        restart_timeout_s: seconds to wait for any of them when all are lost.
        max_losses: how many workers in a row a shard may cost; more, and it is the likely cause.
        stopping: whether the run is to end, so that lost workers are not waited for.
    """

    actors: list[Any]
    timeout_s: float
    restart_timeout_s: float
    max_losses: int = 4
    stopping: Callable[[], bool] = lambda: False
    cost: Cost = Cost()  # of all questions so far
    # Lost workers, each with the sign that it is back.
    _away: dict[int, Any] = field(default_factory=dict, init=False)
    _answers: int = field(default=0, init=False)  # so far

    def living(self) -> list[int]:
        """The numbers of the workers that are there."""
        for worker, sign in list(self._away.items()):
            if ray.wait([sign], timeout=0)[0]:
                try:
                    ray.get(sign)
                    del self._away[worker]
                except RayError:  # it is not back yet
                    self._away[worker] = self._call(worker)
        return [worker for worker in range(len(self.actors)) if worker not in self._away]

    def at_least_one(self) -> list[int]:
        """The workers that live; if there is none, the first to come back.

        Raises WorkersLostError if none comes back in time.
        """
        deadline = time.monotonic() + self.restart_timeout_s
        while not (living := self.living()):
            if self.stopping():
                raise WorkersLostError("all workers were lost while the run was stopping")
            if time.monotonic() > deadline:
                raise WorkersLostError(
                    f"all {len(self.actors)} workers were lost, and none came back within "
                    f"{self.restart_timeout_s:g} s: 'warprl resume' continues the run"
                )
            time.sleep(POLL_S)
        return living

    def _call(self, worker: int) -> Any:
        """A sign of life: an answer, or an error as long as the worker has not been restarted."""
        return self.actors[worker].__ray_ready__.remote()

    @_failing_in_one_line()
    def ask(
        self, pieces: Sequence[Piece], start: Start, question: Question
    ) -> tuple[list[Piece], list[Answer]]:
        """The answer of every shard to a question.

        A worker that dies, or that gives no answer in time and is ended, loses its shards to the
        living, each of which takes a part of them.

        Args:
            pieces: the shards, and who has them.
            start: where their adaptations begin.
            question: what is asked.

        Returns:
            The shards as they are spread now, in the order of their tasks, and their answers.

        Raises:
            RayTaskError: at once, if a worker raised an exception; it holds the traceback.
            WorkersLostError: if a shard has cost ``max_losses`` workers in a row, if no worker is
                left, or if Ray itself fails.
        """
        began = time.monotonic()

        # Requests on their way, and the time at which each worker began with what it does now.
        asked = ray.put(question)
        waiting: dict[Any, Piece] = {}
        since: dict[int, float] = {}
        answers: dict[int, tuple[Piece, Answer]] = {}
        unsent = list(pieces)

        # Answer by answer; what a lost worker leaves is sent again.
        while unsent or waiting:
            busy = {piece.worker for piece in waiting.values()}
            for piece in unsent:
                request = self.actors[piece.worker].answer.remote(piece.shard, start, asked)
                waiting[request] = piece
                if piece.worker not in busy:
                    since[piece.worker] = time.monotonic()
            piece, answer = self._next(waiting, since)
            since[piece.worker] = time.monotonic()
            if isinstance(answer, Lost):
                unsent = self._divided(self._counted(piece, answer))
            else:
                unsent = []
                self._answers += 1
                answers[piece.shard.indices[0]] = Piece(piece.shard, piece.worker), answer
        ordered = [answers[first] for first in sorted(answers)]
        self.cost += _cost(ordered, time.monotonic() - began)
        return [piece for piece, _ in ordered], [answer for _, answer in ordered]

    def _next(
        self, waiting: dict[Any, Piece], since: Mapping[int, float]
    ) -> tuple[Piece, Answer | Lost]:
        """The next shard whose answer is there, or whose worker was lost."""
        limit = min(since[piece.worker] for piece in waiting.values()) + self.timeout_s
        ready, _ = ray.wait(list(waiting), timeout=max(limit - time.monotonic(), 0.0))
        if ready:
            piece = waiting.pop(ready[0])
            try:
                return piece, ray.get(ready[0])
            except RayTaskError:
                raise
            except RayError as error:
                return piece, Lost(one_line(error))

        # The worker whose time is over hangs: from here on it counts as dead.
        piece = waiting.pop(min(waiting, key=lambda request: since[waiting[request].worker]))
        log.warning("a worker that gave no answer for %g s is replaced", self.timeout_s)
        ray.kill(self.actors[piece.worker], no_restart=False)
        return piece, Lost(
            f"no answer for {self.timeout_s:g} s: if its tasks take so long, set a larger "
            "compute.worker_timeout_s"
        )

    def _counted(self, piece: Piece, lost: Lost) -> Piece:
        """A shard with one loss more. Raises WorkersLostError if it has cost too many in a row."""
        in_a_row = piece.answers == self._answers
        losses = piece.losses + 1 if in_a_row else 1
        if losses < self.max_losses:
            return replace(piece, losses=losses, answers=self._answers)
        tasks = ", ".join(map(str, piece.shard.indices))
        raise WorkersLostError(
            f"iteration {piece.shard.iteration}: workers lost in a row over tasks {tasks[:40]}: "
            f"{losses} (compute.max_losses); the last: {lost.reason[:120]}; the traces are in the "
            f"logs of Ray's {ray.get_runtime_context().get_session_name()}"
        )

    def _divided(self, piece: Piece) -> list[Piece]:
        """The shard of a lost worker in parts, one for each worker that lives."""
        shard = piece.shard
        if piece.worker not in self._away:
            self.cost += Cost(lost=1)
            self._away[piece.worker] = self._call(piece.worker)
            log.warning(
                "iteration %d: a worker was lost; tasks that are computed again: %d",
                shard.iteration,
                len(shard.tasks),
            )
        living = self.at_least_one()
        parts = np.array_split(np.arange(len(shard.tasks)), min(len(living), len(shard.tasks)))
        return [
            replace(piece, shard=shard.part(part.tolist()), worker=worker)
            for worker, part in zip(living, parts, strict=False)
        ]

    def stop(self) -> None:
        """End the workers, unless Ray has ended with all of them."""
        while self.actors and ray.is_initialized():
            ray.kill(self.actors.pop())


def _cost(answers: Sequence[tuple[Piece, Answer]], seconds: float) -> Cost:
    """What sharing a question has cost, which was answered in so many seconds."""
    busy: dict[int, float] = defaultdict(float)
    for piece, answer in answers:
        busy[piece.worker] += answer.busy
    every = list(busy.values())
    return Cost(waiting(every), seconds - max(every))
