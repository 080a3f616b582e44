"""Whether every node of a cluster reaches the place where runs are to live."""

from __future__ import annotations

import os

from ray.exceptions import GetTimeoutError, RayError

from warprl.launch.cluster import nodes
from warprl.launch.errors import RunFailedError, UserError, one_line, os_errors
from warprl.launch.runs.storage import open_place


def require_shared(place: str) -> None:
    """Raise UserError if a node with CPUs does not find what is written to a path or a URI here."""
    store, mark = open_place(place), f".warprl-{os.urandom(4).hex()}"
    with os_errors(UserError, f"cannot write to {place}"):
        store.write(mark, b"")
    try:
        faults = _ask(place, mark)
    finally:
        with os_errors(RunFailedError, f"cannot write to {place}"):
            store.remove(mark)
    for address, fault in sorted(faults.items()):
        raise UserError(
            f"node {address} of the cluster {fault}: give --storage with a place that all reach"
        )


def _ask(place: str, mark: str) -> dict[str, str]:
    """What is wrong on each node with CPUs that does not find the mark, by its address."""
    faults = {}
    for node, answer in nodes.ask(_look, place, mark, able=True):
        if isinstance(answer, GetTimeoutError):
            answer = f"does not say whether it reaches {place}"
        elif isinstance(answer, RayError):
            answer = f"runs no task: {nodes.reason(answer)}"
        if answer:
            faults[node.address] = answer
    return faults


def _look(place: str, mark: str) -> str:
    """What a node finds wrong, or nothing."""
    try:
        open_place(place).read(mark)
    except FileNotFoundError:
        return f"does not see {place} as it is here"
    except (OSError, UserError) as error:
        return f"cannot read {place}: {one_line(error)}"
    return ""
