"""Jobs on a cluster of nodes that lack the package: submitted, followed, stopped, killed, fetched.

Whatever happens to a job, its run has the bits of a run in one process here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cluster import Cluster, free_port, running_cluster

pytestmark = pytest.mark.cluster

LIMIT_S = 30  # that a refusal may take
# A task family of a user's own; the second one needs more time for an iteration than Ray gives to
# a job that is stopped.
MODULE = """
import time
from warprl.envs.point import PointNavigation

class Slow(PointNavigation):
    def sample_tasks(self, rng, n):
        time.sleep(4)
        return super().sample_tasks(rng, n)

FAMILY, SLOW = PointNavigation(), Slow()
"""
SMALL = ("--seed=3", "--set=tasks=4", "--set=adaptation.episodes=2", "--set=policy.hidden=[8]")
GRID = """
families: ["ours:FAMILY"]
agents: [promp]
seeds: [1, 2]
iterations: 1
settings: [tasks=2, "adaptation.episodes=2"]
folder: %s
"""
ALIVE = """
from ray.util.state import list_actors
print(*(actor.class_name for actor in list_actors(filters=[("state", "!=", "DEAD")])))
"""


@pytest.fixture(scope="module")
def fleet(network: bool, bare: Path) -> Iterator[Cluster]:
    """A head that takes jobs, and two nodes for their workers; the nodes lack the package."""
    with running_cluster(cpus=0, dashboard=True) as cluster:
        nodes = [cluster.add_node(python=bare, PYTHONPATH="") for _ in range(2)]
        for node in nodes:
            node.await_start()
        yield cluster


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a task family of the user's own, and something that is nobody's business."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "ours.py").write_text(MODULE)
    (home / "diary.txt").write_text("dear")
    return home


def warprl(cluster: Cluster, *arguments: str, cwd: Path, status: int = 0) -> str:
    """What a command prints, which must end with this status and complain of nothing."""
    done = cluster.run(*arguments, cwd=cwd, timeout=240)
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return done.stdout


def shown(cluster: Cluster, verb: str, *arguments: str, cwd: Path) -> dict[str, Any]:
    """What a command prints for programs; the log of a job is then not in its way."""
    done = cluster.run(verb, "--json", *arguments, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tensors(run: Path, iteration: int) -> str:
    """The checksum of what a run had learned."""
    manifest = json.loads((run / "checkpoints" / str(iteration) / "manifest.json").read_text())
    checksum: str = manifest["files"]["tensors.safetensors"]["sha256"]
    return checksum


def here(cluster: Cluster, iterations: int, cwd: Path) -> str:
    """The checksum of what a run in one process learns in so many iterations."""
    train = ("train", "ours:FAMILY", *SMALL, "--workers=0", f"--iterations={iterations}")
    warprl(cluster, *train, f"--run={cwd}/here", cwd=cwd)
    return tensors(cwd / "here", iterations)


def train(
    run: Path, family: str, iterations: int, *settings: str, workers: int = 2
) -> tuple[str, ...]:
    """A command for a job that trains a run."""
    sizes = (f"--workers={workers}", f"--iterations={iterations}", *settings)
    return ("--", "train", f"ours:{family}", *SMALL, *sizes, f"--run={run}")


def until(happened: Callable[[], bool], limit_s: float = 120) -> None:
    """Wait for something."""
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)


def logged(run: Path) -> int:
    """The number of iterations in the log of a run."""
    log = run / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def test_a_job_learns_what_a_run_here_learns_and_is_fetched(
    fleet: Cluster, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "first"
    said = warprl(fleet, "submit", "--wait", *train(run, "FAMILY", 2), cwd=home)
    assert said.splitlines()[0] == "submitted first, which goes on if this command ends"
    assert said.splitlines()[-1] == "first: succeeded"
    assert f"training ours:FAMILY with warpgrad and 2 workers in {run}\n" in said

    # What is known of it, from the head's address and from that of its job server.
    (job,) = shown(fleet, "status", "first", cwd=home)["jobs"]
    began = job.pop("started")
    expected = {"job": "first", "run": str(run), "state": "succeeded", "iteration": 2}
    assert job == expected | {"exit_status": 0}
    table = warprl(fleet, "status", "--address", str(fleet.dashboard), cwd=home)
    assert f"first  succeeded          2  {began}  {run}\n" in table
    log = warprl(fleet, "logs", "first", cwd=home)
    assert log in said

    # What it learned.
    fetched = shown(fleet, "fetch", "first", "--to=copy", cwd=home)
    assert fetched == {"run": "copy", "source": str(run), "checkpoints": [2]}
    assert tensors(home / "copy", 2) == tensors(run, 2) == here(fleet, 2, home)


def test_a_job_that_is_stopped_is_saved_and_continues(
    fleet: Cluster, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    submit = ("submit", *train(run, "SLOW", 50, "--set=output.checkpoint_every=50"))
    assert warprl(fleet, *submit, cwd=home).splitlines()[-1] == "stopped"
    until(lambda: logged(run) > 0)

    # One job writes a run.
    done = fleet.run(*submit, cwd=home)
    refused = f"{run} is written by job stopped: 'warprl stop stopped' ends it"
    assert (done.returncode, done.stderr) == (2, f"warprl: {refused}\n")

    # A stop waits for the iteration.
    stopped = shown(fleet, "stop", "stopped", cwd=home)
    saved = stopped["iteration"]
    assert stopped == {"job": "stopped", "state": "stopped", "iteration": saved}
    assert os.listdir(run / "checkpoints") == [str(saved)]
    assert logged(run) == saved
    assert "nothing to stop" in warprl(fleet, "stop", "stopped", cwd=home)

    # Submitted again, it goes on.
    again = train(run, "SLOW", saved + 1)
    job = shown(fleet, "submit", "--wait", *again, cwd=home)
    assert (job["job"], job["state"], job["iteration"]) == ("stopped-2", "succeeded", saved + 1)
    assert f"finished at iteration {saved + 1}" in warprl(fleet, "logs", "stopped-2", cwd=home)
    assert tensors(run, saved + 1) == here(fleet, saved + 1, home)


def test_a_job_that_is_killed_leaves_no_worker_and_continues(
    fleet: Cluster, home: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    command = train(run, "SLOW", 50, "--set=output.checkpoint_every=1")
    warprl(fleet, "submit", *command, cwd=home)
    until(lambda: logged(run) > 0)
    os.kill(driver(run), signal.SIGKILL)

    # Its exit status is that of a program that was killed.
    followed = shown(fleet, "logs", "--follow", "killed", cwd=home)
    assert f"training ours:SLOW with warpgrad and 2 workers in {run}\n" in followed["log"]
    (job,) = shown(fleet, "status", "killed", cwd=home)["jobs"]
    assert (job["state"], job["exit_status"]) == ("failed", 128 + signal.SIGKILL)
    until(lambda: "Worker" not in actors(fleet), 60)

    # A resume goes on after the newest checkpoint.
    saved = max(int(name) for name in os.listdir(run / "checkpoints") if name.isdecimal())
    resume = ("--", "resume", str(run), "--iterations=1", "--trust")
    warprl(fleet, "submit", "--wait", *resume, cwd=home)
    assert tensors(run, saved + 1) == here(fleet, saved + 1, home)


def test_a_sweep_is_a_job(fleet: Cluster, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    (home / "two.yaml").write_text(GRID % folder)
    said = warprl(fleet, "submit", "--wait", "--", "sweep", "two.yaml", cwd=home)
    assert "2 runs: 2 finished\n" in said
    assert said.splitlines()[-1] == "two: succeeded"
    assert sorted(path.name for path in folder.glob("*/checkpoints/1")) == ["1", "1"]


def test_the_exit_status_of_a_job_becomes_that_of_the_command(
    fleet: Cluster, home: Path, tmp_path: Path
) -> None:
    many = train(tmp_path / "large", "FAMILY", 1, workers=3)
    said = warprl(fleet, "submit", "--wait", *many, cwd=home, status=2)
    assert "3 workers need a CPU each, and the cluster has 2: " in said
    assert said.splitlines()[-1] == "large: failed with status 2"


def test_what_is_no_job_server_is_refused(fleet: Cluster, tmp_path: Path) -> None:
    def refused(address: str, **env: str) -> str:
        command = ("status", f"--address={address}")
        done = fleet.run(*command, cwd=tmp_path, timeout=LIMIT_S, **env)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        return line.removeprefix(f"warprl: {address}: ")

    advice = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    for address in (str(fleet.dashboard), fleet.address):
        line = refused(address, RAY_AUTH_TOKEN="f" * 64)
        assert line.startswith(f"the cluster refuses this token: {advice}")
    assert "no Ray cluster answers there (" in refused(f"127.0.0.1:{free_port()}")


def driver(run: Path) -> int:
    """The process of a job that trains a run."""
    (found,) = (
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if is_driver(folder / "cmdline", run)
    )
    return found


def is_driver(command: Path, run: Path) -> bool:
    """Whether a command line is that of a program that trains a run."""
    try:
        words = command.read_text().split("\0")
    except OSError:
        return False
    return "warprl.launch.cli" in words and "train" in words and f"--run={run}" in words


def actors(cluster: Cluster) -> list[str]:
    """The classes of all actors that live."""
    done = subprocess.run(
        [sys.executable, "-c", ALIVE], env=cluster.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
