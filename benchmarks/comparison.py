"""Measures how the trained runs of the experiments adapt to held-out tasks, and writes the page.

``python benchmarks/comparison.py`` measures the finished runs as ``warprl compare`` does. It stores
each experiment in ``results/EXPERIMENT.json.xz``: the summary and, as ``runs``, every run with each
of its adaptations. Runs that were measured before are kept, unless they are measured again or their
settings or the protocol have changed since. From the stored results it draws
``results/EXPERIMENT.png`` and writes ``docs/results.md``. With ``--page`` it measures nothing, and
``--unpack FOLDER`` writes the stored results as plain JSON and CSV.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import common
import numpy as np
import yaml
from rich.console import Console

from warprl.launch.errors import RunFailedError
from warprl.launch.evaluation import compare, compare_report, evaluate, summaries
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.evaluate import Protocol
from warprl.launch.evaluation.groups import Measured, Member
from warprl.launch.evaluation.summaries import ComparisonSummary, Measurement
from warprl.launch.outcome import to_json
from warprl.launch.runs import config as configuration
from warprl.launch.runs.config import RunConfig
from warprl.launch.training.cells import Cell

Record: TypeAlias = dict[str, Any]
"""A run that was measured: its method, configuration, training curve and adaptations."""
Document: TypeAlias = Mapping[str, Any]
"""The stored results of an experiment: provenance, the summary of a comparison, and ``runs``."""

STEPS = 10  # inner steps of an adaptation
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
ABOUT = yaml.safe_load((Path(__file__).parent / "page.yaml").read_text(encoding="utf-8"))
WARPED, PLAIN = ("warpgrad", "warp-promp"), ("promp", "maml")


# --- measuring ------------------------------------------------------------------------------------


def protocol_of(name: str) -> Protocol:
    """The protocol under which all runs of an experiment are measured."""
    (family,) = common.grid(name).families
    return evaluate.make_protocol(family, STEPS, ABOUT["experiments"][name], seed=0)


def measure(cell: Cell, name: str) -> Record:
    """One run under the protocol of its experiment; an evaluation that it has is reused."""
    protocol, member = protocol_of(name), Member.open(cell.folder)
    known = evaluate.recall(member.run, protocol)
    found = compare.measure(member, protocol, known, Console(quiet=True))
    curve = member.training_curve.T
    # Folders have a meaning on one machine only.
    about = replace(found.about, run=None, evaluation=None, reused=None)
    return {
        "method": cell.label,
        "config": configuration.plain(member.run.config),
        "about": about.to_json(),
        "training": rounded(curve[common.spread(len(curve))].tolist()),
        "adaptations": rows_of(found.curves),
    }


def rows_of(curves: Curves) -> list[dict[str, Any]]:
    """A row for each adaptation, rounded."""
    arrays = {"finite": curves.finite, "returns": curves.returns} | dict(curves.steps)
    return [
        {name: rounded(values[n].tolist()) for name, values in arrays.items()}
        for n in range(len(curves.finite))
    ]


def curves_of(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """The adaptations of :func:`rows_of` as arrays."""
    arrays = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in rows[0]}
    steps = {name: arrays[name] for name in summaries.DIAGNOSTICS if name in arrays}
    return Curves(arrays["returns"], arrays["finite"].astype(np.bool_), steps)


def rounded(value: Any) -> Any:
    """Numbers to five digits, and None if they are not finite, which JSON cannot hold."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return [rounded(part) for part in value] if isinstance(value, list) else value


def kept(name: str) -> Document | None:
    """The stored results of an experiment, if there are any."""
    path = common.RESULTS / f"{name}.json.xz"
    return common.read_json(path) if path.exists() else None


def still_valid(name: str, planned: Sequence[Cell]) -> list[Record]:
    """The stored runs whose protocol and settings are still current; prints what is left out."""
    before = kept(name)
    if before and not before["runs"]:
        tell(f"{name}: the stored results hold no single runs: those not measured now are lost")
    if not before or not before["runs"]:
        return []
    if before["protocol"] != json.loads(to_json(protocol_of(name).describe())):
        tell(f"{name}: all stored runs are left out: another protocol")
        return []
    wanted = {(cell.label, cell.config.seed): cell.config for cell in planned}
    valid = []
    for record in before["runs"]:
        config = wanted.get(identity(record))
        if config is not None and is_current(record, config):
            valid.append(record)
        else:
            tell(f"{name}: {identity(record)} is left out: unfinished, or other settings")
    return valid


