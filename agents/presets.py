"""Named agents. Each is a configuration of the one learner on the one sampler and baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from warprl.adam import Adam
from warprl.agents.inner import AdaptationConfig, GradientAdaptation, MemoryAdaptation
from warprl.agents.policy import PolicyConfig
from warprl.learner import LearnerConfig, Vpg
from warprl.natural_step import Trpo
from warprl.objective import TwoTimeScale


@dataclass(frozen=True)
class Preset:
    """A policy, the way it adapts and the way its shared parameters are learned."""

    summary: str
    policy: PolicyConfig
    adaptation: AdaptationConfig
    learner: LearnerConfig


_GATES = PolicyConfig(warp="gate")
_GATED_RNN = PolicyConfig(hidden=(100,), memory="rnn", warp="recurrent")
_ONE, _THREE = GradientAdaptation(steps=1), GradientAdaptation(steps=3)
_PROMP = LearnerConfig(init="maml")
# The single step of an update is the policy gradient, whatever the loss.
_MAML = LearnerConfig(init="maml", outer=Adam(init_lr=2e-3, epochs=1))

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "warpgrad": Preset(
            "warp layers and initialisation, exact look-ahead on every trajectory state",
            _GATES,
            _THREE,
            LearnerConfig(init="fomaml", outer=Adam(kl_target=0.04)),
        ),
        "warp-leap": Preset(
            "warp layers, and an initialisation from which the paths are short",
            _GATES,
            _THREE,
            LearnerConfig(init="leap", outer=Adam(kl_target=0.04)),
        ),
        "warp-maml": Preset("maml with warp layers", _GATES, _ONE, _MAML),
        "warp-promp": Preset("promp with warp layers", _GATES, _ONE, _PROMP),
        "t-net": Preset(
            "promp with linear warp layers, after the activations (Lee & Choi, ICML 2018: before)",
            PolicyConfig(warp="linear"),
            _ONE,
            _PROMP,
        ),
        "meta-sgd": Preset(
            "promp with a learned step size for every parameter (Li et al., 2017)",
            PolicyConfig(rates=True),
            _ONE,
            replace(_PROMP, outer=Adam(warp_lr=1e-2)),
        ),
        "promp": Preset(
            "learned initialisation, clipped objective, several epochs, KL penalty",
            PolicyConfig(),
            _ONE,
            _PROMP,
        ),
        "anil": Preset(
            "promp in which the output layer alone adapts (Raghu et al., ICLR 2020)",
            PolicyConfig(),
            replace(_ONE, layers="head"),
            _PROMP,
        ),
        "boil": Preset(
            "promp in which all but the output layer adapts (Oh et al., ICLR 2021)",
            PolicyConfig(),
            replace(_ONE, layers="body"),
            _PROMP,
        ),
        "maml": Preset(
            "learned initialisation through all inner steps, one policy-gradient step a batch",
            PolicyConfig(),
            _ONE,
            _MAML,
        ),
        "maml-trpo": Preset(
            "maml with a trust-region step a batch (the peers' default)",
            PolicyConfig(),
            _ONE,
            LearnerConfig(init="maml", loss=Vpg(), outer=Trpo(kl_limit=0.01)),
        ),
        "fomaml": Preset(
            "first-order learned initialisation with the clipped objective",
            PolicyConfig(),
            _ONE,
            LearnerConfig(init="fomaml"),
        ),
        "leap": Preset(
            "initialisation from which the paths of adaptation are short",
            PolicyConfig(),
            _THREE,
            LearnerConfig(init="leap", outer=Adam(init_lr=1e-2, epochs=1)),
        ),
        "reptile": Preset(
            "initialisation moved towards the adapted parameters",
            PolicyConfig(),
            _THREE,
            LearnerConfig(init="reptile", outer=Adam(init_lr=5e-3, epochs=1)),
        ),
        "rl2": Preset(
            "a memory (GRU) that adapts over the episodes of a trial (Duan et al., 2016)",
            PolicyConfig(memory="gru"),
            MemoryAdaptation(steps=3),
            _PROMP,
        ),
        "warp-rnn": Preset(
            "gated memory, warps and policy learned on two time scales, after the paper's maze",
            _GATED_RNN,
            GradientAdaptation(steps=0),
            LearnerConfig(TwoTimeScale(), init="maml", outer=Adam(epochs=1)),
        ),
        "warp-rnn-lookahead": Preset(
            "gated memory, and the objective of warpgrad",
            _GATED_RNN,
            _ONE,
            LearnerConfig(init="fomaml", outer=Adam(kl_target=0.04)),
        ),
        "multitask": Preset(
            "one policy for all tasks by PPO, without adaptation in training",
            PolicyConfig(),
            GradientAdaptation(steps=0),
            _PROMP,
        ),
        "random": Preset(
            "nothing learned: the untrained policy, for comparison",
            PolicyConfig(),
            _ONE,
            LearnerConfig(init="fixed"),
        ),
    }
)
