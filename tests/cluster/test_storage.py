"""Sweeps on nodes with disks of their own: refused there, and whole in storage that all reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_cluster import Cluster, own_mounts

from warprl import checkpoint

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not own_mounts(), reason="this system allows no mounts to a test"),
]

FAMILY = "point-navigation-v1"
GRID = (
    "{families: [point-navigation-v1], agents: [promp], seeds: [1, 2, 3, 4], iterations: 1, "
    "settings: [tasks=2, adaptation.episodes=2]}"
)


def test_a_sweep_into_a_folder_that_a_node_does_not_see_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    place = cluster.disk / "runs"
    done = cluster.run("sweep", "grid.yaml", cwd=tmp_path, WARPRL_RUNS=str(place))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"warprl: node {cluster.nodes[1].address} of the cluster does not see {place} as it is "
        "here: give --storage with a place that all reach\n"
    )
    assert not place.exists()


def test_a_sweep_in_storage_is_whole_whatever_node_trained_a_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(GRID)
    shared = tmp_path / "shared"
    shared.mkdir()
    storage = f"file://{shared}"
    for state in ("finished", "skipped"):
        done = cluster.run(
            "sweep",
            "grid.yaml",
            "--storage",
            storage,
            "--json",
            cwd=tmp_path,
            TMPDIR=str(cluster.disk),
        )
        assert done.returncode == 0, done.stderr
        runs = json.loads(done.stdout)["runs"]
        assert {row["run"]: row["state"] for row in runs} == {
            f"{storage}/{FAMILY}-promp-s{seed}": state for seed in (1, 2, 3, 4)
        }
    for folder in shared.iterdir():
        assert checkpoint.load(folder / "checkpoints").iteration == 1
    assert len(list(shared.iterdir())) == 4
