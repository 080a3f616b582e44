"""The mathematics of WarpRL a second time: one task, one transition, one layer at a time.

Written from the equations alone and sharing nothing with the package, so that an error would have
to be made twice to go unseen. No stacking, no masks (a batch is the list of its real transitions),
no functional tricks: ``torch.autograd.grad`` for derivatives, python loops for everything else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters], Tensor]


class Transition(NamedTuple):
    """One real step of one episode."""

    obs: Tensor  # [O]
    act: Tensor  # [A]
    logp: float
    advantage: float
    start: bool = False  # a memory begins anew here


class Path(NamedTuple):
    """The adaptation of one task: theta_0 .. theta_K and the transitions drawn at each."""

    theta: list[Parameters]
    data: list[list[Transition]]


class Setting(NamedTuple):
    """What a gradient depends on besides the parameters and the data."""

    warp: str | None
    lr: float | dict[str, float]  # alpha; a parameter that has none stays
    clip: float | None  # epsilon of PPO; None is the unclipped ratio
    kl_coefficient: float
    memory: str | None = None


# --- the policy ---------------------------------------------------------------------------------


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A row vector times a matrix, plus a bias."""
    return x @ weight + bias


def warp(kind: str, phi: Parameters, layer: int, x: Tensor) -> Tensor:
    def of(name: str) -> Tensor:
        return phi[f"warp_{layer}.{name}"]

    if kind == "linear":
        return affine(x, of("weight"), of("bias"))
    if kind == "residual":
        inner = torch.tanh(affine(x, of("weight_in"), of("bias_in")))
        return x + affine(inner, of("weight_out"), of("bias_out"))
    if kind == "gate":
        return x * (1.0 + torch.tanh(affine(x, of("weight"), of("bias"))))
    raise ValueError(kind)


def outputs(kind: str | None, theta: Parameters, phi: Parameters, obs: Tensor) -> Tensor:
    """The mean action, or the logits where theta has no log_std."""
    layers = sum(name.startswith("weight_") for name in theta)
    x = obs
    for layer in range(layers - 1):
        x = torch.tanh(affine(x, theta[f"weight_{layer}"], theta[f"bias_{layer}"]))
        if kind is not None and any(name.startswith(f"warp_{layer}.") for name in phi):
            x = warp(kind, phi, layer, x)
    return affine(x, theta[f"weight_{layers - 1}"], theta[f"bias_{layers - 1}"])


def log_prob(
    kind: str | None, theta: Parameters, phi: Parameters, obs: Tensor, act: Tensor
) -> Tensor:
    return of_outputs(theta, outputs(kind, theta, phi, obs), act)


def of_outputs(theta: Parameters, out: Tensor, act: Tensor) -> Tensor:
    """Log-probability of an action under the distribution that the network's outputs make."""
    if "log_std" not in theta:
        chosen = act.tolist().index(1.0)
        return out[chosen] - torch.log(torch.exp(out).sum())
    total = -0.5 * len(act) * math.log(2.0 * math.pi)
    for value, centre, log_std in zip(act, out, theta["log_std"], strict=True):
        total = total - log_std - 0.5 * ((value - centre) * torch.exp(-log_std)) ** 2
    return torch.as_tensor(total)


# --- policies with memory -----------------------------------------------------------------------


def below(prefix: str, params: Parameters) -> Parameters:
    return {n.removeprefix(prefix): x for n, x in params.items() if n.startswith(prefix)}


