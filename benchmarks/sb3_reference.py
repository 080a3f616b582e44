"""What Stable-Baselines3's PPO makes of the steps that a run's policy adapts in.

``python benchmarks/sb3_reference.py RUN`` puts these through what ``warprl compare RUN`` does (the
same held-out tasks, inner steps and episodes), and so each gives adaptation curves:

* ``trained``: the run's own policy, adapted
* ``scratch``: PPO from scratch on each task
* ``fine-tuned``: PPO on the task distribution, without seeing the task, then on each task
* ``oracle``: PPO on the task distribution with the task's numbers in the observation; it need not
  adapt, so its curve is flat

One PPO update takes as many environment steps as one inner step, and has the network, initial
standard deviation, discount and lambda of the run; the rest are SB3's defaults. ``fine-tuned`` and
``oracle`` are trained beforehand for as many steps as the run was, or ``--pretrain-steps``. Writes
``results/sb3_FAMILY.json`` with 95 % bootstrap intervals, and every adaptation to
``results/sb3_FAMILY.csv``; of a family of the user's own, the colon becomes a hyphen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from common import RESULTS, provenance, write_csv, write_json
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3 import PPO

from warprl.agents import sb3
from warprl.envs.vector import FamilyEnv
from warprl.launch.errors import UserError
from warprl.launch.evaluation import compare_report, evaluate
from warprl.launch.evaluation.evaluate import Protocol, Subject, make_protocol, measure
from warprl.launch.evaluation.statistics import estimate
from warprl.launch.outcome import parameters, table
from warprl.launch.runs import folders, stored
from warprl.launch.runs.config import steps_per_iteration
from warprl.launch.runs.stored import StoredRun
from warprl.seeding import generator
from warprl.types import Task

REFERENCES = ("scratch", "fine-tuned", "oracle")

Returns = NDArray[np.float64]  # [n, K + 1]


@dataclass(frozen=True)
class Reference:
    """PPO under the protocol of a run's evaluation."""

    run: StoredRun
    protocol: Protocol
    pretrain_steps: int

    def returns(self, name: str, console: Console) -> Returns:
        """The adaptation curves ``[n, K + 1]`` of one of REFERENCES."""
        row = {"scratch": self.scratch, "fine-tuned": self.fine_tuned, "oracle": self.oracle}[name]
        with console.status(f"{name}: training on the task distribution"):
            prepared = self.pretrained(name)
        rows = []
        with console.status("") as status:
            for number, (_, task) in enumerate(self.protocol.rows):
                status.update(f"{name}: {number} of {len(self.protocol.rows)} adaptations done")
                rows.append(row(prepared, task, *self.seeds(1 + number)))
        return np.array(rows)

    def pretrained(self, name: str) -> PPO | None:
        """PPO on the task distribution, for those that begin with it."""
        if name == "scratch":
            return None
        seed, _ = self.seeds(0)
        model = self.ppo(self.environments(None, sees_task=name == "oracle"), seed)
        return model.learn(self.pretrain_steps)

    def scratch(self, _: PPO | None, task: Task, seed: int, play: int) -> list[float]:
        """A row: PPO that begins with nothing."""
        make_env = self.environments(task)
        return self.learning(self.ppo(make_env, seed), make_env, play)

    def fine_tuned(self, begin: PPO | None, task: Task, seed: int, play: int) -> list[float]:
        """A row: PPO that goes on from the task distribution."""
        assert begin is not None
        make_env = self.environments(task)
        model = self.ppo(make_env, seed)
        sb3.take_over(model, begin)
        return self.learning(model, make_env, play)

    def oracle(self, trained: PPO | None, task: Task, _: int, play: int) -> list[float]:
        """A row: PPO that sees the task, the same at every step."""
        assert trained is not None
        torch.manual_seed(play)
        make_env = self.environments(task, sees_task=True)
        (value,) = sb3.learning_row(trained, make_env, 0, self.protocol.episodes, play)
        return [value] * (self.protocol.steps + 1)

    def learning(self, model: PPO, make_env: sb3.MakeEnv, play: int) -> list[float]:
        """A row: returns before and after each update of the protocol."""
        return sb3.learning_row(model, make_env, self.protocol.steps, self.protocol.episodes, play)

    def ppo(self, make_env: sb3.MakeEnv, seed: int) -> PPO:
        """PPO as large as the run's policy, with updates as large as its inner steps."""
        config = self.run.config
        adaptation = replace(config.adaptation, episodes=self.protocol.episodes)
        return sb3.new_ppo(make_env, config.policy, adaptation, self.protocol.family.horizon, seed)

    def environments(self, task: Task | None, sees_task: bool = False) -> sb3.MakeEnv:
        """Makes the family's environment with one task, or with tasks drawn at every reset."""
        name = self.run.config.family
        values = None if task is None else asdict(task)
        size = self.protocol.family.distribution.size

        def make_env() -> sb3.Env:
            env = FamilyEnv(name, values)
            return sb3.TaskObservation(env, size) if sees_task else env

        return make_env

    def seeds(self, number: int) -> tuple[int, int]:
        """What an adaptation learns with, and what its returns are measured with."""
        drawn = generator(self.protocol.seed, "reset", task=number).integers(2**31, size=2)
        return int(drawn[0]), int(drawn[1])


