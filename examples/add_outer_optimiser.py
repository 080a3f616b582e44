"""Use an outer optimiser of your own: Lion (Chen et al., 2023), with the public functions.

A meta-batch returns the gradients of phi and theta_0, and this program decides what to do with
them. To choose an optimiser by name, as ``outer.type``, add a file beside ``warprl/adam.py`` and a
case to ``Learner.update``: see docs/architecture.md.

$ python examples/add_outer_optimiser.py
"""

from __future__ import annotations

import argparse

import warprl
from warprl import params as P
from warprl.agents.meta import InProcess
from warprl.launch.runs.config import resolve
from warprl.launch.training.loop import experiment_of
from warprl.meta_batch import finite_tasks
from warprl.seeding import generator
from warprl.sums import mean_gradients
from warprl.types import Params


def lion(params: Params, momentum: Params, gradient: Params, lr: float) -> tuple[Params, Params]:
    """``x - lr sign(0.9 m + 0.1 g)``, and ``m' = 0.99 m + 0.01 g``."""
    direction = {n: (0.9 * momentum[n] + 0.1 * g).sign() for n, g in gradient.items()}
    moved = params | {n: params[n] - lr * direction[n] for n in gradient}
    return moved, momentum | {n: 0.99 * momentum[n] + 0.01 * g for n, g in gradient.items()}


def main() -> None:
    """Takes half a minute with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20)
    iterations = parser.parse_args().iterations

    settings = ["tasks=10", "adaptation.episodes=10"]
    experiment = experiment_of(resolve("point-navigation-v1", "warpgrad", {}, settings))
    sampler, start = InProcess(experiment), experiment.agent.init(experiment.seed)
    theta, phi = start.theta, start.phi
    momenta = P.zeros_like(theta), P.zeros_like(phi)
    for iteration in range(1, iterations + 1):
        # Draw tasks, and adapt to each of them.
        rng = generator(experiment.seed, "tasks", iteration=iteration)
        tasks = experiment.family.sample_tasks(rng, experiment.tasks)
        batch = sampler.sample(theta, phi, tasks, iteration).batch

        # Take the mean gradients over the tasks that stayed finite, without a KL penalty.
        found = mean_gradients(batch.gradient(theta, phi, finite_tasks(batch), 0.0))

        # Take one step of each.
        theta, of_theta = lion(theta, momenta[0], found.theta, lr=3e-4)
        phi, of_phi = lion(phi, momenta[1], found.phi, lr=3e-4)
        momenta = of_theta, of_phi
        means = [round(value, 1) for value in batch.returns.mean(0).tolist()]
        print(f"iteration {iteration}: returns after each inner step: {means}")

    # The policy acts like any other.
    shape = experiment.agent.policy.config
    policy = warprl.AdaptedPolicy(experiment.family.spaces, shape, theta, phi)
    print("first action:", policy.act([0.0, 0.0]))


if __name__ == "__main__":
    main()