def identity(record: Record) -> tuple[str, int]:
    """Method and seed, which identify a run of an experiment."""
    return record["method"], record["about"]["seed"]


def is_current(record: Record, wanted: RunConfig) -> bool:
    """Whether a record belongs to a run as its experiment plans it now."""
    config = configuration.parse(record["config"], common.RESULTS)
    same_length = record["about"]["iteration"] == wanted.iterations
    return same_length and not configuration.differences(config, wanted)


def summarise(name: str, records: Sequence[Record], planned: Sequence[Cell]) -> dict[str, Any]:
    """The comparison of runs, by method in the order of the plan."""
    groups: dict[str, list[Measured]] = {cell.label: [] for cell in planned}
    for record in records:
        about = summaries.from_json(Measurement, json.dumps(record["about"]))
        groups[record["method"]].append(Measured(about, curves_of(record["adaptations"])))
    protocol = protocol_of(name)
    found = [compare.summarise(label, runs, protocol) for label, runs in groups.items() if runs]
    family = planned[0].config.family
    summary = ComparisonSummary(family=family, **protocol.conditions(), groups=found)
    return {"experiment": name, **json.loads(to_json(summary.to_json()))}


def comparison_of(document: Document) -> ComparisonSummary:
    """The summary in the stored results, for the reports of a comparison."""
    return summaries.from_json(ComparisonSummary, json.dumps(document))


def keep(name: str, now: Sequence[Record], planned: Sequence[Cell]) -> None:
    """Store the new records beside the valid earlier ones, replacing those of the same runs."""
    about = common.provenance()
    made = {"measured": {key: about[key] for key in ("date", "commit")}}
    records = {identity(record): record for record in still_valid(name, planned)}
    records |= {identity(record): record | made for record in now}
    runs = [records[key] for key in sorted(records)]
    document = {**about, **summarise(name, runs, planned), "runs": runs}
    common.RESULTS.mkdir(exist_ok=True)
    common.write_json(common.RESULTS / f"{name}.json.xz", document)


def update(name: str, jobs: int) -> None:
    """Measure the runs of an experiment that have all their iterations, ``jobs`` at a time."""
    planned = common.planned(name)
    for cell in planned:
        if cell.done and cell.done != cell.config.iterations:
            tell(f"{cell.name} is left out: at iteration {cell.done} of {cell.config.iterations}")
    finished = [cell for cell in planned if cell.done == cell.config.iterations]
    if finished:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            keep(name, list(pool.map(partial(measure, name=name), finished)), planned)


def tell(line: str) -> None:
    """Warn on stderr."""
    print(f"comparison: {line}", file=sys.stderr)


# --- the page -------------------------------------------------------------------------------------


def draw(document: Document) -> None:
    """Adaptation curves and, beside them, training curves."""
    path = common.RESULTS / f"{document['experiment']}.png"
    training: dict[str, list[Any]] = {group["group"]: [] for group in document["groups"]}
    for record in document["runs"]:
        curve = np.array(record["training"], dtype=np.float64).reshape(-1, 2).T
        training[record["method"]].append(curve)
    compare_report.plot(path, comparison_of(document), list(training.values()))
    common.shrink(path)


def page(documents: Sequence[Document]) -> str:
    """The results page."""
    parts = [ABOUT["head"], overview(documents), ablations(documents), *map(section, documents)]
    return "\n".join(parts)


def by_method(document: Document) -> dict[str, Document]:
    """The groups of a comparison by their names."""
    return {group["group"]: group for group in document["groups"]}


def overview(documents: Sequence[Document]) -> str:
    """Where the warped methods are ahead of the plain ones, and whether they keep improving."""
    rows, methods = [], (*WARPED, *PLAIN)
    for document in documents:
        groups = by_method(document)
        if not set(PLAIN) <= set(groups):
            continue
        areas = {method: groups[method]["area"] for method in methods if method in groups}
        best = max(areas[method]["high"] for method in PLAIN)
        ahead = [method for method in WARPED if method in areas and areas[method]["low"] > best]
        shown = (common.interval(areas[m]) if m in areas else "-" for m in methods)
        late = (late_gain(groups[m]) if m in groups else "-" for m in ("warpgrad", "maml"))
        rows.append([document["experiment"], *shown, ", ".join(ahead) or "no", *late])
    header = ["experiment", *methods, "ahead", "late gain, warpgrad", "maml"]
    return f"{ABOUT['warped']}\n{compare_report.markdown_table(header, rows)}"


