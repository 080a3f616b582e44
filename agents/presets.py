"""Named agents. Each is a configuration of the one learner on the one sampler and baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import PolicyConfig
from warprl.learner import LearnerConfig


@dataclass(frozen=True)
class Preset:
    """A policy, the way it adapts and the way its shared parameters are learned."""

    summary: str
    policy: PolicyConfig
    adaptation: AdaptationConfig
    learner: LearnerConfig


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "warpgrad": Preset(
            "warp layers and initialisation, exact look-ahead on every trajectory state",
            PolicyConfig(warp="gate"),
            AdaptationConfig(steps=3),
            LearnerConfig(objective="exact", schedule="offline", init="fomaml", kl_target=0.04),
        ),
        "maml": Preset(
            "learned initialisation through all inner steps, one policy-gradient step a batch",
            PolicyConfig(),
            AdaptationConfig(steps=1),
            LearnerConfig(init="maml", schedule="online", loss="vpg", init_lr=2e-3),
        ),
        "fomaml": Preset(
            "first-order learned initialisation with the clipped objective",
            PolicyConfig(),
            AdaptationConfig(steps=1),
            LearnerConfig(init="fomaml"),
        ),
        "reptile": Preset(
            "initialisation moved towards the adapted parameters",
            PolicyConfig(),
            AdaptationConfig(steps=3),
            LearnerConfig(init="reptile", schedule="online"),
        ),
        "promp": Preset(
            "learned initialisation, clipped objective, several epochs, KL penalty",
            PolicyConfig(),
            AdaptationConfig(steps=1),
            LearnerConfig(init="maml"),
        ),
    }
)
