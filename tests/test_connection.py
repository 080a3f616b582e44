"""How Ray is found or started: only for us, and refused in one line where it cannot be used."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from helpers_cluster import free_port, head_of, listening, socket_of
from helpers_launch import refused

import warprl
from warprl.launch import doctor
from warprl.launch.cli import main
from warprl.launch.cluster import address, connection, facts, nodes, probe
from warprl.launch.cluster.nodes import Node

HOST = "127.0.0.2"  # for Ray takes 127.0.0.1 as another name of the machine's own address
FAMILY = "point-navigation-v1"
ASK = "import sys, ray._raylet; ray._raylet.GcsClient(address=sys.argv[1])"
TRAIN = ("train", FAMILY, "--workers", "2", "--run", "new", "--set", "tasks=4")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line in which a command is refused; it must not have written anything."""
    line = refused(capsys, *arguments)
    assert os.listdir() == []
    return line


@pytest.mark.parametrize("elsewhere", [[], ["aa"]], ids=["first", "second"])
def test_a_node_that_has_just_started_is_soon_known(
    monkeypatch: pytest.MonkeyPatch, elsewhere: list[str]
) -> None:
    """The head's server answers before the head's own node is registered with it."""
    answers = [elsewhere, elsewhere, [*elsewhere, "bb"]]

    class Head:
        def __init__(self, address: str) -> None:
            pass

        def get_all_node_info(self, timeout: float) -> dict[bytes, Any]:
            node = SimpleNamespace(state="ALIVE", ALIVE="ALIVE", resources_total={"CPU": 2.0})
            return dict.fromkeys(map(bytes.fromhex, answers.pop(0)), node)

        def internal_kv_get(self, *key: Any) -> bytes:
            return b"127.0.0.1:8265"

    monkeypatch.setattr(probe.native, "GcsClient", Head)
    monkeypatch.setattr("ray._private.services.find_node_ids", lambda: {"bb"})
    cpus = 2.0 * len([*elsewhere, "bb"])
    expected = {"cpus": cpus, "here": True, "dashboard": "127.0.0.1:8265"}
    with socket.create_server((HOST, 0)) as server:
        assert probe.probe(f"{HOST}:{server.getsockname()[1]}") == expected
        signal.alarm(0)
    assert answers == []


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("http://127.0.0.1:8265", "training takes no http address, but HOST:PORT of the head: "),
        ("ray://127.0.0.1:10001", "training takes no ray address, but HOST:PORT of the head: "),
        ("somewhere", "not an address: it should be HOST:PORT, as 'ray start' prints it; "),
        ("no-such-host.invalid:1", "no Ray cluster answers there ("),
    ],
)
def test_an_address_where_no_cluster_can_be_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: str, reason: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", place)
    line = refusal(capsys, *TRAIN)
    assert line.startswith(f"RAY_ADDRESS={place}: {reason}")
    assert main([*TRAIN, "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {"error": line, "status": 2}


def test_an_address_where_nothing_listens_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", place := f"{HOST}:{free_port()}")
    assert refusal(capsys, *TRAIN) == (
        f"RAY_ADDRESS={place}: no Ray cluster answers there (Connection refused); without "
        "RAY_ADDRESS, Ray starts here"
    )


def test_something_that_never_answers_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", place := f"{HOST}:{silent.getsockname()[1]}")
        line = refusal(capsys, *TRAIN)
    assert line.startswith(f"RAY_ADDRESS={place}: something listens there, but does not answer as ")


def test_a_missing_token_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", os.getcwd())
    with socket.create_server((HOST, 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"{HOST}:{silent.getsockname()[1]}")
        assert "there is no token to show: set RAY_AUTH_MODE=token, and " in refusal(capsys, *TRAIN)


@pytest.mark.parametrize("option", ["--insecure", "--wait-for-nodes=5"])
def test_options_about_a_cluster_are_refused_without_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    name = option.partition("=")[0]
    nowhere = f"{name}: there is no cluster: set RAY_ADDRESS to that of its head"
    assert refusal(capsys, *TRAIN, option) == nowhere
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert refusal(capsys, *TRAIN[:2], "--workers=0", option) == (
        "--wait-for-nodes and --insecure: a run without workers uses no cluster"
    )


def test_the_doctor_says_what_is_wrong_with_the_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "--cluster: there is no cluster: set RAY_ADDRESS to that of its head"
    assert refusal(capsys, "doctor", "--cluster") == nowhere
    assert "give them with --cluster" in refusal(capsys, "doctor", "--insecure")
    monkeypatch.setenv("RAY_ADDRESS", place := f"{HOST}:{free_port()}")
    refused = f"RAY_ADDRESS={place}: no Ray cluster answers there (Connection refused)"
    assert refusal(capsys, "doctor", "--cluster").startswith(refused)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_cores, doctor.check_ray))
    assert main(["doctor"]) == 1
    cores, found, _ = capsys.readouterr().out.splitlines()
    assert cores.startswith("OK    cores")
    assert found.startswith(f"FAIL  ray    {refused}")


def node(**changes: Any) -> Node:
    """One of many like nodes, but for some changes of what it says of itself."""
    versions = dict.fromkeys(nodes.VERSIONS, "1.2.3") | {"warprl": warprl.__version__}
    said: dict[str, Any] = {
        "processor": "ACME avx2",
        "shared_memory_gib": 1.0,
        "missing": {},
    } | changes
    said["versions"] = versions | changes.get("versions", {})
    return nodes.described(Node(said.pop("address", "10.0.0.1"), 2.0), said)


def test_what_keeps_workers_from_a_node_is_named() -> None:
    assert node().fault == ""
    assert node(versions={"warprl": None}).fault.startswith("no package warprl: install version")
    assert node(versions={"warprl": "0.0.1"}).fault.startswith("warprl 0.0.1, and here it is ")
    assert node(missing={"my:FAMILY": "no module my"}).fault == "no module my"


def test_nodes_that_compute_other_bits_are_told_apart() -> None:
    many = [node(address=f"10.0.0.{number}") for number in range(2, 7)]
    assert nodes.differences([node(), *many]) == []
    other = node(address="10.0.0.9", processor="ACME avx512f", versions={"torch": "2.0"})
    assert nodes.differences([*many, other]) == [
        "the nodes have unlike versions of torch: 1.2.3 on nodes 10.0.0.2, 10.0.0.3, 10.0.0.4 and "
        "2 more; 2.0 on node 10.0.0.9",
        "the nodes have unlike processors: nodes 10.0.0.2, 10.0.0.3, 10.0.0.4 and 2 more; "
        "node 10.0.0.9",
    ]


def test_a_processor_is_its_maker_and_what_changes_how_it_rounds() -> None:
    intel = "processor : 0\nvendor_id : GenuineIntel\ncpu MHz : 2000\nflags : fpu avx2 sse2 fma\n"
    assert facts.processor(intel) == "GenuineIntel avx2 fma sse2"
    assert facts.processor(intel.replace("2000", "900") * 2) == facts.processor(intel)
    assert facts.processor("CPU implementer : 0x41\nFeatures : fp asimd sve\n") == "0x41 asimd sve"


@pytest.mark.parametrize(
    ("place", "alone"),
    [
        ("127.0.0.1:6379", True),
        ("127.0.0.7:6379", True),
        ("[::1]:6379", True),
        ("localhost:6379", True),
        ("10.0.0.1:6379", False),
        ("head.example:6379", False),
    ],
)
def test_only_this_machine_reaches_its_loopback_addresses(place: str, alone: bool) -> None:
    assert address.is_loopback(place) == alone


@pytest.mark.ray
def test_more_workers_than_the_programs_own_ray_has_cpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()
    monkeypatch.setattr(connection, "available_cores", lambda: 1)
    connection.connect(1)
    try:
        with pytest.raises(warprl.UserError) as refused:
            warprl.train(FAMILY, workers=2, run=tmp_path / "new", set={"tasks": 2})
        assert str(refused.value) == (
            "2 workers need a CPU each, and Ray in this program has 1: use fewer workers, or "
            "call ray.shutdown() before, so that it starts with enough"
        )

        # So are CPUs that others hold.
        class Holder:
            pass

        remote: Any = ray.remote(num_cpus=1)(Holder)
        holder = remote.remote()
        ray.get(holder.__ray_ready__.remote())
        with pytest.raises(warprl.UserError, match="0 of the 1 of Ray in this program are free"):
            warprl.train(FAMILY, workers=1, run=tmp_path / "new", set={"tasks": 2})
        assert os.listdir(tmp_path) == []
    finally:
        ray.shutdown()


def test_a_folder_that_somebody_else_has_made_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LONGEST", 999)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    ours = tmp_path / f"warprl-{os.getuid()}"
    assert connection._private_folder() == ours
    ours.chmod(0o777)
    assert connection._private_folder() == ours and ours.stat().st_mode & 0o777 == 0o700
    ours.rmdir()
    (tmp_path / "theirs").mkdir()
    ours.symlink_to(tmp_path / "theirs")
    found = connection._private_folder()
    assert found not in (ours, tmp_path / "theirs")
    assert found.parent == tmp_path and found.stat().st_mode & 0o777 == 0o700


def test_a_ray_that_demands_no_token_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "_init", lambda **settings: None)
    monkeypatch.setattr(connection, "_end_by_force", lambda: None)
    for mode, warnings in (("token", 0), ("disabled", 1)):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        connection._start(1)
        assert len(caplog.messages) == warnings
    assert caplog.messages[0].startswith("RAY_AUTH_MODE=disabled: every user of this machine can")


@pytest.mark.ray
def test_a_run_on_one_machine_is_out_of_reach_for_others(tmp_path: Path) -> None:
    """It listens on the loopback interface only, demands a token, and keeps it to itself.

    Its sockets and logs are for its owner only, and nothing of it is left in the home folder.
    """
    command = [sys.executable, "-m", "warprl.launch.cli", *TRAIN, "--workers", "1"]
    known = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    with subprocess.Popen(
        command,
        env=known | {"HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline().startswith("training ")
            assert run.stdout.readline().startswith("iteration 1/")
            assert listening(run.pid) == {"127.0.0.1"}
            folder = Path(tempfile.gettempdir(), f"warprl-{os.getuid()}")
            assert folder.stat().st_mode & 0o777 == 0o700
            assert folder in Path(socket_of(run.pid)).parents

            asked = subprocess.run(
                [sys.executable, "-c", ASK, head_of(run.pid)],
                env=known | {"RAY_AUTH_MODE": "disabled"},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert "AuthenticationError" in asked.stderr
        finally:
            os.killpg(run.pid, signal.SIGTERM)
    assert os.listdir(tmp_path) == ["runs"]