def late_gain(group: Document) -> str:
    """How much the mean return rises in the second half of the inner steps."""
    curve = group["curve"]
    return f"{curve[-1]['mean'] - curve[len(curve) // 2]['mean']:.1f}"


def ablations(documents: Sequence[Document]) -> str:
    """The effect of changing one thing in ``warpgrad``, on every family where it was tried."""
    grids = {document["experiment"]: common.grid(document["experiment"]) for document in documents}
    columns = {
        document["experiment"]: by_method(document)
        for document in documents
        if grids[document["experiment"]].agents == ("warpgrad",)
    }
    changed = {name: variant.settings for e in columns for name, variant in grids[e].members}
    rows = []
    for name, settings in changed.items():
        found = [groups.get(name) for groups in columns.values()]
        if any(found):
            what = ", ".join(f"`{setting}`" for setting in settings) or "nothing"
            areas = (f"{common.interval(g['area'])}, {g['seeds']}" if g else "-" for g in found)
            rows.append([what, *areas])
    return f"{ABOUT['ablations']}\n{compare_report.markdown_table(['changed', *columns], rows)}"


def section(document: Document) -> str:
    """One experiment: table, curves, figure, how it was made, published figures."""
    name, family, groups = document["experiment"], document["family"], document["groups"]
    table = re.sub(r"\A# ", f"## {name}\n\n", compare_report.markdown(comparison_of(document)))
    curves = compare_report.markdown_table(
        ["return after", *map(str, range(document["inner_steps"] + 1))],
        [[g["group"], *(f"{point['mean']:.1f}" for point in g["curve"])] for g in groups],
    )
    figure = f"![adaptation curves](../benchmarks/results/{name}.png)\n"
    published = ABOUT["published"].get(family)
    parts = [table, curves, figure, made(document)]
    return "\n".join([*parts, f"Published: {published}.\n"] if published else parts)


def made(document: Document) -> str:
    """How the figures of an experiment were made, and where their data are."""
    name, machine = document["experiment"], document["machine"]
    methods: dict[tuple[int, ...], list[str]] = {}
    for group in document["groups"]:
        seeds = tuple(run["seed"] for run in group["runs"])
        methods.setdefault(seeds, []).append(f"`{group['group']}`")
    fewer = "".join(
        f"; only seeds {', '.join(map(str, seeds))} of {', '.join(names)}"
        for seeds, names in methods.items()
        if seeds != common.grid(name).seeds
    )
    without = "" if document["runs"] else ", without single runs"
    return (
        f"Measured {document['date']} on {machine['cores']} cores of {machine['cpu']} by `python "
        f"benchmarks/comparison.py --experiments {name}` (commit `{document['commit'][:9]}`; "
        f"[data](../benchmarks/results/{name}.json.xz){without}). Trained by "
        f"`{common.command(name)}`{fewer}.\n"
    )


def unpack(folder: Path, documents: Sequence[Document]) -> str:
    """Write the stored results as plain files, in a folder for each experiment."""
    for document in documents:
        place = folder / document["experiment"]
        place.mkdir(parents=True)
        common.write_json(place / "results.json", document)
        compare_report.write_table(place / "comparison.csv", comparison_of(document))
        compare_report.write_curves(place / "curve.csv", comparison_of(document))
    return f"written to {folder}"


def work(options: argparse.Namespace) -> str:
    """Measure what is trained, then write the figures and the page; or unpack."""
    for name in () if options.page or options.unpack else options.experiments:
        update(name, options.jobs)
    documents = [document for document in map(kept, ABOUT["experiments"]) if document]
    if not documents:
        raise RunFailedError("there are no results yet: no run has finished")
    if options.unpack:
        return unpack(options.unpack, documents)
    for document in documents:
        if document["runs"]:  # without them, only the old figure has the training curves
            draw(document)
    PAGE.write_text(page(documents), encoding="utf-8")
    return f"written to {PAGE}"


def main() -> int:
    """Read the options and carry them out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = list(ABOUT["experiments"])
    parser.add_argument("--experiments", nargs="+", choices=known, default=known)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="only write stored results")
    options = parser.parse_args()
    return common.answer(lambda: work(options))


if __name__ == "__main__":
    sys.exit(main())
