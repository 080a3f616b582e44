"""The results of evaluations and comparisons, as ``--json`` prints them and files hold them.

The names of the fields are the keys of the documents, in their order. JSON cannot
hold numbers that are not finite: they are written as null (:func:`warprl.launch.outcome.to_json`)
and read back as NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, TypeAdapter

from warprl.launch.outcome import Document

T = TypeVar("T")
Number = Annotated[float, BeforeValidator(lambda found: math.nan if found is None else found)]

Diagnostic = Literal["kl", "cosine", "condition"]
"""What :func:`warprl.agents.diagnostics.diagnose` measures of an inner step, in this order."""
DIAGNOSTICS: tuple[Diagnostic, ...] = get_args(Diagnostic)


@dataclass(frozen=True)
class Estimate(Document):
    """The mean of n values, its standard error, 95 % bootstrap interval; the interquartile mean."""

    mean: Number
    stderr: Number
    low: Number
    high: Number
    iqm: Number
    n: int


Step = Mapping[Diagnostic, Number]
"""One inner step, over adaptations. Without warps there is only the KL; with a memory, nothing."""


@dataclass(frozen=True, kw_only=True)
class Adaptation(Document):
    """One adaptation to one task: N + 1 returns, and diagnostics of each of the N inner steps."""

    task: int
    parameters: Mapping[str, Any]
    repeat: int
    finite: bool
    returns: Sequence[Number]
    area: Number
    worse: bool
    kl: Sequence[Number] | None = None
    cosine: Sequence[Number] | None = None
    condition: Sequence[Number] | None = None

    @property
    def steps(self) -> dict[Diagnostic, Sequence[float]]:
        """The diagnostics that were taken."""
        found = {name: getattr(self, name) for name in DIAGNOSTICS}
        return {name: values for name, values in found.items() if values is not None}


@dataclass(frozen=True, kw_only=True)
class CurveSummary(Document):
    """The adaptation curve of one policy, with each adaptation behind it."""

    policy: str
    digest: str
    curve: Sequence[Estimate]
    area: Estimate
    gain: Estimate
    worse: Number
    steps: Sequence[Step]
    diverged: Sequence[int]
    left_out: Sequence[int]
    adaptations: Sequence[Adaptation]


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary(Document):
    """The adaptation curve of a run, followed by those that it is compared with."""

    run: str
    family: str
    agent: str
    checkpoint: int
    protocol: Mapping[str, Any]
    tasks: int
    trained_on: bool
    repeats: int
    inner_steps: int
    episodes: int
    seed: int
    adaptations: int
    trained_inner_steps: int
    curves: Sequence[CurveSummary]
    folder: str


@dataclass(frozen=True, kw_only=True)
class Measurement(Document):
    """How one run was trained and evaluated, without its returns."""

    run: str | None = None
    seed: int
    agent: str
    iteration: int
    trained_inner_steps: int
    evaluation: str | None = None
    reused: bool | None = None
    diverged: int
    left_out: int
    env_steps: float | None
    wall_s: float | None


@dataclass(frozen=True, kw_only=True)
class RunSummary(Measurement):
    """One run of a group, with its mean return after the last inner step."""

    mean: Number


@dataclass(frozen=True, kw_only=True)
class GroupSummary(Document):
    """Estimates over the seeds and tasks of runs that differ only in their seed."""

    group: str
    reference: str | None = None
    agent: str
    iteration: int
    trained_inner_steps: int
    seeds: int
    interval_over: str
    adaptations: int
    curve: Sequence[Estimate]
    area: Estimate
    gain: Estimate
    worse: Number
    steps: Sequence[Step]
    env_steps: float | None
    wall_s: float | None
    runs: Sequence[RunSummary]


@dataclass(frozen=True, kw_only=True)
class ComparisonSummary(Document):
    """Groups of runs, and references beside them, under one protocol."""

    family: str
    protocol: Mapping[str, Any]
    tasks: int
    trained_on: bool
    repeats: int
    inner_steps: int
    episodes: int
    seed: int
    groups: Sequence[GroupSummary]
    folder: str | None = None


def from_json(kind: type[T], text: str | bytes) -> T:
    """A summary of this kind from a JSON document, whose other keys are ignored.

    Raises ValueError if a key is missing or a value has another type.
    """
    return TypeAdapter(kind).validate_json(text, strict=True)
