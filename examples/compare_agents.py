"""Compare two agents, two seeds each, on the same held-out tasks.

$ python examples/compare_agents.py
"""

from __future__ import annotations

import argparse

import warprl


def main() -> None:
    """Takes minutes with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--episodes", type=int, default=8)
    options = parser.parse_args()

    # Runs of an agent with different seeds count as its repetitions.
    small = {"tasks": 8, "adaptation.episodes": 8}
    runs = [
        warprl.train(
            "point-navigation-v1", agent, iterations=options.iterations, seed=seed, set=small
        )
        for agent in ("warpgrad", "fomaml")
        for seed in (1, 2)
    ]

    # The folder has tables, a figure and a page.
    comparison = warprl.compare(runs, steps=3, episodes=options.episodes)
    print(f"compared in {comparison.folder}")

    # Evaluate one run by itself, beside the policy that it started from.
    evaluation = runs[0].evaluate(steps=3, episodes=options.episodes, untrained=True)
    for curve in evaluation.curves:
        means = [round(point.mean, 1) for point in curve.curve]
        print(f"{curve.policy}: mean returns after 0 to 3 inner steps: {means}")


if __name__ == "__main__":
    main()
