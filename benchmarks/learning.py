"""Learning curves of experiments: returns in training at equal environment steps, over seeds.

``warprl sweep benchmarks/experiments/EXPERIMENT.yaml`` trains an experiment. This program trains
nothing; from the runs that exist it writes

* ``results/learning.csv``: returns after every inner step, thinned to 100 points a run
* ``results/learning_summary.json``: means over seeds with 95 % t-intervals, gains of adaptation,
  steps until the thresholds, versions, machine and times
* ``results/learning.png``: return after adaptation against environment steps
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from warprl.launch.errors import RunFailedError
from warprl.launch.outcome import table
from warprl.launch.runs import metrics
from warprl.launch.training.cells import Cell

REPORTED = ("point-navigation", "half-cheetah-dir-long")  # unless others are named
METHODS = ("warpgrad", "promp", "maml")
THRESHOLDS = {"point-navigation": (-12.0,), "half-cheetah-dir-long": (230.0, 300.0)}
WINDOW = 5  # iterations to average over for a single value of a noisy curve

Floats = NDArray[np.float64]
Runs = Mapping[int, Floats]
"""The histories ``[I, 3 + K + 1]`` of one method by seed, as :func:`read` returns them."""


def read(cell: Cell) -> Floats:
    """What a run logged up to its planned end, a row for each iteration ``[I, 3 + K + 1]``.

    The columns are iteration, environment steps, wall seconds and the returns after 0 to K inner
    steps. Iterations in which every task diverged are left out: they have no return.
    """
    logged = metrics.read(cell.folder / "metrics.jsonl", cell.config.iterations)
    rows = [[m["iteration"], m["env_steps"], m["wall_s"], *metrics.adaptation(m)] for m in logged]
    return np.array([row for row in rows if not np.isnan(row).any()], dtype=np.float64)


def reached(run: Floats) -> int:
    """Environment steps taken."""
    return int(run[-1, 1])


def returns_at(run: Floats, steps: int) -> Floats:
    """Returns ``[K+1]``, mean over the last iterations up to ``steps``, or else of the first."""
    end = max(1, int(np.searchsorted(run[:, 1], steps, side="right")))
    return np.asarray(run[max(0, end - WINDOW) : end, 3:].mean(0))


def mean_curve(runs: Runs) -> tuple[Floats, Floats]:
    """Steps ``[G]`` that all runs have reached, and each run's adapted returns ``[n, G]``."""
    first, last = max(run[0, 1] for run in runs.values()), min(map(reached, runs.values()))
    steps = np.floor(np.linspace(min(first, last), last, min(map(len, runs.values()))))
    return steps, np.array([np.interp(steps, run[:, 1], run[:, -1]) for run in runs.values()])


def half_width(values: Floats) -> Floats:
    """Half of the 95 % t-interval of the mean over the first axis."""
    n = len(values)
    return np.asarray(stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n))


