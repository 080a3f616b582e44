"""Meta-train a policy, adapt it to a task that training never saw, act, save, and load.

$ python examples/train_and_adapt.py
"""

from __future__ import annotations

import argparse

import gymnasium

import warprl

FAMILY, ENVIRONMENT = "point-navigation-v1", "warprl/PointNavigation-v1"


def main() -> None:
    """Takes a minute with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    iterations = parser.parse_args().iterations

    # Training learns where adaptation begins (theta_0), and warp layers that make it fast.
    run = warprl.train(FAMILY, iterations=iterations, set={"tasks": 10, "adaptation.episodes": 10})
    print(f"trained in {run.folder}, iteration {run.iteration}")

    # Adapt to a held-out task: a goal that the observations do not show.
    task = run.tasks[0]
    policy = run.adapt(task, steps=3)
    print(f"{task}: returns after 0 to 3 inner steps:", *(round(r, 1) for r in policy.returns))

    # The folder is enough to act: it needs neither the run nor this environment.
    policy.save(run.folder / "adapted")
    policy = warprl.AdaptedPolicy.load(run.folder / "adapted")

    # Our families are ordinary Gymnasium environments.
    env = gymnasium.make(ENVIRONMENT, task=vars(task))
    obs, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
        total, over = total + float(reward), terminated or truncated
    print(f"return of the mean actions: {total:.1f}")


if __name__ == "__main__":
    main()
