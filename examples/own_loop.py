"""Adapt on a machine that WarpRL does not know, in a loop of your own.

The machine is a cart that drifts and slips, and an episode ends early when it is home. There is no
Gymnasium environment and no task. The policy was meta-trained in simulation, on points that seek a
hidden goal and neither drift nor slip.

$ python examples/own_loop.py
"""

from __future__ import annotations

import argparse
import random
import tempfile

import warprl


class Cart:
    """Stands for a driver of real hardware. The cart does not know where home is."""

    def __init__(self) -> None:
        """Put the cart at the origin."""
        self._noise, self._home = random.Random(0), (0.3, -0.2)
        self.place = [0.0, 0.0]

    def move(self, x: float, y: float) -> float:
        """Move by about a tenth of (x, y). Returns the distance from home after that."""
        for axis, push in enumerate((x, y)):
            slip = self._noise.uniform(0.7, 1.1)
            self.place[axis] += 0.1 * push * slip + 0.002  # and the floor is not level
        return float(sum((p - h) ** 2 for p, h in zip(self.place, self._home, strict=True)) ** 0.5)


def play(adapter: warprl.Adapter, patience: int = 100) -> float:
    """One episode, which ends early at home; returns the sum of its rewards."""
    cart, total = Cart(), 0.0
    for step in range(patience):
        distance = cart.move(*adapter.act(cart.place))
        home, late = distance < 0.02, step + 1 == patience
        adapter.observe(-distance, terminated=home, truncated=late)
        total -= distance
        if home:
            break
    return total


def main() -> None:
    """Takes a minute with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    iterations = parser.parse_args().iterations
    small = {"tasks": 10, "adaptation.episodes": 10}
    run = warprl.train("point-navigation-v1", iterations=iterations, set=small)

    # Take three inner steps, each on as many episodes as in training.
    adapter = run.adapter(seed=1)
    for step in range(3):
        returns = []
        while not adapter.ready:
            returns.append(play(adapter))
        print(f"after {step} steps: mean return {sum(returns) / len(returns):.1f}")
        adapter.update()

    # A robot is switched off at night: the adaptation continues in another process.
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        adapter = warprl.Adapter.load(folder)
    returns = [play(adapter) for _ in range(adapter.episodes)]
    print(f"after 3 steps: mean return {sum(returns) / len(returns):.1f}")

    # The adapted policy acts without exploring.
    policy, cart = adapter.policy, Cart()
    distances = [cart.move(*policy.act(cart.place)) for _ in range(100)]
    print(f"without exploring: {-sum(distances):.1f}")


if __name__ == "__main__":
    main()
