"""Commands for jobs, checked here as if they were to run here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from warprl.launch.cluster.shipment import Command
from warprl.launch.errors import UserError, whole_number
from warprl.launch.runs import config as configuration
from warprl.launch.runs import folders
from warprl.launch.runs.copies import CONFIG, name_of
from warprl.launch.runs.storage import is_uri, open_place, require_uri
from warprl.launch.runs.trust import Trust
from warprl.launch.training import cells

LOST = "a job needs an absolute path or a URI, for Ray deletes the folder in which it runs"
LOCAL = "compute.device="  # settings that the nodes fulfil, and this machine need not


def command_for_job(verb: str, given: Mapping[str, Any], rest: Sequence[str]) -> Command:
    """The command for a job. Raises UserError if it could not succeed there.

    Args:
        verb: train, resume or sweep.
        given: the arguments of the verb by name.
        rest: the same, as they were written.

    Returns:
        The command; a ``train`` also continues the run that it began before.
    """
    if given["json"]:
        raise UserError("--json: of a job only the log is kept: give it before the '--'")
    return {"train": _train, "resume": _resume, "sweep": _sweep}[verb](given, rest)


def _train(given: Mapping[str, Any], rest: Sequence[str]) -> Command:
    # Where it writes.
    if given["init_from"] is not None:
        raise UserError(
            "--init-from: not in a job: begin the run where its nodes see it, and submit a resume"
        )
    run, storage = given["run"], given["storage"]
    place = None if run is None else run if storage is None else folders.below(storage, run)
    place = _lasting(place, "--run")
    name = name_of(place)
    if not folders.NAME.fullmatch(name):
        raise UserError(f"--run {run!r}: ends with no name of a run")

    # What it trains. How many workers there are by default is for the cluster to say.
    options = {key: given[key] for key in ("iterations", "workers", "seed")}
    settings = [each for each in given["settings"] or () if not each.startswith(LOCAL)]
    family, agent = given["family"], given["agent"]
    configuration.note_begun(
        configuration.resolve(family, agent, options, settings, cores=lambda: 1)
    )
    again = () if given["again"] else ("--resume",)
    return Command(["train", *again, *rest], place, name, [family])


def _resume(given: Mapping[str, Any], rest: Sequence[str]) -> Command:
    place = _lasting(given["run"], "RUN")
    if given["iterations"] is not None:
        whole_number("iterations", given["iterations"], 1)
    families = _families(place, Trust(given["trust"]))
    if not given["trust"] and any(":" in family for family in families):
        raise UserError(
            f"{place}: a node cannot tell that its task family {families[0]} is yours: add --trust "
            "behind resume"
        )
    return Command(["resume", *rest], place, name_of(place), families)


def _sweep(given: Mapping[str, Any], rest: Sequence[str]) -> Command:
    file = Path(given["file"])
    grid = cells.read(file, given["storage"])
    place = _lasting(grid.folder or folders.in_root(), f"{file}: folder")
    for cell in cells.plan(grid, file):
        configuration.note_begun(cell.config)
    arguments = [file.name if each == given["file"] else each for each in rest]
    return Command(["sweep", *arguments], place, file.stem, grid.families, [file])


def _lasting(run: str | None, what: str) -> str:
    """The path or URI of something that outlasts a job. Raises UserError for anything else."""
    place = "" if run is None else folders.locate(run)
    if is_uri(place):
        return require_uri(place, what)
    if not os.path.isabs(place):
        raise UserError(f"{what}: {LOST}")
    return os.path.normpath(place)


def _families(place: str, trust: Trust) -> list[str]:
    """The task family of a run, or nothing if only the cluster can read it.

    Raises UserError if it does not exist here or is not trusted.
    """
    try:
        text = open_place(place).read(CONFIG)
    except (OSError, UserError):
        return []
    return [configuration.parse(yaml.safe_load(text), Path(place) / CONFIG, trust).family]
