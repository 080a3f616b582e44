"""The cluster of the tests is what it says: nodes with disks of their own, which come and go."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from helpers_cluster import Cluster, own_mounts

pytestmark = pytest.mark.cluster

LOOK = """
import json, os, sys, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ray.init(log_to_driver=False, logging_level="error")
look = ray.remote(num_cpus=0)(lambda folder: os.listdir(folder))
alive = [node for node in ray.nodes() if node["Alive"]]
where = [On(node["NodeID"], soft=False) for node in alive]
seen = ray.get([look.options(scheduling_strategy=on).remote(sys.argv[1]) for on in where])
print(json.dumps({node["NodeManagerAddress"]: files for node, files in zip(alive, seen)}))
"""


def look(cluster: Cluster) -> dict[str, Any]:
    """The files that each living node sees where its own disk is."""
    command = [sys.executable, "-c", LOOK, str(cluster.disk)]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not own_mounts(), reason="this system allows no mounts to a test")
def test_nodes_have_disks_of_their_own_and_come_and_go(cluster: Cluster) -> None:
    head, node, *_ = cluster.nodes
    (cluster.disk / "driver's").touch()
    (node.disk / "node's").touch()
    before = look(cluster)
    assert (before[head.address], before[node.address]) == (["driver's"], ["node's"])
    with cluster.node() as other:
        assert look(cluster) == {**before, other.address: []}
    assert look(cluster) == before
