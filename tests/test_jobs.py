"""Jobs, without a cluster: what is checked and sent along, and how answers are understood.

A small server on this machine stands in for a cluster's; tests/cluster/test_jobs.py has a real one.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers_launch import fabricate, refused
from ray.job_submission import JobDetails

from warprl.launch.cli import main
from warprl.launch.cluster import address, jobs, server

FAMILY = "point-navigation-v1"
ONE = ("--workers", "0", "--iterations", "1")
TRAIN = ("train", FAMILY, "--workers", "2", "--iterations", "3")
MODULE = "from warprl.envs.point import PointNavigation\n\nFAMILY = PointNavigation()\n"
GRID = "{families: [%s], agents: [promp], seeds: [1], iterations: 1, folder: %s}"


class Handler(BaseHTTPRequestHandler):
    """Answers as the job server of Ray does, as far as a client asks."""

    server: JobServer

    def do_GET(self) -> None:
        if self.path.startswith("/api/packages"):
            return self._answer(404, "no such package")
        if self.path == "/api/version":
            return self._answer(200, self.server.version)
        if self.path.endswith("/logs"):
            return self._answer(200, {"logs": self.server.log})
        if self.path != "/api/jobs/":
            (details,) = self.server.jobs
            return self._answer(200, details)
        self._answer(200, self.server.jobs)

    def do_PUT(self) -> None:
        self.server.package = self._body()
        self._answer(200, "")

    def do_POST(self) -> None:
        if self.path.endswith("/stop"):
            (stopped,) = self.server.jobs
            stopped |= {"status": self.server.ends_as, "driver_exit_code": 1}
            return self._answer(200, {"stopped": True})
        asked = self.server.asked = json.loads(self._body())
        if self.server.refusals:
            return self._answer(500, self.server.refusals.pop())
        self.server.jobs.append(job(asked["submission_id"], metadata=asked["metadata"]))
        self._answer(200, {"job_id": "", "submission_id": asked["submission_id"]})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, content: Any) -> None:
        demanded = self.server.token
        if demanded and self.headers["Authorization"] != f"Bearer {demanded}":
            status, content = 403, "Forbidden"
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class JobServer(ThreadingHTTPServer):
    """A job server, what it was asked for, and what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.version: Any = {"ray_version": ray.__version__}
        self.token = ""
        self.jobs: list[dict[str, Any]] = []
        self.asked: dict[str, Any] = {}
        self.package = b""
        self.ends_as, self.log = "STOPPED", ""
        self.refusals: list[str] = []  # what it says before it takes a job


def job(name: str, status: str = "RUNNING", **details: Any) -> dict[str, Any]:
    """A job as a server describes it."""
    return {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "",
    } | details


def writing(run: Path) -> dict[str, str]:
    """The metadata of a job that writes a run."""
    return {jobs.PLACE: str(run)}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is not that of the runs."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")
    return home


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[JobServer]:
    """A job server, to which the environment points."""
    with JobServer() as there:
        thread = threading.Thread(target=there.serve_forever)
        thread.start()
        monkeypatch.setenv("RAY_ADDRESS", there.url)
        yield there
        there.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("evaluate", "first"), "submit: 'evaluate' is no command for a job: it may be train, "),
        (("train",), "Missing argument 'FAMILY'."),
        (("train", "ant", "--run", "/runs/x"), "unknown family 'ant': "),
        (TRAIN, "--run: a job needs an absolute path or a URI, for Ray deletes the folder in whi"),
        ((*TRAIN, "--run", "first"), "--run: a job needs an absolute path or a URI, "),
        ((*TRAIN, "--run", "a/b", "--storage", "s3://b"), "run 'a/b': with --storage, give a name"),
        ((*TRAIN, "--run", "ftp://host/first"), "--run 'ftp://host/first': unknown scheme"),
        ((*TRAIN, "--run", "/runs/my run"), "--run '/runs/my run': ends with no name of a run"),
        ((*TRAIN, "--run", "/runs/x", "--set", "tasks=a"), 'tasks = "a": should be'),
        ((*TRAIN, "--run", "/runs/x", "--init-from", "a.zip"), "--init-from: not in a job: "),
        ((*TRAIN, "--run", "/runs/x", "--json"), "--json: of a job only the log is kept: "),
        (
            ("train", "nowhere:FAMILY", "--run", "/runs/x"),
            "no task family 'nowhere:FAMILY': no mod",
        ),
        (("resume", "first"), "RUN: a job needs an absolute path or a URI, "),
        (("resume", "/runs/first", "--iterations", "0"), "iterations = 0: "),
        (("sweep", "gone.yaml"), "cannot read gone.yaml: No such file"),
        (("sweep", "grid.yaml"), "grid.yaml: folder: a job needs an absolute path or a URI, "),
    ],
)
def test_a_command_that_cannot_succeed_as_a_job_is_refused(
    capsys: pytest.CaptureFixture[str], there: JobServer, command: tuple[str, ...], message: str
) -> None:
    Path("grid.yaml").write_text(GRID % (FAMILY, "runs"))
    assert refused(capsys, "submit", "--", *command).startswith(message)
    assert (there.asked, there.package) == ({}, b"")