def summarise(returns: Returns, protocol: Protocol) -> dict[str, Any]:
    """Every point of the curve, its area and the gain, with 95 % bootstrap intervals, and worse.

    Adaptations whose return is not finite are left out and counted.
    """
    usable = np.isfinite(returns).all(axis=1)

    def over_tasks(values: Returns) -> dict[str, Any]:
        rng = generator(protocol.seed, "bootstrap")
        return asdict(estimate(values[usable], protocol.strata[usable], rng))

    return {
        "curve": [over_tasks(column) for column in returns.T],
        "area": over_tasks(evaluate.area(returns)),
        "gain": over_tasks(returns[:, -1] - returns[:, 0]),
        "worse": float(evaluate.got_worse(returns[usable]).mean()),
        "left_out": int((~usable).sum()),
    }


def lines(name: str, returns: Returns, protocol: Protocol) -> list[dict[str, Any]]:
    """The CSV's lines: one for each adaptation."""
    return [
        {
            "policy": name,
            "task": position,
            "parameters": parameters(asdict(task)),
            "repeat": number // len(protocol.tasks),
        }
        | {f"return_step_{k}": round(value, 3) for k, value in enumerate(row.tolist())}
        for number, ((position, task), row) in enumerate(zip(protocol.rows, returns, strict=True))
    ]


def show(found: dict[str, dict[str, Any]]) -> str:
    """The areas and curves as a table: means, and the area's 95 % interval."""
    rows = [
        [name, compare_report.interval(summary["area"]), f"{summary['worse']:.0%}"]
        + [f"{point['mean']:.1f}" for point in summary["curve"]]
        for name, summary in found.items()
    ]
    steps = [f"step {k}" for k in range(len(rows[0]) - 3)]
    return table(["return", "area", "worse", *steps], rows)


def compare(name: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure the run and its references, and write the results.

    Raises UserError for a run that cannot be read and for a number out of range.
    """
    if options.pretrain_steps is not None and options.pretrain_steps < 1:
        raise UserError(f"--pretrain-steps {options.pretrain_steps}: must be 1 or more")
    run = stored.open_run(folders.find(name), None)
    config = run.config
    protocol = make_protocol(config.family, options.steps, options.episodes, options.seed)
    trained_on = run.iteration * steps_per_iteration(config)
    reference = Reference(run, protocol, options.pretrain_steps or trained_on)
    subject = Subject("trained", run.policy, run.theta, run.phi, config.adaptation)
    curves = {"trained": measure(subject, protocol, console).returns}
    curves |= {name: reference.returns(name, console) for name in options.references}
    document = {
        **provenance(),
        "family": config.family,
        "agent": config.agent,
        "checkpoint": run.iteration,
        "seed": protocol.seed,
        "env_steps": {
            "inner_step": protocol.episodes * protocol.family.horizon,
            "trained": trained_on,
            "pretrained_references": reference.pretrain_steps,
        },
        "tasks": len(protocol.tasks),
        "repeats": protocol.repeats,
        "policies": {name: summarise(returns, protocol) for name, returns in curves.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    target = f"sb3_{config.family.replace(':', '-')}"
    rows = [row for name, returns in curves.items() for row in lines(name, returns, protocol)]
    write_csv(RESULTS / f"{target}.csv", rows)
    write_json(RESULTS / f"{target}.json", document)
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a name under runs/, or a path")
    parser.add_argument("--steps", type=int, default=10, help="inner steps")
    parser.add_argument("--episodes", type=int, default=20, help="a task and step")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    parser.add_argument("--pretrain-steps", type=int, help="default: as many as the run took")
    parser.add_argument("--references", nargs="+", choices=REFERENCES, default=REFERENCES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        document = compare(options.run, options, Console(stderr=True))
    except UserError as error:
        print(f"sb3_reference: {error}", file=sys.stderr)
        return error.status
    print(show(document["policies"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
