"""The nodes of the cluster that Ray is connected to: what they have, and what a run needs there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from warprl import __version__
from warprl.envs import family_names
from warprl.launch.cluster import facts
from warprl.launch.errors import UserError, one_line
from warprl.launch.outcome import Document
from warprl.launch.search_path import own_folders

ANSWER_S = 60.0  # starting a process from a slow disk takes long
VERSIONS = ("python", *facts.PACKAGES)
DECISIVE = ("torch", "mujoco", "numpy")  # with other versions of these come other bits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node(Document):
    """One node of a cluster, as it describes itself.

    Args:
        address: of the machine.
        cpus: that it offers.
        fault: why no worker can run there; empty if one can.
        versions: of Python and packages, None for a package that it lacks.
        processor: its maker and the vector instructions that it knows.
        shared_memory_gib: the size of the memory in which Ray keeps objects.
    """

    address: str
    cpus: float
    fault: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    processor: str = ""
    shared_memory_gib: float = 0.0


def survey(families: Collection[str] = (), limit_s: float = ANSWER_S) -> list[Node]:
    """Ask every living node at the same time.

    Args:
        families: task families that each node looks for.
        limit_s: seconds after which a node counts as silent.

    Returns:
        The nodes by address.
    """
    # A node may lack this package, so the function that it runs is sent along.
    cloudpickle.register_pickle_by_value(facts)  # type: ignore[no-untyped-call]
    try:
        answers = ask(facts.describe, families, own_folders(), limit_s=limit_s)
    finally:
        cloudpickle.unregister_pickle_by_value(facts)  # type: ignore[no-untyped-call]

    found = []
    for node, answer in answers:
        if isinstance(answer, GetTimeoutError):
            node = replace(node, fault=f"no answer for {limit_s:g} s")
        elif isinstance(answer, RayError):
            node = replace(node, fault=f"no task runs: {reason(answer)}")
        else:
            node = described(node, answer)
        found.append(node)
    return sorted(found, key=lambda node: node.address)


def ask(
    function: Callable[..., Any], *arguments: Any, limit_s: float = ANSWER_S, able: bool = False
) -> list[tuple[Node, Any]]:
    """Run a function on every living node at the same time.

    Args:
        function: what each node runs; it needs no CPU.
        arguments: of the function.
        limit_s: seconds after which a node counts as silent.
        able: whether to leave out nodes that offer no CPU.

    Returns:
        Each node, with its answer or the RayError in place of one: of one that is silent, a
        GetTimeoutError.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [n for n in nodes if n["Alive"] and (n["Resources"].get("CPU") or not able)]
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in alive
    ]
    ray.wait(asked, num_returns=len(asked), timeout=limit_s)

    # Whoever has not answered by now does not answer.
    found: list[tuple[Node, Any]] = []
    for node, request in zip(alive, asked, strict=True):
        here = Node(node["NodeManagerAddress"], node["Resources"].get("CPU", 0.0))
        try:
            found.append((here, ray.get(request, timeout=0)))
        except RayError as error:
            found.append((here, error))
    return found


def reason(error: RayError) -> str:
    """Why a node has not answered, without Ray's traceback."""
    return one_line(getattr(error, "cause", error))


def described(node: Node, said: dict[str, Any]) -> Node:
    """The node with what it says of itself; see :func:`warprl.launch.cluster.facts.describe`."""
    missing, known = said["missing"], {name: said[name] for name in said if name != "missing"}
    version = known["versions"]["warprl"]
    if version is None:
        fault = f"no package warprl: install version {__version__} there"
    elif version != __version__:
        fault = f"warprl {version}, and here it is {__version__}: install the same on both"
    else:
        fault = next(iter(missing.values()), "")
    return replace(node, fault=fault, **known)


def require_able(families: Collection[str]) -> None:
    """Raise UserError if a node of the cluster cannot run workers for these task families.

    Warn if nodes differ in what decides on the last bits of results. A node that offers no CPU gets
    no workers, and does not count.
    """
    own = set(families) - set(family_names())  # those of the package come with it
    nodes = [node for node in survey(own) if node.cpus]
    faults: dict[str, list[str]] = {}
    for node in nodes:
        if node.fault:
            faults.setdefault(node.fault, []).append(node.address)
    for fault, addresses in faults.items():
        raise UserError(f"{_named(addresses)} of the cluster: {fault}")

    for line in differences(nodes):
        log.warning("%s; results have the same bits on like nodes only", line)


def differences(nodes: Sequence[Node]) -> list[str]:
    """In what nodes differ that changes the last bits of results, one line for each."""
    lines = []
    for name in DECISIVE:
        groups = _grouped({node.address: str(node.versions[name]) for node in nodes})
        if len(groups) > 1:
            there = "; ".join(f"{value} on {_named(group)}" for value, group in groups.items())
            lines.append(f"the nodes have unlike versions of {name}: {there}")

    groups = _grouped({node.address: node.processor for node in nodes})
    if len(groups) > 1:
        there = "; ".join(map(_named, groups.values()))
        lines.append(f"the nodes have unlike processors: {there}")
    return lines


def _grouped(values: Mapping[str, str]) -> dict[str, list[str]]:
    """The addresses with each value."""
    groups: dict[str, list[str]] = {}
    for address, value in values.items():
        groups.setdefault(value, []).append(address)
    return groups


def _named(addresses: Sequence[str]) -> str:
    """A few addresses in words, for there may be hundreds of them."""
    more = f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    return f"node{'s' * (len(addresses) > 1)} {', '.join(addresses[:3])}{more}"
