"""Add a warp layer of your own, without a change to the package.

A warp maps features to features of the same width and starts as the identity. Here it bends each
feature by a learned amount, ``x + s tanh(x)``, with one number s for each feature.

To choose it by name in presets and on the command line, as ``policy.warp``, add a case to
``init_warp`` and to ``apply_warp`` in ``warprl/warp.py``: see docs/architecture.md.

$ python examples/add_warp_kind.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import warprl
from warprl.agents.inner import GradientAdaptation
from warprl.agents.meta import Agent, Experiment, InProcess, iterate
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.types import Params


@dataclass(frozen=True)
class BentPolicy(Policy):
    """A policy with a warp ``x + s tanh(x)`` behind every hidden layer."""

    def init(self, rng: np.random.Generator) -> tuple[Params, Params]:
        """Task parameters as in any policy; s = 0, the identity, for the warps."""
        theta, phi = super().init(rng)
        for layer, width in enumerate(self.config.hidden):
            phi[f"warp_{layer}.bend"] = torch.zeros(width)
        return theta, phi

    def warp(self, phi: Params, layer: int, x: Tensor) -> Tensor:
        """Each feature bent by its own amount."""
        return x + phi[f"warp_{layer}.bend"] * torch.tanh(x)


def main() -> None:
    """Takes half a minute with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20)
    iterations = parser.parse_args().iterations

    # An agent is a policy, how it adapts, and how its shared parameters are learned.
    family = warprl.make_family("point-navigation-v1")
    plain = Policy.for_spaces(family.spaces, PolicyConfig(hidden=(32, 32)))
    policy = BentPolicy(plain.obs_dim, plain.distribution, plain.config)
    adaptation = replace(GradientAdaptation(), episodes=10)
    experiment = Experiment(
        family, Agent(policy, adaptation, PRESETS["warpgrad"].learner), tasks=10, seed=1
    )

    # The meta-iteration is a function: state in, state out.
    state = experiment.agent.init(experiment.seed)
    sampler = InProcess(experiment)
    for _ in range(iterations):
        state, metrics, _ = iterate(experiment, sampler, state)
        returns = [round(metrics[f"return_step_{k}"], 1) for k in range(adaptation.steps + 1)]
        print(f"iteration {state.iteration}: returns after each inner step: {returns}")
    bends = torch.cat([s for name, s in state.phi.items() if name.endswith(".bend")])
    print(f"the warps bend by {bends.abs().mean():.4f} on average")


if __name__ == "__main__":
    main()