def logistic(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


def gru(cell: Parameters, x: Tensor, h: Tensor) -> Tensor:
    """Cho et al. (2014), with the reset behind the product, number by number."""
    n = len(h)
    inputs, recurrent = affine(x, cell["weight_in"], cell["bias"]), h @ cell["weight_hidden"]
    result = []
    for i in range(n):
        update = logistic(inputs[i] + recurrent[i])
        reset = logistic(inputs[n + i] + recurrent[n + i])
        candidate = torch.tanh(inputs[2 * n + i] + reset * recurrent[2 * n + i])
        result.append((1.0 - update) * candidate + update * h[i])
    return torch.stack(result)


def rnn(cell: Parameters, x: Tensor, h: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """A plain RNN whose input, memory, both projections and bias are each multiplied by a gate."""
    of_x, of_h, of_inputs, of_recurrent, of_bias = gates
    inputs = of_inputs * ((of_x * x) @ cell["weight_in"])
    recurrent = of_recurrent * ((of_h * h) @ cell["weight_hidden"])
    return torch.tanh(inputs + recurrent + of_bias * cell["bias"])


def gates_of_warp(
    warp: Parameters, x: Tensor, h: Tensor, m: Tensor, c: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The five gates of Warp-RNN, and the LSTM's next output and content."""
    n = len(m)
    total = affine(torch.cat([x, h]), warp["weight_in"], warp["bias"]) + m @ warp["weight_hidden"]
    take, keep, give = (logistic(total[i * n : (i + 1) * n]) for i in range(3))
    c = keep * c + take * torch.tanh(total[3 * n :])
    m = give * torch.tanh(c)
    opened = 1.0 + torch.tanh(affine(m, warp["gate_weight"], warp["gate_bias"]))
    gates, at = [], 0
    for size in (len(x), n, n, n, n):
        gates.append(opened[at : at + size])
        at += size
    return gates, m, c


def log_probs(
    setting: Setting, theta: Parameters, phi: Parameters, data: Sequence[Transition]
) -> list[Tensor]:
    """Of all transitions in their order: with a memory, each depends on those before it."""
    if setting.memory is None:
        return [log_prob(setting.warp, theta, phi, step.obs, step.act) for step in data]
    cell, warp = below("cell.", theta), below("warp_0.", phi)
    layers = sum(name.startswith("weight_") for name in theta)
    found = []
    for step in data:
        if step.start:
            h, m, c = torch.zeros(3, len(cell["weight_hidden"]), dtype=torch.float64)
        if setting.memory == "gru":
            h = gru(cell, step.obs, h)
        else:
            gates = [torch.ones((), dtype=torch.float64)] * 5
            if setting.warp == "recurrent":
                gates, m, c = gates_of_warp(warp, step.obs, h, m, c)
            h = rnn(cell, step.obs, h, gates)
        x = h
        for layer in range(1, layers):
            x = torch.tanh(affine(x, theta[f"weight_{layer}"], theta[f"bias_{layer}"]))
        out = affine(x, theta[f"weight_{layers}"], theta[f"bias_{layers}"])
        found.append(of_outputs(theta, out, step.act))
    return found


# --- losses of one task -------------------------------------------------------------------------


def task_loss(
    setting: Setting, theta: Parameters, phi: Parameters, data: Sequence[Transition]
) -> Tensor:
    """``L_task``: minus the mean of likelihood ratio times advantage."""
    total = torch.zeros((), dtype=torch.float64)
    for step, logp in zip(data, log_probs(setting, theta, phi, data), strict=True):
        total = total + torch.exp(logp - step.logp) * step.advantage
    return -total / len(data)


def meta_loss(
    setting: Setting, theta: Parameters, phi: Parameters, data: Sequence[Transition]
) -> Tensor:
    """``L_meta``: the (clipped) ratio surrogate plus the KL penalty."""
    total = torch.zeros((), dtype=torch.float64)
    for step, logp in zip(data, log_probs(setting, theta, phi, data), strict=True):
        ratio = torch.exp(logp - step.logp)
        gain = ratio * step.advantage
        if setting.clip is not None:
            low, high = 1.0 - setting.clip, 1.0 + setting.clip
            held = ratio if low <= ratio <= high else torch.full_like(ratio, low)
            if ratio > high:
                held = torch.full_like(ratio, high)
            clipped = held * step.advantage
            gain = gain if gain < clipped else clipped
        total = total - gain + setting.kl_coefficient * (ratio - 1.0 - (logp - step.logp))
    return total / len(data)


def gradient(loss: Loss, at: Parameters, create_graph: bool = False) -> Parameters:
    """Derivative of a scalar with respect to every tensor; zero where it does not depend on one."""
    inputs = {name: value if create_graph else cut(value) for name, value in at.items()}
    value = loss(inputs)
    found = torch.autograd.grad(
        value, list(inputs.values()), create_graph=create_graph, allow_unused=True
    )
    return {
        name: torch.zeros_like(at[name]) if g is None else g
        for name, g in zip(inputs, found, strict=True)
    }


def cut(value: Tensor) -> Tensor:
    """A fresh leaf of the same value."""
    return value.detach().clone().requires_grad_(True)


def inner_step(
    setting: Setting,
    theta: Parameters,
    phi: Parameters,
    data: Sequence[Transition],
    differentiable: bool = False,
) -> Parameters:
    """``theta - alpha grad_theta L_task``; its dependence on theta and phi is kept on request."""
    start = theta
    if differentiable:
        start = {n: v if v.requires_grad else cut(v) for n, v in theta.items()}
    slope = gradient(
        lambda at: task_loss(setting, at, phi, data), start, create_graph=differentiable
    )
    stepped = {}
    for name in start:
        size = setting.lr.get(name, 0.0) if isinstance(setting.lr, dict) else setting.lr
        rate = phi.get(f"rate.{name}", torch.ones_like(start[name]))
        stepped[name] = start[name] - size * rate * slope[name]
    return stepped


# --- objectives: scalars whose gradients are under test -----------------------------------------


def exact(setting: Setting, theta_0: Parameters, phi: Parameters, paths: Sequence[Path]) -> Tensor:
    """Eq. 11, the mean over tasks and k of the loss behind one differentiable look-ahead."""
    losses = []
    for path in paths:
        for k in range(len(path.theta) - 1):
            ahead = inner_step(setting, path.theta[k], phi, path.data[k], differentiable=True)
            moved = moved_along(ahead, path, theta_0)
            losses.append(meta_loss(setting, moved, phi, path.data[k + 1]))
    return sum(losses, torch.zeros((), dtype=torch.float64)) / len(losses)


def look_aheads(
    setting: Setting, theta_0: Parameters, phi: Parameters, paths: Sequence[Path]
) -> list[list[Parameters]]:
    """The bracket of eq. 12 at this phi, as constants."""
    brackets = []
    for path in paths:
        steps = [
            inner_step(setting, path.theta[k], phi, path.data[k])
            for k in range(len(path.theta) - 1)
        ]
        moved = [moved_along(ahead, path, theta_0) for ahead in steps]
        brackets.append([{name: x.detach() for name, x in ahead.items()} for ahead in moved])
    return brackets


def approximate(
    setting: Setting,
    phi: Parameters,
    paths: Sequence[Path],
    brackets: Sequence[Sequence[Parameters]],
) -> Tensor:
    """Eq. 12: as eq. 11 with the look-aheads given, so that phi acts in the outer loss alone."""
    losses = []
    for path, ahead in zip(paths, brackets, strict=True):
        for k in range(len(path.theta) - 1):
            losses.append(meta_loss(setting, ahead[k], phi, path.data[k + 1]))
    return sum(losses, torch.zeros((), dtype=torch.float64)) / len(losses)


def init_objective(
    kind: str, setting: Setting, theta_0: Parameters, phi: Parameters, path: Path
) -> Tensor:
    """``C(theta_0)`` of one task. What the kind holds constant comes from ``path``."""
    last = len(path.theta) - 1
    if kind == "fixed":
        return torch.zeros((), dtype=torch.float64)
    if kind == "reptile":
        return 0.5 * squared_distance(theta_0, path.theta[last])
    if kind == "fomaml":
        ahead = inner_step(setting, path.theta[last - 1], phi, path.data[last - 1])
        fixed = {name: value.detach() for name, value in ahead.items()}
        return meta_loss(setting, moved_along(fixed, path, theta_0), phi, path.data[last])
    if kind == "maml":
        theta = theta_0
        for k in range(last):
            theta = inner_step(setting, theta, phi, path.data[k], differentiable=True)
        return meta_loss(setting, theta, phi, path.data[last])
    if kind == "leap":
        length = torch.zeros((), dtype=torch.float64)
        for k in range(last):
            here, there = moved_along(path.theta[k], path, theta_0), path.theta[k + 1]
            rise = task_loss(setting, there, phi, path.data[k]).detach() - task_loss(
                setting, here, phi, path.data[k]
            )
            length = length + torch.sqrt(squared_distance(there, here) + rise**2)
        return length
    raise ValueError(kind)


def moved_along(point: Parameters, path: Path, theta_0: Parameters) -> Parameters:
    """A point reached by a path, as it moves with theta_0 if its Jacobian is the identity."""
    start = path.theta[0]
    return {n: point[n] + (theta_0[n] - start[n].detach()) for n in theta_0}


def squared_distance(left: Parameters, right: Parameters) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for name in left:
        total = total + ((left[name] - right[name]) ** 2).sum()
    return total


def leap_by_hand(setting: Setting, theta_0: Parameters, phi: Parameters, path: Path) -> Parameters:
    """``-sum_k (dtheta_k + dL_k grad L_task(theta_k)) / ||(dtheta_k, dL_k)||``, as printed."""
    result = {name: torch.zeros_like(value) for name, value in theta_0.items()}
    for k in range(len(path.theta) - 1):
        here = moved_along(path.theta[k], path, theta_0)
        there, data = path.theta[k + 1], path.data[k]
        rise = float(task_loss(setting, there, phi, data) - task_loss(setting, here, phi, data))
        slope = gradient(lambda at, data=data: task_loss(setting, at, phi, data), here)  # type: ignore[misc]
        length = math.sqrt(float(squared_distance(here, there)) + rise**2)
        for name in result:
            result[name] -= (there[name] - here[name] + rise * slope[name]) / length
    return result


# --- returns, advantages, baseline --------------------------------------------------------------


def discounted_returns(reward: Sequence[float], gamma: float) -> list[float]:
    """``G_t = sum_l gamma^l r_{t+l}`` of one episode's real steps."""
    return [
        sum(gamma**ell * reward[t + ell] for ell in range(len(reward) - t))
        for t in range(len(reward))
    ]


def gae(reward: Sequence[float], value: Sequence[float], gamma: float, lam: float) -> list[float]:
    """Mean of the n-step advantages with weights ``(1 - lam) lam^(n-1)``, the last taking the rest.

    The definition of Schulman et al. (2016, before eq. 16), not the telescoped sum of residuals.
    """
    steps = len(reward)
    result = []
    for t in range(steps):
        longest = steps - t
        total = 0.0
        for n in range(1, longest + 1):
            ahead = value[t + n] if n < longest else 0.0
            n_step = sum(gamma**i * reward[t + i] for i in range(n)) + gamma**n * ahead - value[t]
            weight = (1.0 - lam) * lam ** (n - 1) if n < longest else lam ** (n - 1)
            total += weight * n_step
        result.append(total)
    return result


def baseline(
    episodes: Sequence[NDArray[np.float64]], returns: Sequence[Sequence[float]], ridge: float = 1e-5
) -> list[NDArray[np.float64]]:
    """Ridge regression as least squares with the rows ``sqrt(ridge) I``; no normal equations."""
    designs = []
    for obs in episodes:
        rows = []
        for t, x in enumerate(obs):
            x = np.clip(x, -10.0, 10.0)
            rows.append([*x, *(x * x), t / 100.0, (t / 100.0) ** 2, (t / 100.0) ** 3, 1.0])
        designs.append(np.array(rows))
    width = designs[0].shape[1]
    design = np.concatenate([*designs, math.sqrt(ridge) * np.eye(width)])
    target = np.concatenate([*[np.array(r) for r in returns], np.zeros(width)])
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    return [d @ weights for d in designs]