def test_a_grace_time_is_a_number_of_seconds(
    capsys: pytest.CaptureFixture[str], there: JobServer
) -> None:
    line = refused(capsys, "submit", "--grace", "0", "--", *TRAIN, "--run", "/runs/first")
    assert line == "grace = 0: must be a whole number, 1 or more"


def test_nothing_goes_along_but_the_package_and_the_modules_of_families(
    capsys: pytest.CaptureFixture[str], there: JobServer, tmp_path: Path
) -> None:
    for name in ("shipped_module.py", "shipped/__init__.py", "shipped/deep/family.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(MODULE)
    for name in ("diary.txt", "other.py", "shipped/.secret", "shipped/deep/data.json", ".env"):
        Path(name).write_text("dear")
    families = "'shipped_module:FAMILY', 'shipped.deep.family:FAMILY'"
    Path("grid.yaml").write_text(GRID % (families, tmp_path / "grid"))
    assert main(["submit", "--", "sweep", "grid.yaml"]) == 0

    sent = set(zipfile.ZipFile(io.BytesIO(there.package)).namelist())
    files = {name for name in sent if not name.endswith("/")}
    package = {name for name in files if name.startswith("warprl/")}
    assert files - package == {
        *("grid.yaml", "shipped_module.py", "shipped/__init__.py"),
        *("shipped/deep/family.py", "shipped/deep/data.json"),
    }
    assert {"warprl/launch/cli.py", "warprl/envs/point.xml", "warprl/agents/meta.py"} <= package
    assert not [name for name in files if "__pycache__" in name]


def test_a_train_is_submitted_so_that_it_continues_its_run(
    capsys: pytest.CaptureFixture[str], there: JobServer, tmp_path: Path
) -> None:
    run = tmp_path / "it's mine" / "first"
    device = ("--set", "compute.device=cuda")  # this machine needs none
    command = ("submit", "--grace", "7", "--", *TRAIN, *device, "--run", str(run))
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("follow it with 'warprl logs --follow first'\nfirst\n")
    asked = there.asked
    assert asked["entrypoint"] == (
        f"exec python -m warprl.launch.cli train --resume {FAMILY} --workers 2 --iterations 3 "
        f"--set compute.device=cuda --run '{tmp_path}/it'\"'\"'s mine/first'"
    )
    assert asked["runtime_env"].pop("working_dir").startswith("gcs://")
    assert asked["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "7"}
    assert asked["metadata"] == writing(run)


def test_jobs_are_named_after_their_runs(
    capsys: pytest.CaptureFixture[str], there: JobServer, tmp_path: Path
) -> None:
    run = tmp_path / "first"
    there.jobs = [
        job("first", "FAILED", metadata=writing(run)),
        job("first-2", "RUNNING", metadata=writing(tmp_path / "other")),
        job("another", "RUNNING"),
        {**job("first-3"), "submission_id": None, "type": "DRIVER"},
    ]
    command = ("submit", "--json", "--", "resume", str(run))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["job"] == "first-3"
    line = refused(capsys, "submit", "--", "resume", str(run))
    assert line == f"{run} is written by job first-3: 'warprl stop first-3' ends it"


def test_the_status_of_jobs_has_the_iteration_of_runs_that_are_here(
    capsys: pytest.CaptureFixture[str], there: JobServer, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n{"it')
    there.jobs = [
        job("second", "STOPPED", start_time=2000, metadata=writing(tmp_path / "gone")),
        job("third", "PENDING", start_time=3000),
        job("first", "RUNNING", start_time=1000, metadata=writing(tmp_path / "here")),
    ]
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["jobs"]
    keys = ("job", "state", "iteration", "exit_status", "run")
    assert [tuple(row[key] for key in keys) for row in found] == [
        ("first", "running", 2, None, str(tmp_path / "here")),
        ("second", "stopped", None, 143, str(tmp_path / "gone")),
        ("third", "pending", None, None, None),
    ]
    assert main(["status", "third"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["third", "pending", "-"]
    assert refused(capsys, "status", "thrid") == "unknown job 'thrid': did you mean 'third'?"
    assert refused(capsys, "fetch", "third") == (
        "job third was not submitted by warprl: give the path of its run"
    )


def test_a_job_waits_for_the_node_of_a_cluster_that_has_just_started(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: JobServer,
    tmp_path: Path,
) -> None:
    command = ("submit", "--", *TRAIN, "--run", str(tmp_path / "first"))
    there.refusals = ["No available agent to submit job, please try again later."] * 2
    assert main(command) == 0
    assert not there.refusals and [details["submission_id"] for details in there.jobs] == ["first"]
    capsys.readouterr()

    # Not for ever, and not after any other refusal.
    there.jobs.clear()
    there.refusals = ["the disk is full"]
    assert "status 500: " in refused(capsys, *command, status=1)
    monkeypatch.setattr(server, "AGENT_S", 0.0)
    there.refusals = ["No available agent to submit job"] * 2
    assert "No available agent" in refused(capsys, *command, status=1)
    assert len(there.refusals) == 1 and there.jobs == []


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_runs_may_be_in_storage(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    there: JobServer,
    tmp_path: Path,
    scheme: str,
) -> None:
    fabricate(tmp_path / "first", FAMILY)
    (tmp_path / "first" / "metrics.jsonl").write_text('{"iteration": 1}\n')
    storage, run = f"{scheme}{tmp_path}", f"{scheme}{tmp_path}/first"
    for command in (
        (*TRAIN, "--run", "first", "--storage", storage),
        (*TRAIN, "--run", run),
        ("resume", run),
    ):
        assert main(["submit", "--", *command]) == 0
        assert there.asked["metadata"] == {jobs.PLACE: run}
        assert main(["fetch", there.asked["submission_id"], "--to", "copy"]) == 0
        assert Path("copy/config.yaml").exists()
        shutil.rmtree("copy")
        assert main(["status", there.asked["submission_id"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["jobs"][0]["iteration"] == 1
        there.jobs.clear()

    # A name means there what it means here.
    monkeypatch.setenv("WARPRL_STORAGE", storage)
    assert main(["submit", "--", *TRAIN, "--run", "first"]) == 0
    assert there.asked["metadata"] == {jobs.PLACE: run}
    assert there.asked["runtime_env"]["env_vars"]["WARPRL_STORAGE"] == storage


def test_without_jobs_status_says_so(capsys: pytest.CaptureFixture[str], there: JobServer) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "there are no jobs\n"
    assert refused(capsys, "logs", "first") == "no job 'first': this cluster has none"


@pytest.mark.parametrize(
    ("state", "log", "iteration", "text"),
    [
        (
            "STOPPED",
            "training\nstopped by SIGTERM and saved at iteration 3, 9 steps\n/runs/first\n",
            3,
            "first: stopped: stopped by SIGTERM and saved at iteration 3, 9 steps",
        ),
        ("STOPPED", "training\n", None, "first: stopped: it had not begun to train, or its it"),
        ("STOPPED", "2 runs: 2 stopped\n", None, "first: stopped: 2 runs: 2 stopped"),
        ("SUCCEEDED", "finished at iteration 9\n", 9, "first: succeeded: finished at iteration 9"),
        ("FAILED", "warprl: no space\n", None, "first: failed with status 1"),
    ],
)
def test_a_stop_says_what_became_of_the_run(
    capsys: pytest.CaptureFixture[str],
    there: JobServer,
    state: str,
    log: str,
    iteration: int | None,
    text: str,
) -> None:
    there.ends_as, there.log = state, log
    for options in ((), ("--json",)):
        there.jobs = [job("first", runtime_env={})]
        assert main(["stop", "first", *options]) == 0
    said, found = capsys.readouterr().out.splitlines()
    assert said.startswith(text)
    assert json.loads(found) == {"job": "first", "state": state.lower(), "iteration": iteration}


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("PENDING", None, None),
        ("RUNNING", None, None),
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_the_exit_status_of_a_job_is_that_of_a_shell(
    status: str, code: int | None, expected: int | None
) -> None:
    details = JobDetails(**job("first", status, driver_exit_code=code))
    assert jobs.exit_status(details) == expected


def test_an_address_where_no_job_server_can_be_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: JobServer
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert refused(capsys, "status") == (
        "there is no cluster: give --address http://HOST:8265, or set RAY_ADDRESS"
    )
    for place in ("ray://127.0.0.1:1", "http://", "file:///tmp"):
        assert refused(capsys, "status", "--address", place) == (
            f"{place}: jobs need http://HOST:8265, or the HOST:PORT that 'ray start' prints"
        )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = f"{place}: no job server answers there: it cannot be reached"
        assert refused(capsys, "status", "--address", place) == line

    # Something else answers there.
    no_versions: tuple[Any, ...] = ({}, [], {"ray_version": "1.0"})
    for there.version in no_versions:
        line = refused(capsys, "status", "--address", there.url)
        assert line.startswith(f"{there.url}: this is no job server of Ray (")


def test_the_option_counts_more_than_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: JobServer
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://no-such-host.invalid:1")
    assert main(["status", "--address", f"{there.url}/"]) == 0


def test_a_server_that_never_answers_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        line = f"{place}: no job server answers there: no answer in time"
        assert refused(capsys, "status", "--address", place) == line


def test_a_wrong_token_is_refused(capsys: pytest.CaptureFixture[str], there: JobServer) -> None:
    there.token = "another"
    assert refused(capsys, "status") == (
        f"{there.url}: the cluster refuses this token: set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    )


def test_nothing_is_submitted_to_a_cluster_that_anybody_can_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: JobServer
) -> None:
    monkeypatch.setattr(address, "is_loopback", lambda place: False)
    command = ("submit", "--", *TRAIN, "--run", "/runs/first")
    assert refused(capsys, *command) == (
        f"{there.url}: this cluster demands no token, so whoever reaches it can run programs on "
        "it: start it with RAY_AUTH_MODE=token, or accept that with --insecure in the command that "
        "is submitted"
    )
    assert (there.asked, there.package) == ({}, b"")
    assert main([*command, "--insecure"]) == 0
    assert there.asked["entrypoint"].endswith(" --insecure")


def test_train_refuses_a_folder_that_ray_deletes_after_a_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "_ray_pkg_0123abcd"
    package.mkdir()
    monkeypatch.chdir(package)
    line = refused(capsys, "train", FAMILY, *ONE, "--run", "first")
    assert line == "runs/first would be lost with this job: give --run an absolute path"
    assert os.listdir() == []


def test_a_run_is_fetched_with_checkpoints_that_are_verified(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "first"
    fabricate(source, FAMILY, iterations=(1, 2, 3))
    (source / "metrics.jsonl").write_text('{"iteration": 3}\n')
    (source / "lease.json").touch()
    (source / "checkpoints" / ".unfinished-4").mkdir()
    tensors = source / "checkpoints" / "2" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")

    assert main(["fetch", str(source)]) == 0
    out, err = capsys.readouterr()
    assert out == "intact checkpoints of iterations: 3, 1\nruns/first\n"
    assert "tensors.safetensors does not match its checksum" in err
    copied = {path.relative_to("runs/first").as_posix() for path in Path("runs/first").rglob("*")}
    assert {"config.yaml", "metrics.jsonl", "checkpoints/3/manifest.json"} <= copied
    assert copied.isdisjoint({"lease.json", "checkpoints/.unfinished-4"})
    assert os.listdir("runs") == ["first"]

    # Nothing that exists is overwritten.
    assert refused(capsys, "fetch", str(source)) == (
        "runs/first exists: choose another folder with --to"
    )


def test_a_run_without_an_intact_checkpoint_is_not_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "first"
    fabricate(source, FAMILY)
    (source / "checkpoints" / "1" / "state.json").unlink()
    assert main(["fetch", str(source), "--to", "copy"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"warprl: {source} has no checkpoint that is intact: nothing was fetched"
    assert os.listdir() == []


def test_a_run_that_is_not_visible_here_is_not_fetched(
    capsys: pytest.CaptureFixture[str], there: JobServer, tmp_path: Path
) -> None:
    there.jobs = [job("first", "SUCCEEDED", metadata=writing(tmp_path / "gone"))]
    for run in ("first", str(tmp_path / "gone")):
        assert refused(capsys, "fetch", run) == (
            f"{tmp_path / 'gone'} is no run that can be read from here: on the cluster, it may lie "
            "on a disk that this machine has not mounted"
        )
