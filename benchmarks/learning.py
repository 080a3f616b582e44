"""Learning curves of the methods at equal environment steps, over several seeds.

``python benchmarks/learning.py`` trains what ``experiments.py`` lists with ``warprl train``, two
runs at a time, each on a core of its own. It may be stopped at any time and started again: finished
runs are kept, interrupted ones resumed, and a higher ``--steps`` prolongs them.

``--report`` trains nothing and writes, of the runs that there are,

* ``results/learning.csv``: returns after every inner step, thinned to 100 points a run
* ``results/learning_summary.json``: means over seeds with 95 % t-intervals, gains of adaptation,
  steps until the thresholds, settings, versions, machine and times
* ``results/learning.png``: return after adaptation against environment steps
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from common import RESULTS, provenance, write_csv, write_json
from experiments import CONTRASTED, EXPERIMENTS, METHODS, Cell
from numpy.typing import NDArray
from scipy import stats

from warprl import checkpoint
from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.metrics import adaptation

REPORTED = ("point-navigation", "half-cheetah-dir-long")  # by --report, unless others are named
POINTS = 100  # a run, in the CSV
WINDOW = 5  # iterations averaged where a single value of a noisy curve is wanted
LEVEL = 0.95

Curve = NDArray[np.float64]


# --- training -------------------------------------------------------------------------------------


def command(cell: Cell, folder: Path, steps: int) -> list[str] | None:
    """What brings a run to its end, or None if it is there.

    Raises UserError if the folder holds a run of other settings than the table's.
    """
    wanted = cell.config(steps)
    if not (folder / "config.yaml").exists():
        if folder.exists():  # stopped before it had a configuration: there is nothing in it
            shutil.rmtree(folder)
        settings = itertools.chain.from_iterable(("--set", s) for s in cell.settings)
        return [
            "train", cell.family, "--agent", wanted.agent, "--workers", "0",
            "--iterations", str(wanted.iterations), "--seed", str(cell.seed),
            "--run", str(folder), *settings,
        ]  # fmt: skip
    require_same(configuration.load(folder / "config.yaml"), wanted, folder)
    done = max(checkpoint.iterations(folder / "checkpoints"), default=0)
    if done >= wanted.iterations:
        return None
    return ["resume", str(folder), "--iterations", str(wanted.iterations - done)]


def require_same(found: RunConfig, wanted: RunConfig, folder: Path) -> None:
    """Raise UserError if two configurations differ in more than how long and on what they run."""
    different = configuration.differences(found, wanted)
    if different:
        raise UserError(
            f"{folder} was trained with another {' and '.join(different)}: "
            "move it away or choose another --runs-dir"
        )


class Stop:
    """Hands the first SIGINT or SIGTERM on to the running children, which save and end."""

    def __init__(self) -> None:
        """No signal yet."""
        self.asked = threading.Event()
        self.children: set[subprocess.Popen[bytes]] = set()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Ask every child to stop; a second signal makes them stop at once."""
        self.asked.set()
        for child in list(self.children):
            child.send_signal(signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Catch the signals that end this program, for as long as runs are going."""
    stop = Stop()
    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(cells: Sequence[Cell], steps: int | None, jobs: int, runs: Path) -> list[str]:
    """Bring every run to its end, ``jobs`` at a time; returns what failed, a line each."""
    runs.mkdir(parents=True, exist_ok=True)
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        waiting.put(cell)
    failures: list[str] = []
    cores = sorted(os.sched_getaffinity(0))

    def work(job: int, stop: Stop) -> None:
        # A child inherits the cores of the thread that starts it: each job keeps to its share.
        os.sched_setaffinity(0, cores[job % len(cores) :: jobs])
        while not stop.asked.is_set():
            try:
                cell = waiting.get_nowait()
            except queue.Empty:
                return
            failure = run(cell, steps or EXPERIMENTS[cell.experiment].steps, runs, stop)
            if failure:
                failures.append(f"{cell.name}: {failure}")
                say(failures[-1])

    with stoppable() as stop:
        threads = [threading.Thread(target=work, args=(job, stop)) for job in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # signals are only handled between short waits
                thread.join(0.5)
    if stop.asked.is_set():
        failures.append("stopped by a signal: start again to go on")
    return failures


def run(cell: Cell, steps: int, runs: Path, stop: Stop) -> str | None:
    """Train or resume one run; returns why it failed."""
    folder = runs / cell.name
    try:
        verb = command(cell, folder, steps)
    except UserError as error:
        return str(error)
    if verb is None:
        say(f"{cell.name}: finished before")
        return None
    say(f"{cell.name}: warprl {shlex.join(verb)}")
    with (runs / f"{cell.name}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "warprl.launch.cli", *verb],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        stop.children.add(child)
        status = child.wait()
        stop.children.discard(child)
    if status and not stop.asked.is_set():
        return f"exit status {status}, see {runs / cell.name}.log"
    say(f"{cell.name}: {'stopped' if status else 'finished'}")
    return None


def say(line: str) -> None:
    """Print one line, whole even if another thread prints too."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# --- aggregation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """One run as far as it got: ``returns [I, K+1]`` at ``env_steps [I]``."""

    cell: Cell
    iteration: NDArray[np.int64]
    env_steps: NDArray[np.int64]
    wall_s: Curve
    returns: Curve

    @property
    def reached(self) -> int:
        """Environment steps taken."""
        return int(self.env_steps[-1])

    def at(self, steps: int) -> Curve:
        """Returns ``[K+1]``, mean over the last iterations up to ``steps``."""
        upto = int(np.searchsorted(self.env_steps, steps, side="right"))
        if not upto:
            raise ValueError(f"{self.cell.name} has no iteration within {steps} steps")
        return np.asarray(self.returns[max(0, upto - WINDOW) : upto].mean(0))


def read(cell: Cell, folder: Path) -> History | None:
    """The history in ``metrics.jsonl``; None if there is none.

    A half-written last line is left out, and iterations that lost every task: they have no return.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    returns = [adaptation(row) for row in rows]
    whole = [i for i, values in enumerate(returns) if None not in values]
    if not whole:
        return None
    return History(
        cell,
        np.array([rows[i]["iteration"] for i in whole]),
        np.array([rows[i]["env_steps"] for i in whole]),
        np.array([rows[i]["wall_s"] for i in whole]),
        np.array([returns[i] for i in whole]),
    )


def t_interval(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean of n independent values with its 95 % t-interval; no interval for a single one."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return {"mean": round(mean, 3), "low": None, "high": None, "n": n}
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    low, high = round(mean - half, 3), round(mean + half, 3)
    return {"mean": round(mean, 3), "low": low, "high": high, "n": n}


def first_reach(env_steps: NDArray[np.int64], curve: Curve, threshold: float) -> int | None:
    """Environment steps at which the mean of WINDOW iterations is first at the threshold."""
    if len(curve) < WINDOW:
        return None
    smooth = np.convolve(curve, np.full(WINDOW, 1.0 / WINDOW), mode="valid")
    above = np.flatnonzero(smooth >= threshold)
    return int(env_steps[above[0] + WINDOW - 1]) if len(above) else None


def mean_curve(histories: Sequence[History]) -> tuple[NDArray[np.int64], Curve]:
    """Adapted returns ``[n, G]`` of each run on a common grid of steps that all have reached."""
    first = max(int(h.env_steps[0]) for h in histories)
    last = min(h.reached for h in histories)
    longest = min(len(h.env_steps) for h in histories)
    grid = np.linspace(min(first, last), last, longest).astype(np.int64)
    return grid, np.array([np.interp(grid, h.env_steps, h.returns[:, -1]) for h in histories])


def summarise(histories: Sequence[History], planned: int, thresholds: Sequence[float]) -> Any:
    """The summary of one method in one experiment, at the steps that all its seeds reached."""
    common = min(h.reached for h in histories)
    final = [h.at(common) for h in histories]
    grid, curves = mean_curve(histories)
    cell = histories[0].cell
    return {
        "train": "warprl train " + shlex.join([cell.family, "--agent", METHODS[cell.method].preset])
        + "".join(f" --set {s}" for s in cell.settings),
        "seeds": [h.cell.seed for h in histories],
        "env_steps_planned": planned,
        "env_steps_reached": [h.reached for h in histories],
        "complete": all(h.reached >= planned for h in histories),
        "at_env_steps": common,
        "returns": [t_interval([f[k] for f in final]) for k in range(len(final[0]))],
        "gain": t_interval([f[-1] - f[0] for f in final]),
        "thresholds": {
            f"{t:g}": {
                "env_steps_of_seeds": [
                    first_reach(h.env_steps, h.returns[:, -1], t) for h in histories
                ],
                "env_steps_of_mean": first_reach(grid, curves.mean(0), t),
            }
            for t in thresholds
        },
        "wall_s": [round(float(h.wall_s[-1])) for h in histories],
    }  # fmt: skip


def rank(histories: Mapping[str, Sequence[History]]) -> dict[str, Any]:
    """Methods by adapted return at the steps that every run of the experiment has reached."""
    common = min(h.reached for runs in histories.values() for h in runs)
    finals = {
        p: t_interval([float(h.at(common)[-1]) for h in runs]) for p, runs in histories.items()
    }
    order = sorted(finals, key=lambda p: -float(finals[p]["mean"] or 0.0))
    return {"at_env_steps": common, "best_first": [{"method": p, **finals[p]} for p in order]}


def thinned(history: History) -> list[dict[str, Any]]:
    """At most POINTS evenly spaced rows of a run, its last among them."""
    return [
        {
            **history.cell._asdict(),
            "iteration": int(history.iteration[i]),
            "env_steps": int(history.env_steps[i]),
            "wall_s": round(float(history.wall_s[i]), 1),
        }
        | {f"return_step_{k}": round(float(v), 3) for k, v in enumerate(history.returns[i])}
        for i in spread(len(history.iteration))
    ]


def spread(count: int) -> NDArray[np.int64]:
    """At most POINTS positions of ``count``, evenly spaced, the last among them."""
    return np.unique(np.linspace(0, count - 1, min(POINTS, count)).round().astype(np.int64))


def plot(path: Path, histories: Mapping[str, Mapping[str, Sequence[History]]]) -> None:
    """One panel an experiment: the mean over seeds and its 95 % t-interval, thresholds dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(histories), figsize=(6.4 * len(histories), 4.4), squeeze=False, layout="constrained"
    )
    for axis, (experiment, by_method) in zip(axes[0], histories.items(), strict=True):
        about = EXPERIMENTS[experiment]
        for method, runs in by_method.items():
            grid, curves = mean_curve(runs)
            mean, label = curves.mean(0), f"{method}, K = {runs[0].returns.shape[1] - 1}"
            seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
            (line,) = axis.plot(grid / 1e6, mean, label=f"{label}, {seeds}", lw=1.5)
            if len(runs) > 1:
                t = stats.t.ppf(0.5 + LEVEL / 2, len(runs) - 1)
                half = t * curves.std(0, ddof=1) / np.sqrt(len(runs))
                axis.fill_between(
                    grid / 1e6, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0
                )
        for threshold in about.thresholds:
            axis.axhline(threshold, color="0.4", ls=":", lw=1)
        low, high = shown_range(by_method, about.thresholds)
        axis.set(title=about.family, xlabel="environment steps / million", ylim=(low, high))
        axis.set_ylabel("return after adaptation")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def shown_range(
    histories: Mapping[str, Sequence[History]], thresholds: Sequence[float]
) -> tuple[float, float]:
    """Limits of the return axis: all means and thresholds, whatever the width of the bands."""
    means = np.concatenate([mean_curve(runs)[1].mean(0) for runs in histories.values()])
    seen = np.concatenate([means[np.isfinite(means)], thresholds])
    margin = 0.08 * float(np.ptp(seen)) or 1.0
    return float(seen.min()) - margin, float(seen.max()) + margin


def report(cells: Sequence[Cell], steps: int | None, runs: Path) -> int:
    """Write the results of all runs that have any; returns how many these are."""
    found = [h for h in (read(cell, runs / cell.name) for cell in cells) if h is not None]
    if not found:
        print(f"nothing to report: no run has finished an iteration in {runs}", file=sys.stderr)
        return 0
    grouped: dict[str, dict[str, list[History]]] = {}
    for history in found:
        by_method = grouped.setdefault(history.cell.experiment, {})
        by_method.setdefault(history.cell.method, []).append(history)
    document: dict[str, Any] = {
        **provenance(),
        "runs": {"planned": len(cells), "with_data": len(found)},
        "interval": "95 % t-interval over seeds, whose values are means over training tasks",
        "window_iterations": WINDOW,
        "experiments": {},
    }
    for experiment, by_method in grouped.items():
        about = EXPERIMENTS[experiment]
        document["experiments"][experiment] = {
            "family": about.family,
            "methods": {
                method: summarise(runs_, steps or about.steps, about.thresholds)
                for method, runs_ in by_method.items()
            },
            "ranking": rank(by_method),
        }
    RESULTS.mkdir(exist_ok=True)
    write_csv(RESULTS / "learning.csv", [row for history in found for row in thinned(history)])
    write_json(RESULTS / "learning_summary.json", document)
    plot(RESULTS / "learning.png", grouped)
    show(document)
    return len(found)


def show(document: Mapping[str, Any]) -> None:
    """Print the summary as a table."""
    from rich.console import Console
    from rich.table import Table

    runs = document["runs"]
    console = Console(highlight=False)
    title = f"mean over seeds [95 % interval]; {runs['with_data']} of {runs['planned']} runs"
    table = Table(
        "experiment", "method", "seeds", "M steps", "before", "after", "gain", title=title
    )
    for experiment, part in document["experiments"].items():
        for method, s in part["methods"].items():
            table.add_row(
                experiment, method, str(len(s["seeds"])),
                f"{s['at_env_steps'] / 1e6:.1f} of {s['env_steps_planned'] / 1e6:.1f}",
                interval_text(s["returns"][0]), interval_text(s["returns"][-1]),
                interval_text(s["gain"]),
            )  # fmt: skip
    console.print(table)
    for experiment, part in document["experiments"].items():
        for method, s in part["methods"].items():
            for threshold, reach in s["thresholds"].items():
                at = reach["env_steps_of_mean"]
                when = "not reached" if at is None else f"reached at {at / 1e6:.2f} M steps"
                console.print(f"{experiment} {method}: mean over seeds at {threshold}: {when}")
    console.print(f"written to {RESULTS}/learning.csv, learning_summary.json, learning.png")


def interval_text(estimate: Mapping[str, Any]) -> str:
    """``"231.0 [220.1, 241.9]"``."""
    if estimate["low"] is None:
        return f"{estimate['mean']:.1f}"
    return f"{estimate['mean']:.1f} [{estimate['low']:.1f}, {estimate['high']:.1f}]"


def cells(
    experiments: Sequence[str], methods: Sequence[str] | None, seeds: Sequence[int] | None
) -> list[Cell]:
    """The runs of some experiments, seed by seed, so that a stopped grid has whole comparisons.

    None stands for all methods, or seeds, of an experiment; one that it does not have is left out.
    """
    found = [
        Cell(name, method, seed)
        for name in experiments
        for method in EXPERIMENTS[name].methods
        for seed in seeds or EXPERIMENTS[name].seeds
        if methods is None or method in methods
    ]
    return sorted(found, key=lambda cell: cell.seed)


def main() -> int:
    """Train what is missing, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--steps", type=int, help="environment steps a run; default: the table's")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    if options.report:
        chosen = options.experiments or REPORTED
        wanted = cells(chosen, options.methods or CONTRASTED, options.seeds)
        return 0 if report(wanted, options.steps, options.runs_dir) else 1
    wanted = cells(options.experiments or list(EXPERIMENTS), options.methods, options.seeds)
    failures = train(wanted, options.steps, options.jobs, options.runs_dir)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
