"""Nodes come and go: a run keeps its bits, and goes on with the workers that live."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from helpers import same_bits
from helpers_cluster import Cluster, running_cluster

from warprl import checkpoint
from warprl.types import Params

pytestmark = pytest.mark.cluster

RUN = (
    *("train", "half-cheetah-dir-v1", "--seed=3", "--set=tasks=8", "--set=outer.epochs=3"),
    *("--set=adaptation.episodes=4", "--set=policy.hidden=[8,8]"),
)
LIMIT_S = 120
CLI = ("-m", "warprl.launch.cli")

# The command line, which kills a process between the second iteration's first two epochs.
KILLS = """
import os, signal, sys
from warprl.launch.cli import main
from warprl.launch.training.crew import Crew
from warprl.launch.training.workers import AskGradient

ask, epochs = Crew.ask, []

def watched(crew, pieces, start, question):
    found = ask(crew, pieces, start, question)
    if isinstance(question, AskGradient):
        epochs.append(question)
        if len(epochs) == 3 + 1:
            os.kill(int(sys.argv[1]), signal.SIGKILL)
    return found

Crew.ask = watched
sys.exit(main(sys.argv[2:]))
"""


def alone(folder: Path, iterations: int) -> Params:
    """What the same run learns in one process."""
    command = [sys.executable, *CLI, *RUN, f"--iterations={iterations}"]
    command += ["--workers=0", "--run=alone"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return checkpoint.load(folder / "runs" / "alone" / "checkpoints").tensors


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """What six iterations learn in one process."""
    return alone(tmp_path_factory.mktemp("alone"), 6)


@pytest.fixture(scope="module")
def head(network: bool) -> Iterator[Cluster]:
    """A head without CPUs."""
    with running_cluster(cpus=0) as cluster:
        yield cluster


@pytest.fixture
def wide(head: Cluster) -> Cluster:
    """The head and two nodes of two CPUs, which a test may end."""
    living = sum(node.alive for node in head.nodes[1:])
    added = [head.add_node(cpus=2) for _ in range(2 - living)]
    for node in added:
        node.await_start()
    return head


class Training:
    """A run with four workers that goes on while a test does something to its cluster."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], said: IO[str]) -> None:
        self.folder, self.process, self._said = folder / "runs" / "wide", process, said

    def rows(self) -> list[dict[str, float]]:
        """The metrics of the iterations that are done."""
        file = self.folder / "metrics.jsonl"
        return list(map(json.loads, file.read_text().splitlines())) if file.exists() else []

    def await_iteration(self, number: int) -> None:
        """Return when so many iterations are done."""
        while len(self.rows()) < number:
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)

    def said(self) -> str:
        """What was said on stderr."""
        self._said.seek(0)
        return self._said.read()

    def finish(self, status: int = 0) -> Params:
        """The parameters at its end."""
        out, _ = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == status, self.said()
        assert b"raylet" not in out
        return checkpoint.load(self.folder / "checkpoints").tensors


@contextmanager
def training(
    cluster: Cluster, folder: Path, iterations: int = 6, program: Sequence[str] = CLI
) -> Iterator[Training]:
    """The run, which ends with the ``with`` block at the latest."""
    command = [sys.executable, *program, *RUN, f"--iterations={iterations}"]
    command += ["--workers=4", "--run=wide"]
    with (folder / "stderr").open("w+") as said:
        with subprocess.Popen(
            command, cwd=folder, env=cluster.env, stdout=subprocess.PIPE, stderr=said
        ) as process:
            try:
                yield Training(folder, process, said)
            finally:
                process.kill()


def test_workers_stand_on_all_nodes_and_learn_what_one_process_learns(
    wide: Cluster, expected: Params, tmp_path: Path
) -> None:
    with training(wide, tmp_path) as run:
        run.await_iteration(1)
        assert [node.workers for node in wide.nodes if node.alive] == [0, 2, 2]
        assert same_bits(run.finish(), expected)
        assert run.said() == ""


def test_the_tasks_of_a_node_that_is_lost_go_to_the_others(
    wide: Cluster, expected: Params, tmp_path: Path
) -> None:
    with training(wide, tmp_path) as run:
        run.await_iteration(1)
        wide.nodes[-1].kill()
        began = time.monotonic()
        assert same_bits(run.finish(), expected)
        assert time.monotonic() - began < LIMIT_S
        assert run.rows()[-1]["workers_replaced"] == 2
        lines = run.said().splitlines()
        assert len(lines) == 2 and all("a worker was lost" in line for line in lines), lines


def test_a_node_that_is_lost_between_two_epochs_changes_no_bit(
    wide: Cluster, expected: Params, tmp_path: Path
) -> None:
    node = wide.nodes[-1]
    with training(wide, tmp_path, program=("-c", KILLS, str(node.raylet))) as run:
        assert same_bits(run.finish(), expected)
        assert [row["workers_replaced"] for row in run.rows()][:3] == [0, 2, 2]
        lines = run.said().splitlines()
        assert len(lines) == 2 and all("iteration 2: a worker was lost" in x for x in lines), lines
    node.kill()


def test_a_node_that_is_added_is_used_again(wide: Cluster, tmp_path: Path) -> None:
    first, second = [node for node in wide.nodes[1:] if node.alive]
    with training(wide, tmp_path, iterations=1000) as run:
        run.await_iteration(1)
        second.kill()
        added = wide.add_node(cpus=2)
        added.await_start()
        while added.workers < 2:
            assert run.process.poll() is None, run.said()
            time.sleep(0.05)
        run.await_iteration(len(run.rows()) + 2)

        # It is all that is left now.
        first.kill()
        run.await_iteration(len(run.rows()) + 2)
        run.process.send_signal(signal.SIGTERM)
        found = run.finish(128 + signal.SIGTERM)
    assert same_bits(found, alone(tmp_path, len(run.rows())))
