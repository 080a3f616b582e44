"""Adaptation curves as arrays, and what is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warprl.launch.evaluation.summaries import DIAGNOSTICS, Adaptation, Diagnostic, Step
from warprl.types import Bools, Floats


@dataclass(frozen=True)
class Curves:
    """The returns of n adaptations ``[n, N+1]``, and which of them stayed finite ``[n]``.

    ``steps`` holds what :func:`warprl.agents.diagnostics.diagnose` measures of each step,
    ``[n, N]``.
    """

    returns: Floats
    finite: Bools
    steps: Mapping[Diagnostic, Floats]

    @classmethod
    def joined(cls, parts: Sequence[Curves]) -> Curves:
        """The adaptations of all parts, one part after the other."""
        return cls(
            np.concatenate([part.returns for part in parts]),
            np.concatenate([part.finite for part in parts]),
            {name: np.concatenate([part.steps[name] for part in parts]) for name in parts[0].steps},
        )

    @classmethod
    def of(cls, adaptations: Sequence[Adaptation]) -> Curves:
        """The arrays behind a stored evaluation.

        Raises ValueError if adaptations differ in their length or in their diagnostics.
        """
        taken = [n for n in DIAGNOSTICS if n in adaptations[0].steps] if adaptations else []
        if any(list(row.steps) != taken for row in adaptations):
            raise ValueError("adaptations differ in their diagnostics")
        curves = cls(
            np.array([row.returns for row in adaptations], dtype=np.float64),
            np.array([row.finite for row in adaptations], dtype=np.bool_),
            {name: np.array([row.steps[name] for row in adaptations]) for name in taken},
        )
        n, points = curves.returns.shape
        if any(values.shape != (n, points - 1) for values in curves.steps.values()):
            raise ValueError("not one diagnostic for each inner step")
        return curves

    def __getitem__(self, chosen: Bools) -> Curves:
        """The chosen adaptations alone."""
        steps = {name: values[chosen] for name, values in self.steps.items()}
        return Curves(self.returns[chosen], self.finite[chosen], steps)

    @property
    def usable(self) -> Bools:
        """Which adaptations have a finite return at every step, ``[n]``."""
        return np.array([np.isfinite(row).all() for row in self.returns])

    @property
    def area(self) -> Floats:
        """Area under each curve, as the mean of its N + 1 returns: ``[n]``.

        ``1 / (N + 1) * sum_k return_k`` for k = 0..N: on the scale of a return for any N.
        """
        return np.asarray(self.returns.mean(axis=1))

    @property
    def gain(self) -> Floats:
        """How much higher each curve ends than it begins, ``[n]``."""
        return self.returns[:, -1] - self.returns[:, 0]

    @property
    def worse(self) -> Bools:
        """Which curves end below the return that they begin with, ``[n]``."""
        return np.asarray(self.returns[:, -1] < self.returns[:, 0])

    def over_adaptations(self) -> list[Step]:
        """Each inner step over the finite adaptations: mean KL and cosine, median condition.

        The condition number has the median, because a single nearly singular warp would dominate
        the mean. An adaptation whose episodes had no reward has no gradient and so no cosine; the
        mean is over the others.
        """
        kept = self[self.finite].steps
        number = self.returns.shape[1] - 1
        return [{name: _middle(name, kept[name][:, k]) for name in kept} for k in range(number)]


def _middle(name: Diagnostic, values: Floats) -> float:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    return float(np.median(values) if name == "condition" else np.mean(values))
