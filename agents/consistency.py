"""Which choices of an agent work together, and which of its keys then do anything.

The rules stand beside the configurations that they guard; here they meet. Errors are ValueErrors of
one line, in the words that ``--set`` takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from warprl.agents.inner import AdaptationConfig, GradientAdaptation, MemoryAdaptation
from warprl.agents.policy import Policy, PolicyConfig
from warprl.initialisation import INITIALISATIONS
from warprl.keys import Need, unused
from warprl.learner import LearnerConfig
from warprl.objective import LookAhead, TwoTimeScale


@dataclass(frozen=True)
class Choices:
    """The configurations of an agent, on a family with continuous actions or with discrete ones."""

    policy: PolicyConfig
    adaptation: AdaptationConfig
    learner: LearnerConfig
    continuous: bool

    @classmethod
    def of(cls, policy: Policy, adaptation: AdaptationConfig, learner: LearnerConfig) -> Choices:
        """The choices of an agent.

        Args:
            policy: the network on a family's spaces.
            adaptation: how it adapts.
            learner: how its shared parameters are learned.

        Returns:
            The choices.
        """
        return cls(policy.config, adaptation, learner, bool(policy.distribution.names))

    @property
    def sections(self) -> dict[str, Any]:
        """What ``a`` of ``a.b`` stands for."""
        return {
            "policy": self.policy,
            "adaptation": self.adaptation,
            "objective": self.learner.objective,
            "loss": self.learner.loss,
            "outer": self.learner.outer,
        }

    def unused(self) -> dict[str, Need]:
        """The keys ``a.b`` that do nothing, each with what it belongs to."""
        met = self.policy.met(self.continuous)
        met |= self.learner.met(phi=self.policy.warp is not None or self.policy.rates)
        return {
            f"{name}.{key}": need
            for name, section in self.sections.items()
            for key, need in unused(section, met).items()
        }

    def neutral(self) -> Choices:
        """The same with the defaults for all keys that do nothing: it computes the same."""
        idle = self.unused()
        parts = {name: _neutral(name, part, idle) for name, part in self.sections.items()}
        policy, adaptation = parts.pop("policy"), parts.pop("adaptation")
        return replace(
            self, policy=policy, adaptation=adaptation, learner=replace(self.learner, **parts)
        )

    def require_used(self) -> None:
        """Raise ValueError for a key that is set, and does nothing."""
        neutral = self.neutral().sections
        for path, need in self.unused().items():
            name, _, key = path.partition(".")
            value = getattr(self.sections[name], key)
            if value != getattr(neutral[name], key, None):
                raise ValueError(idle_key(path, need, value))

    def require_consistent(self) -> None:
        """Raise ValueError for parts that are each in range and cannot work together."""
        self.policy.require_consistent()
        self.learner.require_consistent()
        _require_memory(self.policy, self.adaptation)
        _require_steps(self.policy, self.adaptation, self.learner)
        if isinstance(self.adaptation, GradientAdaptation):
            _require_all_layers(self.adaptation, self.learner)
        if self.policy.rates and self.learner.objective == LookAhead(kind="approximate"):
            raise ValueError(
                "policy.rates = true needs objective.kind = exact: the approximate objective "
                "(eq. 12) does not depend on them"
            )


def idle_key(path: str, need: Need, value: Any) -> str:
    """What to say of a key that was set and does nothing.

    Args:
        path: the key as ``--set`` takes it.
        need: what it belongs to.
        value: what it was set to.

    Returns:
        One line.
    """
    return f"{path} = {json.dumps(value)} does nothing here: it belongs to {need.words}"


def _neutral(name: str, section: Any, idle: Mapping[str, Need]) -> Any:
    if f"{name}.type" in idle:
        return getattr(LearnerConfig(), name)
    defaults = {
        field.name: field.default for field in fields(section) if f"{name}.{field.name}" in idle
    }
    return replace(section, **defaults)


def _require_memory(policy: PolicyConfig, adaptation: AdaptationConfig) -> None:
    if isinstance(adaptation, MemoryAdaptation) and policy.memory is None:
        raise ValueError(
            "adaptation.type = memory needs policy.memory = gru or rnn: without one, nothing is "
            "carried from episode to episode"
        )


def _require_steps(
    policy: PolicyConfig, adaptation: AdaptationConfig, learner: LearnerConfig
) -> None:
    """What learns from inner steps needs some, and what looks ahead of none has none."""
    slow = isinstance(learner.objective, TwoTimeScale)
    remembers = isinstance(adaptation, MemoryAdaptation)
    if adaptation.steps and not remembers:
        if slow:
            raise ValueError(
                "objective.type = two-time-scale needs adaptation.steps = 0 or adaptation.type = "
                "memory: it learns from the loss before any inner step"
            )
    elif (policy.warp and not slow) or policy.rates or learner.init != "maml":
        reason = "type = memory" if remembers else "steps = 0 (one policy for all tasks)"
        raise ValueError(
            f"adaptation.{reason} needs init = maml, policy.rates = false, and "
            "policy.warp = none or objective.type = two-time-scale: the others learn from "
            "inner steps"
        )


def _require_all_layers(adaptation: GradientAdaptation, learner: LearnerConfig) -> None:
    if INITIALISATIONS[learner.init].all_layers and adaptation.layers != "all":
        raise ValueError(
            f"init = {learner.init} needs adaptation.layers = all: beside {adaptation.layers} "
            "alone it never learns the layers that stay"
        )
