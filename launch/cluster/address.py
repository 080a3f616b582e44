"""The cluster that RAY_ADDRESS names, if any, and what is known of it without connecting to it."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from warprl.launch.errors import UserError
from warprl.launch.machine import available_cores

PROBE = Path(__file__).with_name("probe.py")
LIMIT_S = 60  # to load Ray as well; the program has shorter limits for the cluster's answers
RUN = "start the command on a node of the cluster"
OPEN = (
    "this cluster demands no token, so whoever reaches it can run programs on it: start it with "
    "RAY_AUTH_MODE=token, or accept that with --insecure"
)
SILENCE = "something listens there, but does not answer as a Ray cluster does"


class ClusterOptions(NamedTuple):
    """How to treat a cluster.

    Args:
        wait_s: seconds to wait for CPUs that are missing or taken.
        insecure: use a cluster of other machines that demands no token.
    """

    wait_s: float = 0.0
    insecure: bool = False


DEFAULTS = ClusterOptions()


def named() -> str | None:
    """The address in RAY_ADDRESS; None if Ray would start on this machine instead."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def options(wait_s: float | None, insecure: bool) -> ClusterOptions:
    """What the command line says about a cluster. Raises UserError if there is none."""
    for name, given in (("--wait-for-nodes", wait_s is not None), ("--insecure", insecure)):
        if given and named() is None:
            raise UserError(f"{name}: there is no cluster: set RAY_ADDRESS to that of its head")
    return ClusterOptions(wait_s or 0.0, insecure)


def require_reachable(address: str) -> int:
    """The number of CPUs of a cluster that can be connected to from here.

    Raises UserError, within half a minute, if it is not there, refuses our token or cannot be used
    from this machine.
    """
    if "://" in address:
        kind = address.partition("://")[0]
        raise refusal(
            address, f"training takes no {kind} address, but HOST:PORT of the head: {RUN}"
        )
    answer = _ask(address)
    if "fault" in answer:
        raise refusal(address, f"{answer['fault']}; without RAY_ADDRESS, Ray starts here")
    if not answer["here"]:
        raise refusal(address, f"this machine does not belong to that cluster: {RUN}")
    return int(answer["cpus"])


def usable_cores() -> int:
    """The CPUs of the cluster in RAY_ADDRESS, or without one the cores of this process.

    Raises UserError if the cluster cannot be used, or has no CPUs.
    """
    address = named()
    if address is None:
        return available_cores()
    cpus = require_reachable(address)
    if not cpus:
        raise refusal(address, "the cluster has no CPUs yet: say how many --workers it will have")
    return cpus


def dashboard(address: str) -> str:
    """The URL of the job server of the cluster whose head has this address HOST:PORT.

    Raises UserError if the cluster does not answer, or has none.
    """
    answer = _ask(address)
    if "fault" in answer:
        raise UserError(f"{address}: {answer['fault']}")
    if not answer["dashboard"]:
        raise UserError(f"{address}: this cluster was started with --include-dashboard=False")
    return f"http://{answer['dashboard']}"


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address HOST:PORT."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refusal(address: str, reason: str) -> UserError:
    """The error about a cluster that is not to be used."""
    return UserError(f"RAY_ADDRESS={address}: {reason}")


def _ask(address: str) -> dict[str, Any]:
    """What the probe says of an address."""
    command = [sys.executable, "-P", str(PROBE), address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {"fault": SILENCE}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
