"""What lies at the address of a cluster: a program, run by its path, that prints one JSON object.

A wrong address makes Ray's client wait for minutes, fill the terminal or end its process. Here it
does so in a process that has a time limit. What is printed is ``{"fault": ...}``, or ``{"cpus":
..., "here": ..., "dashboard": ...}``: the CPUs of the cluster, whether this machine is one of its
nodes, and HOST:PORT of its job server, if it has one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from typing import Any

from ray import _raylet
from ray._private import services
from ray.exceptions import AuthenticationError, RayError

native: Any = _raylet  # whose types Ray does not tell

CONNECT_S, ANSWER_S = 5, 10
REGISTER_S, POLL_S = 5, 0.2  # a node becomes known a moment after it has started
TOKEN = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"


def probe(address: str) -> dict[str, Any]:
    """What the program prints about an address."""
    try:
        # Whether something listens at all is a matter of the network alone.
        place = services.canonicalize_bootstrap_address(address) or ""
        host, _, port = place.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()

        # Without this check Ray ends the process.
        demanded = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        loader = native.AuthenticationTokenLoader.instance()
        if demanded and not loader.has_token(ignore_auth_mode=True):
            return {"fault": f"there is no token to show: {TOKEN}"}

        # The signal ends the process, whatever native code is busy with.
        signal.alarm(ANSWER_S)
        return _cluster(place)
    except (ValueError, OverflowError):
        return {"fault": "not an address: it should be HOST:PORT, as 'ray start' prints it"}
    except AuthenticationError:
        return {"fault": f"the cluster refuses this token: {TOKEN}"}
    except (OSError, RayError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return {"fault": f"no Ray cluster answers there ({reason})"}


def _cluster(address: str) -> dict[str, Any]:
    """What the head of a cluster knows of its nodes."""
    client = native.GcsClient(address=address)
    deadline = time.monotonic() + REGISTER_S
    while True:
        found = client.get_all_node_info(timeout=ANSWER_S)
        nodes = {key.hex(): node for key, node in found.items()}
        alive = {key for key, node in nodes.items() if node.state == node.ALIVE}
        here: set[str] = services.find_node_ids()  # type: ignore[no-untyped-call]
        all_known = alive and here <= nodes.keys()
        if here & alive or all_known or time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    cpus = sum(nodes[key].resources_total.get("CPU", 0.0) for key in alive)
    dashboard = client.internal_kv_get(b"dashboard", b"dashboard", ANSWER_S) or b""
    return {"cpus": cpus, "here": bool(here & alive), "dashboard": dashboard.decode()}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
