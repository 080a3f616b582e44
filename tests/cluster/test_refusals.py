"""What cannot work on a cluster is refused in one line, before anything starts or is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_cluster import PUBLIC, Cluster, own_mounts, running_cluster
from helpers_launch import fabricate

from warprl import __version__

pytestmark = pytest.mark.cluster

LIMIT_S = 30  # that a refusal may take
FAMILY = "point-navigation-v1"
SMALL = ("--iterations=1", "--set=tasks=4", "--set=adaptation.episodes=2", "--run=new")
CPUINFO = "vendor_id : ACME\nflags : fpu sse2\n"
MODULE = "from warprl.envs.point import PointNavigation\n\nFAMILY = PointNavigation()\n"
GRID = "{families: [%s], agents: [promp], seeds: [1], iterations: 1, settings: [tasks=2]}"

needs_mounts = pytest.mark.skipif(not own_mounts(), reason="this system allows no mounts to a test")


def refusal(cluster: Cluster, *arguments: str, cwd: Path, **env: str) -> str:
    """The one line in which a command is refused; it must not have written anything."""
    before = sorted(cwd.rglob("*"))
    done = cluster.run(*arguments, cwd=cwd, timeout=LIMIT_S, **env)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert [path for path in sorted(cwd.rglob("*")) if "__pycache__" not in path.parts] == before
    (line,) = done.stderr.splitlines()
    return line.removeprefix("warprl: ")


def test_a_default_run_has_a_worker_for_each_cpu_of_the_cluster(
    cluster: Cluster, tmp_path: Path
) -> None:
    done = cluster.run("config", FAMILY, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["compute"]["workers"] == 3
    done = cluster.run("train", FAMILY, *SMALL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"training {FAMILY} with warpgrad and 3 workers in runs/new\n")


def test_more_workers_than_cpus_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    line = refusal(cluster, "train", FAMILY, *SMALL, "--workers=4", cwd=tmp_path)
    assert line == (
        "4 workers need a CPU each, and the cluster has 3: use fewer workers, or wait for more "
        "CPUs with --wait-for-nodes SECONDS"
    )
    status = cluster.run("train", FAMILY, "--workers=4", "--json", cwd=tmp_path)
    assert json.loads(status.stdout) == {"error": line, "status": 2}


def test_a_command_waits_for_nodes_if_it_is_told_to(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "warprl.launch.cli", "train", FAMILY, *SMALL, "--workers=4"]
    with subprocess.Popen(
        [*command, "--wait-for-nodes=120"],
        cwd=tmp_path,
        env=cluster.env,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == (
                "waiting for up to 120 s: 4 workers need a CPU each, and the cluster has 3\n"
            )
            assert not (tmp_path / "runs").exists()
            with cluster.node():
                assert process.stdout.readline().startswith("training")
                assert process.wait(timeout=120) == 0
        finally:
            process.kill()


def test_a_wrong_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    refused = (
        f"RAY_ADDRESS={cluster.address}: the cluster refuses this token: set RAY_AUTH_MODE=token, "
        "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token; without RAY_ADDRESS, "
        "Ray starts here"
    )
    train = ("train", FAMILY, *SMALL, "--workers=2")
    assert refusal(cluster, *train, cwd=tmp_path, RAY_AUTH_TOKEN="f" * 64) == refused
    assert refusal(cluster, *train, cwd=tmp_path, RAY_AUTH_MODE="disabled") == refused


def test_a_machine_outside_the_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    # A process that sees no raylet of this machine is on another one, as far as Ray can tell.
    alone = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no process table of its own to a test")
    done = subprocess.run(
        [*alone, sys.executable, "-m", "warprl.launch.cli", "train", FAMILY, "--workers=2"],
        cwd=tmp_path,
        env=cluster.env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, os.listdir(tmp_path)) == (2, [])
    assert done.stderr == (
        f"warprl: RAY_ADDRESS={cluster.address}: this machine does not belong to that cluster: "
        "start the command on a node of the cluster\n"
    )


def test_resume_and_sweep_are_refused_before_they_write(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GRID % FAMILY)
    fabricate(tmp_path / "run", FAMILY, "tasks=4")
    config = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(config.replace("workers: 0", "workers: 4"))
    for arguments in (("resume", "./run"), ("sweep", "grid.yaml")):
        line = refusal(cluster, *arguments, cwd=tmp_path, RAY_AUTH_TOKEN="f" * 64)
        assert "the cluster refuses this token" in line
    line = refusal(cluster, "resume", "./run", cwd=tmp_path)
    assert line.startswith("4 workers need a CPU each, and the cluster has 3")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder with another version of this package."""
    (tmp_path / "older" / "warprl").mkdir(parents=True)
    (tmp_path / "older" / "warprl" / "__init__.py").write_text('__version__ = "0.0.1"\n')
    return tmp_path / "older"


