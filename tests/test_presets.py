"""Every named agent learns the parameters that its summary names, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers_gym import SHORT_CART

from warprl.adam import Adam
from warprl.agents.meta import Agent, Experiment, InProcess, iterate
from warprl.agents.policy import Policy
from warprl.agents.presets import PRESETS
from warprl.learner import Outer
from warprl.natural_step import Trpo
from warprl.objective import TwoTimeScale


def small(agent: str, outer: Outer) -> Experiment:
    """The agent with this outer step, on a few short batches; its slow warps step at once."""
    preset = PRESETS[agent]
    policy = Policy.for_spaces(SHORT_CART.spaces, replace(preset.policy, hidden=(8, 8)))
    learner = replace(preset.learner, outer=outer)
    if isinstance(learner.objective, TwoTimeScale):
        learner = replace(learner, objective=TwoTimeScale(warp_every=1))
    return Experiment(
        SHORT_CART, Agent(policy, replace(preset.adaptation, episodes=2), learner), 5, 3
    )


def takes_trpo(agent: str) -> bool:
    """Slow warps gather a gradient for Adam, and the random agent takes no step at all."""
    slow = isinstance(PRESETS[agent].learner.objective, TwoTimeScale)
    return not slow and agent != "random"


CASES = [
    (agent, outer)
    for agent in PRESETS
    for outer in ("adam", "trpo")
    if outer == "adam" or takes_trpo(agent)
]


@pytest.mark.parametrize(("agent", "outer"), CASES)
def test_every_preset_learns_what_it_names_and_nothing_else(agent: str, outer: str) -> None:
    preset = PRESETS[agent]
    own = preset.learner.outer
    other: Outer = Adam() if outer == "adam" else Trpo()
    experiment = small(agent, own if own.type == outer else other)
    start = experiment.agent.init(experiment.seed)
    done = iterate(experiment, InProcess(experiment), start)

    # As many returns as there are points of adaptation.
    steps = preset.adaptation.steps
    returns = {name for name in done.metrics if name.startswith("return_step_")}
    assert returns == {f"return_step_{k}" for k in range(steps + 1)}
    assert not done.diverged

    # Which parameters have moved.
    before, after = start.to_tensors(), done.state.to_tensors()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    learned = {"theta", "phi"} if preset.policy.warp or preset.policy.rates else {"theta"}
    assert {name.partition(".")[0] for name in moved} == (set() if agent == "random" else learned)
    if preset.policy.rates:
        assert moved >= {name for name in before if name.startswith("phi.rate.")}


def test_an_initialisation_that_is_not_learned_stays_bit_for_bit() -> None:
    experiment = small("warpgrad", Adam())
    learner = replace(experiment.agent.learner, init="fixed")
    experiment = replace(experiment, agent=replace(experiment.agent, learner=learner))
    start = experiment.agent.init(experiment.seed)
    after = iterate(experiment, InProcess(experiment), start).state
    assert {n: t.numpy().tobytes() for n, t in after.theta.items()} == {
        n: t.numpy().tobytes() for n, t in start.theta.items()
    }
    assert any(not torch.equal(start.phi[name], after.phi[name]) for name in start.phi)
