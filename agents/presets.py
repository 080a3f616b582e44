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
    """How shared parameters are learned, for which policy, and how that adapts to a task."""

    summary: str
    learner: LearnerConfig
    policy: PolicyConfig = PolicyConfig()
    adaptation: AdaptationConfig = GradientAdaptation(steps=1)


_GATES = PolicyConfig(warp="gate")
_GATED_RNN = PolicyConfig(hidden=(100,), memory="rnn", warp="recurrent")
_THREE = GradientAdaptation(steps=3)
_PROMP = LearnerConfig(init="maml")
# The single step of an update is the policy gradient, whatever the loss.
_MAML = LearnerConfig(init="maml", outer=Adam(init_lr=2e-3, epochs=1))

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "warpgrad": Preset(
            "warp layers, learned by the exact look-ahead from every state, and an initialisation",
            LearnerConfig(init="fomaml", outer=Adam(kl_target=0.04)),
            _GATES,
            _THREE,
        ),
        "warp-leap": Preset(
            "warp layers as in warpgrad, and the initialisation of leap",
            LearnerConfig(init="leap", outer=Adam(kl_target=0.04)),
            _GATES,
            _THREE,
        ),
        "warp-maml": Preset("maml with warp layers", _MAML, _GATES),
        "warp-promp": Preset("promp with warp layers", _PROMP, _GATES),
        "t-net": Preset(
            "promp with linear warp layers behind the activations (Lee & Choi, 2018: before them)",
            _PROMP,
            PolicyConfig(warp="linear"),
        ),
        "meta-sgd": Preset(
            "promp with a learned step size for every parameter (Li et al., 2017: maml with them)",
            replace(_PROMP, outer=Adam(warp_lr=1e-2)),
            PolicyConfig(rates=True),
        ),
        "promp": Preset(
            "initialisation by PPO, with the KL after adaptation (Rothfuss et al., 2019: before)",
            _PROMP,
        ),
        "anil": Preset(
            "promp in which the output layer alone adapts (Raghu et al., 2020: maml)",
            _PROMP,
            adaptation=GradientAdaptation(layers="head"),
        ),
        "boil": Preset(
            "promp in which all but the output layer adapts (Oh et al., 2021: maml)",
            _PROMP,
            adaptation=GradientAdaptation(layers="body"),
        ),
        "maml": Preset(
            "initialisation learned through all inner steps, by Adam (Finn et al., 2017: by TRPO)",
            _MAML,
        ),
        "maml-trpo": Preset(
            "maml by one trust-region step an update, as in its paper",
            LearnerConfig(init="maml", loss=Vpg(), outer=Trpo(kl_limit=0.01)),
        ),
        "fomaml": Preset(
            "promp without second derivatives (Finn et al., 2017: maml without them)",
            LearnerConfig(init="fomaml"),
        ),
        "leap": Preset(
            "initialisation from which the paths of adaptation are short (Flennerhag et al., 2019)",
            LearnerConfig(init="leap", outer=Adam(init_lr=1e-2, epochs=1)),
            adaptation=_THREE,
        ),
        "reptile": Preset(
            "initialisation moved towards the adapted parameters (Nichol et al., 2018), by Adam",
            LearnerConfig(init="reptile", outer=Adam(init_lr=5e-3, epochs=1)),
            adaptation=_THREE,
        ),
        "rl2": Preset(
            "a memory (GRU) that adapts over a trial, learned by PPO (Duan et al., 2016: by TRPO)",
            _PROMP,
            PolicyConfig(memory="gru"),
            MemoryAdaptation(steps=3),
        ),
        "warp-rnn": Preset(
            "gated memory on two time scales, after the paper's maze, without its value head",
            LearnerConfig(TwoTimeScale(), init="maml", outer=Adam(epochs=1)),
            _GATED_RNN,
            GradientAdaptation(steps=0),
        ),
        "warp-rnn-lookahead": Preset(
            "the gated memory of warp-rnn, learned by the objective of warpgrad",
            LearnerConfig(init="fomaml", outer=Adam(kl_target=0.04)),
            _GATED_RNN,
        ),
        "multitask": Preset(
            "one policy for all tasks, learned by PPO without adaptation",
            _PROMP,
            adaptation=GradientAdaptation(steps=0),
        ),
        "random": Preset(
            "the untrained policy, for comparison: nothing is learned",
            LearnerConfig(init="fixed"),
        ),
    }
)
