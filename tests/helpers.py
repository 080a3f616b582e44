"""Finite differences, comparisons, and small problems that the tests of the core share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import naive
import numpy as np
import torch
from torch import Tensor

from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.agents.losses import InnerLoss, OuterLoss
from warprl.agents.policy import Layers, Policy, PolicyConfig
from warprl.agents.recurrent import FLAGS, MemoryKind
from warprl.objective import Form, InitKind, LookAhead, MetaObjective
from warprl.types import Batch, Params, Trajectory, TrajectoryState
from warprl.warp import WarpKind

CLIP = 0.2
KL_COEFFICIENT = 0.3
LR = 0.1
OBS, HIDDEN, TRANSITIONS = 2, (3, 2), 6
GAUSSIAN, CATEGORICAL = Gaussian(2), Categorical(3)
SEQUENCES, LENGTH = 2, 3  # of policies with memory


def finite_difference(scalar: Callable[[Params], Tensor], at: Params, step: float = 1e-5) -> Params:
    """Central differences of a scalar, one number of one tensor at a time."""
    result = {name: torch.zeros_like(value) for name, value in at.items()}
    for name, value in at.items():
        for i in range(value.numel()):
            ends = []
            for sign in (+1.0, -1.0):
                moved = value.clone()
                moved.view(-1)[i] += sign * step
                ends.append(scalar({**at, name: moved}).detach())
            result[name].view(-1)[i] = (ends[0] - ends[1]) / (2.0 * step)
    return result


def relative_error(found: Params, expected: Params) -> float:
    """The largest, over the named tensors, of ``||found - expected|| / ||expected||``."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for name in expected:
        assert found[name].shape == expected[name].shape, name
        size = float(torch.linalg.vector_norm(expected[name]))
        error = float(torch.linalg.vector_norm(found[name] - expected[name]))
        worst = max(worst, error / size if size > 0.0 else (0.0 if error == 0.0 else np.inf))
    return worst


def same_bits(left: Params, right: Params) -> bool:
    """Equal names and bit-equal tensors."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def gradient_of(scalar: Tensor, at: Params) -> Params:
    """Autograd's gradient of a scalar that the package computed; unused inputs are an error."""
    return dict(zip(at, torch.autograd.grad(scalar, list(at.values())), strict=True))


def as_leaves(params: Params) -> Params:
    """The same values as leaves, for the gradient of what the package computes from them."""
    return {name: value.detach().clone().requires_grad_(True) for name, value in params.items()}


def perturbed(params: Params, rng: np.random.Generator, scale: float) -> Params:
    """Float64 parameters a normal step of the given size away."""
    return {
        name: value.double() + scale * torch.as_tensor(rng.standard_normal(value.shape))
        for name, value in params.items()
    }


@dataclass(frozen=True)
class Problem:
    """Adaptation trajectories of a few tasks, both stacked and padded and as plain lists."""

    policy: Policy
    theta_0: Params
    phi: Params
    trajectory: Trajectory
    paths: list[naive.Path]
    lr: float | dict[str, float]

    def setting(self, clip: float | None = CLIP) -> naive.Setting:
        """The same numbers for the naive loop."""
        config = self.policy.config
        return naive.Setting(config.warp, self.lr, clip, KL_COEFFICIENT, config.memory)

    def objective(
        self, form: Form = "exact", init: InitKind = "fixed", clip: float | None = CLIP
    ) -> MetaObjective:
        """What the package is to differentiate."""
        losses = InnerLoss(self.policy), OuterLoss(self.policy, clip)
        return MetaObjective(LookAhead(kind=form), init, self.lr, *losses)

    def states(self) -> TrajectoryState:
        """Every trajectory state, gathered by hand rather than by the package."""
        tasks, steps = len(self.paths), len(self.paths[0].theta) - 1
        rows = [(t, k) for t in range(tasks) for k in range(steps)]
        data, theta = self.trajectory.data, self.trajectory.theta

        def at(offset: int) -> Batch:
            return Batch(*(torch.stack([x[t, k + offset] for t, k in rows]) for x in data))

        return TrajectoryState(
            task=torch.tensor([t for t, _ in rows]),
            step=torch.tensor([k for _, k in rows]),
            start={n: torch.stack([v[t, 0] for t, _ in rows]) for n, v in theta.items()},
            theta={n: torch.stack([v[t, k] for t, k in rows]) for n, v in theta.items()},
            support=at(0),
            query=at(1),
        )


def make_problem(
    warp: WarpKind | None,
    steps: int,
    tasks: int = 2,
    seed: int = 3,
    rates: bool = False,
    layers: Layers = "all",
    distribution: ActionDistribution = GAUSSIAN,
    warped: tuple[int, ...] | None = None,
) -> Problem:
    """Float64 trajectories with unequal masks, ratios on both sides of the clip, phi off identity.

    They start from a slightly older theta_0 and were reached under a slightly older phi, as in
    every epoch but the first of a meta-update.
    """
    shape = PolicyConfig(HIDDEN, warp, rates, log_std=-0.3, warped=warped)
    return _problem(Policy(OBS, distribution, shape), steps, tasks, seed, layers)


def make_memory_problem(memory: MemoryKind, warped: bool, steps: int) -> Problem:
    """The same of a tiny policy with memory; its data are sequences, one of them cut short."""
    shape = PolicyConfig((2, 2), "recurrent" if warped else None, log_std=-0.3, memory=memory)
    return _problem(Policy(1, Gaussian(1), shape), steps, 2, 5, "all")