def t_interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean of n independent values with its 95 % t-interval; no interval for a single one."""
    n, mean = len(values), float(np.mean(values))
    half = float(half_width(np.array(values))) if n > 1 else None
    low, high = (None, None) if half is None else (round(mean - half, 3), round(mean + half, 3))
    return {"mean": round(mean, 3), "low": low, "high": high, "n": n}


def first_reach(steps: Floats, curve: Floats, threshold: float) -> int | None:
    """Environment steps at which the mean of WINDOW iterations is first at the threshold."""
    if len(curve) < WINDOW:
        return None
    smooth = np.convolve(curve, np.full(WINDOW, 1.0 / WINDOW), mode="valid")
    above = np.flatnonzero(smooth >= threshold)
    return int(steps[above[0] + WINDOW - 1]) if len(above) else None


def summarise(runs: Runs, planned: int, thresholds: Sequence[float]) -> dict[str, Any]:
    """The summary of one method, at the environment steps that all its seeds have reached."""
    least = min(map(reached, runs.values()))
    final = np.array([returns_at(run, least) for run in runs.values()])
    steps, curves = mean_curve(runs)
    return {
        "seeds": [*runs],
        "env_steps_planned": planned,
        "env_steps_reached": [reached(run) for run in runs.values()],
        "complete": all(reached(run) >= planned for run in runs.values()),
        "at_env_steps": least,
        "returns": [t_interval(column) for column in final.T.tolist()],
        "gain": t_interval((final[:, -1] - final[:, 0]).tolist()),
        "thresholds": {
            f"{t:g}": {
                "env_steps_of_seeds": [first_reach(r[:, 1], r[:, -1], t) for r in runs.values()],
                "env_steps_of_mean": first_reach(steps, curves.mean(0), t),
            }
            for t in thresholds
        },
        "wall_s": [round(run[-1, 2]) for run in runs.values()],
    }


def best_first(methods: Mapping[str, Runs]) -> dict[str, Any]:
    """Methods by adapted return at the steps that every run of the experiment has reached."""
    least = min(reached(run) for runs in methods.values() for run in runs.values())
    rows: list[dict[str, Any]] = [
        {"method": name, **t_interval([returns_at(run, least)[-1] for run in runs.values()])}
        for name, runs in methods.items()
    ]
    return {"at_env_steps": least, "best_first": sorted(rows, key=lambda row: -row["mean"])}


def thinned(run: Floats) -> list[dict[str, float]]:
    """Evenly spaced rows of a run, including the last, for the CSV."""
    return [
        {"iteration": int(iteration), "env_steps": int(steps), "wall_s": round(wall_s, 1)}
        | {f"return_step_{k}": round(value, 3) for k, value in enumerate(returns)}
        for iteration, steps, wall_s, *returns in run[common.spread(len(run))].tolist()
    ]


def plot(path: Path, experiments: Mapping[str, Mapping[str, Runs]]) -> None:
    """A panel for each experiment: mean over seeds, 95 % t-interval, thresholds dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(experiments), 4.4), layout="constrained")
    axes = figure.subplots(1, len(experiments), squeeze=False)[0]
    for axis, (name, methods) in zip(axes, experiments.items(), strict=True):
        shown = [*THRESHOLDS.get(name, ())]
        for threshold in shown:
            axis.axhline(threshold, color="0.4", ls=":", lw=1)
        for method, runs in methods.items():
            steps, curves = mean_curve(runs)
            million, mean = steps / 1e6, curves.mean(0)
            depth, seeds = (
                next(iter(runs.values())).shape[1] - 4,
                "seeds" if len(runs) > 1 else "seed",
            )
            label = f"{method}, K = {depth}, {len(runs)} {seeds}"
            (line,) = axis.plot(million, mean, lw=1.5, label=label)
            if len(runs) > 1:
                low, high = mean - half_width(curves), mean + half_width(curves)
                axis.fill_between(million, low, high, color=line.get_color(), alpha=0.2, lw=0)
            shown += mean[np.isfinite(mean)].tolist()

        # Bands may be very wide: only means and thresholds decide what is shown.
        margin = 0.08 * float(np.ptp(shown)) or 1.0
        axis.set(ylim=(min(shown) - margin, max(shown) + margin))
        axis.set(xlabel="environment steps / million", ylabel="return after adaptation")
        axis.set_title(common.grid(name).families[0])
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    common.shrink(path)


def gather(name: str, wanted: Sequence[str]) -> dict[str, dict[int, Floats]]:
    """The existing runs of an experiment for these methods, by method and seed."""
    found: dict[str, dict[int, Floats]] = {}
    for cell in common.planned(name):
        run = read(cell) if cell.label in wanted else ()
        if len(run):
            found.setdefault(cell.label, {})[cell.config.seed] = np.asarray(run)
    return found


def report(names: Sequence[str], wanted: Sequence[str]) -> str:
    """Write the results of the existing runs of these methods; returns them as a table.

    Raises UserError if there are none.
    """
    found = {name: methods for name in names if (methods := gather(name, wanted))}
    if not found:
        raise RunFailedError(f"no run of {', '.join(names)} has finished an iteration")

    # Every run, thinned.
    common.RESULTS.mkdir(exist_ok=True)
    lines = [
        {"experiment": name, "method": method, "seed": seed, **row}
        for name, methods in found.items()
        for method, runs in methods.items()
        for seed, run in runs.items()
        for row in thinned(run)
    ]
    common.write_csv(common.RESULTS / "learning.csv", lines)
    plot(common.RESULTS / "learning.png", found)

    # The summaries, as JSON and as a table.
    document: dict[str, Any] = {
        **common.provenance(),
        "interval": "95 % t-interval over seeds, whose values are means over training tasks",
        "window_iterations": WINDOW,
        "experiments": {},
    }
    rows = []
    for name, methods in found.items():
        grid, thresholds = common.grid(name), THRESHOLDS.get(name, ())
        planned = grid.env_steps or 0
        summaries = {m: summarise(runs, planned, thresholds) for m, runs in methods.items()}
        document["experiments"][name] = {
            "family": grid.families[0],
            "train": common.command(name),
            "seeds_planned": grid.seeds,
            "methods": summaries,
            "ranking": best_first(methods),
        }
        for method, s in summaries.items():
            estimates = map(common.interval, (s["returns"][0], s["returns"][-1], s["gain"]))
            steps = f"{s['at_env_steps']:,} of {planned:,}"
            rows.append([name, method, str(len(s["seeds"])), steps, *estimates])
    common.write_json(common.RESULTS / "learning_summary.json", document)
    header = ["experiment", "method", "seeds", "env steps", "before", "after", "gain"]
    return f"{table(header, rows)}\nwritten to {common.RESULTS}/learning*"


def main() -> int:
    """Report the experiments that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.stem for path in common.EXPERIMENTS.glob("*.yaml"))
    parser.add_argument("--experiments", nargs="+", choices=known, default=REPORTED)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="agents and variants")
    options = parser.parse_args()
    return common.answer(lambda: report(options.experiments, options.methods))


if __name__ == "__main__":
    sys.exit(main())