def test_a_node_without_the_package_is_named(cluster: Cluster, tmp_path: Path, bare: Path) -> None:
    with cluster.node(python=bare, PYTHONPATH="") as node:
        line = refusal(cluster, "train", FAMILY, *SMALL, "--workers=2", cwd=tmp_path)
        fault = f"no package warprl: install version {__version__} there"
        assert line == f"node {node.address} of the cluster: {fault}"
        done = cluster.run("doctor", "--cluster", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout.splitlines()[-1] == f"FAIL  {node.address}: {fault}"


def test_a_node_with_another_version_is_named(
    cluster: Cluster, tmp_path: Path, older: Path
) -> None:
    with cluster.node(PYTHONPATH=str(older)) as node:
        line = refusal(cluster, "train", FAMILY, *SMALL, "--workers=2", cwd=tmp_path)
    assert line == (
        f"node {node.address} of the cluster: warprl 0.0.1, and here it is {__version__}: "
        "install the same on both"
    )


@needs_mounts
def test_a_node_that_does_not_find_the_users_family_is_named(cluster: Cluster) -> None:
    home, without = cluster.disk, cluster.nodes[2]
    for disk in (home, *(node.disk for node in cluster.nodes if node is not without)):
        (disk / "mine.py").write_text(MODULE)
    (home / "grid.yaml").write_text(GRID % "mine:FAMILY")
    fault = (
        "no task family 'mine:FAMILY': no module 'mine' in the working directory or on PYTHONPATH"
    )
    for arguments in (("train", "mine:FAMILY", *SMALL, "--workers=1"), ("sweep", "grid.yaml")):
        line = refusal(cluster, *arguments, cwd=home)
        assert line == f"node {without.address} of the cluster: {fault}"

    # It is asked again each time.
    (without.disk / "mine.py").write_text(MODULE)
    done = cluster.run("doctor", "--cluster", "--family=mine:FAMILY", cwd=home)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "OK    workers can run on 4 nodes"


@needs_mounts
def test_unlike_processors_are_warned_about(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "cpuinfo"
    other.write_text(CPUINFO)
    with cluster.node(mounts={"/proc/cpuinfo": other}) as node:
        done = cluster.run("train", FAMILY, *SMALL, "--workers=1", cwd=tmp_path)
        assert done.returncode == 0
        names = [each.address for each in cluster.nodes[1:] if each.alive]  # with CPUs
        (line,) = done.stderr.splitlines()
        assert line.startswith("warprl: warning: the nodes have unlike processors: ")
        assert line.endswith("results have the same bits on like nodes only")
        assert all(name in line for name in names)
        done = cluster.run("doctor", "--cluster", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], len(found["warnings"])) == (0, True, 1)
    rows = {row["address"]: row for row in found["nodes"]}
    assert rows[node.address]["processor"] == "ACME sse2"
    assert {row["versions"]["warprl"] for row in rows.values()} == {__version__}


@pytest.fixture(scope="module")
def opened(network: bool) -> Iterator[Cluster]:
    """A cluster that demands no token, at an address that other machines might reach."""
    if not network:
        pytest.skip("this system allows no network of its own to a test")
    with running_cluster(open_at=PUBLIC) as cluster:
        yield cluster


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_cluster_that_anybody_can_use_is_refused(
    opened: Cluster, tmp_path: Path, mode: str
) -> None:
    train = ("train", FAMILY, *SMALL, "--workers=1")
    assert refusal(opened, *train, cwd=tmp_path, RAY_AUTH_MODE=mode) == (
        f"RAY_ADDRESS={opened.address}: this cluster demands no token, so whoever reaches it can "
        "run programs on it: start it with RAY_AUTH_MODE=token, or accept that with --insecure"
    )


def test_a_cluster_that_anybody_can_use_is_used_if_that_is_accepted(
    opened: Cluster, tmp_path: Path
) -> None:
    done = opened.run("train", FAMILY, *SMALL, "--workers=1", "--insecure", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