def _problem(policy: Policy, steps: int, tasks: int, seed: int, layers: Layers) -> Problem:
    rng = np.random.default_rng([seed, steps])
    theta, phi = policy.init(rng)
    start, old_phi = perturbed(theta, rng, 0.2), perturbed(phi, rng, 0.2)
    theta_0, phi = perturbed(start, rng, 0.05), perturbed(old_phi, rng, 0.1)
    lr = LR if layers == "all" else dict.fromkeys(policy.layers(layers), LR)
    setting = naive.Setting(policy.config.warp, lr, CLIP, KL_COEFFICIENT, policy.config.memory)
    draw = _draw if policy.config.memory is None else partial(_draw_sequences, policy)
    paths, batches = [], []
    for _ in range(tasks):
        path, padded = _adapt(draw, setting, start, old_phi, steps, rng)
        paths.append(path)
        batches.append(padded)
    trajectory = Trajectory(
        task=torch.arange(tasks),
        theta={
            name: torch.stack([torch.stack([step[name] for step in p.theta]) for p in paths])
            for name in theta_0
        },
        data=Batch(*(torch.stack(x) for x in zip(*batches, strict=True))),
        returns=torch.zeros(tasks, steps + 1, dtype=torch.float64),
        finite=torch.ones(tasks, dtype=torch.bool),
    )
    return Problem(policy, theta_0, phi, trajectory, paths, lr)


Draw = Callable[
    [naive.Setting, Params, Params, np.random.Generator], tuple[list[naive.Transition], Batch]
]


def _adapt(
    draw: Draw,
    setting: naive.Setting,
    theta: Params,
    phi: Params,
    steps: int,
    rng: np.random.Generator,
) -> tuple[naive.Path, Batch]:
    path, padded = naive.Path([theta], []), []
    for k in range(steps + 1):
        transitions, batch = draw(setting, path.theta[k], phi, rng)
        path.data.append(transitions)
        padded.append(batch)
        if k < steps:
            path.theta.append(naive.inner_step(setting, path.theta[k], phi, transitions))
    return path, Batch(*(torch.stack(x) for x in zip(*padded, strict=True)))


def _draw(
    setting: naive.Setting, theta: Params, phi: Params, rng: np.random.Generator
) -> tuple[list[naive.Transition], Batch]:
    """Transitions of which three to all are real; the padding would be noticed."""
    obs = torch.as_tensor(rng.standard_normal((TRANSITIONS, OBS)))
    act = torch.stack([_act(theta, naive.outputs(setting.warp, theta, phi, x), rng) for x in obs])
    valid = torch.zeros(TRANSITIONS, dtype=torch.float64)
    valid[torch.as_tensor(rng.permutation(TRANSITIONS)[: rng.integers(3, TRANSITIONS + 1)])] = 1.0
    advantage = torch.where(valid > 0, torch.as_tensor(rng.standard_normal(TRANSITIONS)), 50.0)
    now = torch.stack(
        [naive.log_prob(setting.warp, theta, phi, obs[i], act[i]) for i in range(TRANSITIONS)]
    )
    logp = now.detach() - torch.as_tensor(rng.choice([-0.6, -0.05, 0.05, 0.6], TRANSITIONS))
    transitions = [
        naive.Transition(obs[i], act[i], float(logp[i]), float(advantage[i]))
        for i in range(TRANSITIONS)
        if valid[i] > 0
    ]
    return transitions, Batch(obs, act, logp, advantage, valid)


def _draw_sequences(
    policy: Policy, setting: naive.Setting, theta: Params, phi: Params, rng: np.random.Generator
) -> tuple[list[naive.Transition], Batch]:
    """Transitions of whole sequences, in order; the padding behind a short one would be noticed."""
    inputs = policy.input_dim - FLAGS
    seen, act, advantage = (
        torch.as_tensor(rng.standard_normal((SEQUENCES, LENGTH, size)))
        for size in (inputs + FLAGS, policy.act_dim, 1)
    )
    alive = torch.ones(SEQUENCES, LENGTH, dtype=torch.float64)
    alive[1, int(rng.integers(1, LENGTH)) :] = 0.0
    seen[..., inputs] = alive
    seen[..., inputs + 1] = torch.eye(LENGTH)[0]
    advantage = torch.where(alive > 0, advantage[..., 0], 50.0)
    real = [(e, t) for e in range(SEQUENCES) for t in range(LENGTH) if alive[e, t] > 0]
    transitions = [
        naive.Transition(seen[i][:inputs], act[i], 0.0, float(advantage[i]), start=i[1] == 0)
        for i in real
    ]
    logp = torch.zeros(SEQUENCES, LENGTH, dtype=torch.float64)
    for i, now in zip(real, naive.log_probs(setting, theta, phi, transitions), strict=True):
        logp[i] = float(now) - rng.choice([-0.6, -0.05, 0.05, 0.6])
    transitions = [
        step._replace(logp=float(logp[i])) for i, step in zip(real, transitions, strict=True)
    ]
    flat = (x.flatten(0, 1) for x in (seen, act, logp, advantage, alive))
    return transitions, Batch(*flat)


def _act(theta: Params, outputs: Tensor, rng: np.random.Generator) -> Tensor:
    """An action of the policy with these outputs."""
    outputs = outputs.detach()
    if "log_std" in theta:
        return outputs + theta["log_std"].detach().exp() * torch.as_tensor(
            rng.standard_normal(len(outputs))
        )
    choice = rng.choice(len(outputs), p=outputs.softmax(-1).numpy())
    return torch.eye(len(outputs), dtype=torch.float64)[choice]
