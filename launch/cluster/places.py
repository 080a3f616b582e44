"""Whether every node of a cluster reaches the place where runs are to live."""

from __future__ import annotations

import os

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from warprl.launch.errors import RunFailedError, UserError, one_line, os_errors
from warprl.launch.runs.storage import open_place

ANSWER_S = 60.0


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
    """What is wrong on each node that does not find the mark, by its address."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    able = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = {
        node["NodeManagerAddress"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(place, mark)
        for node in able
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)

    # Whoever has not answered by now does not answer.
    faults = {}
    for address, answer in asked.items():
        try:
            faults[address] = ray.get(answer, timeout=0)
        except GetTimeoutError:
            faults[address] = f"does not say whether it reaches {place}"
        except RayError as error:
            faults[address] = f"runs no task: {one_line(getattr(error, 'cause', error))}"
    return {address: fault for address, fault in faults.items() if fault}


def _look(place: str, mark: str) -> str:
    """What a node finds wrong, or nothing."""
    try:
        open_place(place).read(mark)
    except FileNotFoundError:
        return f"does not see {place} as it is here"
    except (OSError, UserError) as error:
        return f"cannot read {place}: {one_line(error)}"
    return ""
