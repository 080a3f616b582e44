"""Runs that live in storage: a folder that two machines share, or a bucket of S3 on loopback.

Each machine is played by a temporary folder of its own, its private disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helpers_launch
import pytest
from helpers_launch import fabricate
from helpers_runs import start_ray, timeless

import warprl
from warprl import checkpoint
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.errors import UserError
from warprl.launch.evaluation import render
from warprl.launch.runs import copies, folders, lease, mirror, storage
from warprl.launch.runs.log import RunLog
from warprl.launch.runs.storage import LocalStore, Store, open_store

FAMILY = "point-navigation-v1"
SETTINGS = ("tasks=2", "adaptation.episodes=2", "policy.hidden=[8]", "output.checkpoint_every=1")
TINY = ("--workers", "0", *(part for setting in SETTINGS for part in ("--set", setting)))
BROKEN = OSError(5, "the store is on fire")
KINDS = ["file", "s3"]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local runs and disks of this test, no patience, and no word from other clouds."""
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WARPRL_STORAGE", raising=False)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(storage, "PAUSE_S", 0.02)
    monkeypatch.setattr(storage, "PATIENCE_S", 1.0)
    monkeypatch.setattr(mirror, "EVERY_S", 0.02)
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    move_to(monkeypatch, tmp_path / "disk")


def move_to(monkeypatch: pytest.MonkeyPatch, disk: Path) -> Path:
    """Go on where this is the private disk."""
    disk.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    return disk


def log_in(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    """Use this server in place of Amazon's, as other tools would."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def new_bucket(server: str, name: str) -> str:
    from pyarrow import fs

    system = fs.S3FileSystem(
        endpoint_override=server.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    system.create_dir(name)
    return name


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URI of an empty storage."""
    if request.param == "file":
        return shared_folder(tmp_path)
    server: str = request.getfixturevalue("s3")
    log_in(monkeypatch, server)
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-50:].strip("-")
    return f"s3://{new_bucket(server, name)}/runs"


@pytest.fixture
def shared(tmp_path: Path) -> str:
    """The URI of an empty folder that all machines see."""
    return shared_folder(tmp_path)


def shared_folder(tmp_path: Path) -> str:
    (tmp_path / "shared").mkdir()
    return f"file://{tmp_path / 'shared'}"


def trained(uri: str, iterations: int, *more: str) -> str:
    """Train a new run."""
    arguments = ("--iterations", str(iterations), "--run", uri, *more)
    assert main(["train", FAMILY, *TINY, *arguments]) == 0
    return uri


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command with bad input, whatever was printed before."""
    capsys.readouterr()
    return helpers_launch.refused(capsys, *arguments)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def history(text: bytes) -> list[dict[str, Any]]:
    return [timeless(json.loads(line)) for line in text.splitlines()]


def tensors(store: Store, iteration: int) -> bytes:
    return store.read(f"checkpoints/{iteration}/tensors.safetensors")


def upload(folder: Path, uri: str) -> str:
    """A run in storage that was made elsewhere."""
    storage.upload(open_store(uri), folder, "")
    return uri


def fabricated(tmp_path: Path, uri: str, *settings: str, shift: float = 0.0) -> str:
    """A run in storage that was not trained."""
    fabricate(tmp_path / "made", FAMILY, *settings, shift=shift)
    return upload(tmp_path / "made", uri)


@contextmanager
def out_of_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Storage fails, and local folders do not."""
    with monkeypatch.context() as patch:
        for name in ("write", "read", "files", "names"):
            method = getattr(LocalStore, name)

            def failing(self: LocalStore, *rest: Any, method: Callable[..., Any] = method) -> Any:
                if self.uri.startswith("file:"):
                    raise BROKEN
                return method(self, *rest)

            patch.setattr(LocalStore, name, failing)
        yield


def fails(*_: object) -> None:
    """In place of an upload."""
    raise BROKEN


# Training, and what is read of it.


def test_a_run_moved_between_two_disks_equals_a_local_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    whole = LocalStore(Path(trained(str(tmp_path / "whole"), 4)))

    first = move_to(monkeypatch, tmp_path / "first")
    assert (
        main(["train", FAMILY, *TINY, "--iterations", "2", "--storage", place, "--run", "a"]) == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == f"{place}/a"
    assert list(first.iterdir()) == [], "all of it is in storage"

    second = move_to(monkeypatch, tmp_path / "second")
    assert main(["resume", f"{place}/a", "--iterations", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"resuming {place}/a: restored parameters, optimiser and counters of iteration 2" in said
    assert said[-1] == f"{place}/a"
    assert all(str(second) not in line for line in said)

    halves = open_store(f"{place}/a")
    assert history(halves.read("metrics.jsonl")) == history(whole.read("metrics.jsonl"))
    assert tensors(halves, 4) == tensors(whole, 4)
    assert copies.iterations(halves.files()) == [4, 3, 2], "output.keep"
    assert {name.partition("/")[0] for name in halves.files()} == {
        "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints"
    }  # fmt: skip


def test_results_are_written_to_storage_and_read_from_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    fabricated(tmp_path, f"{place}/a")
    monkeypatch.setenv("WARPRL_STORAGE", place)
    quick = ("--steps", "1", "--episodes", "2")

    evaluation = answer(capsys, "evaluate", "a", *quick, "--seed", "0")
    assert evaluation["run"] == f"{place}/a"
    found = open_store(evaluation["folder"])
    assert found.names() == ["curve.csv", "curve.png", "summary.json", "tasks.csv"]
    assert json.loads(found.read("summary.json")) == evaluation

    comparison = answer(capsys, "compare", f"{place}/a", *quick)
    (row,) = comparison["groups"][0]["runs"]
    assert (row["run"], row["evaluation"]) == (f"{place}/a", evaluation["folder"])
    assert row["reused"]
    assert comparison["folder"].startswith(f"{place}/comparisons/")
    assert "comparison.csv" in open_store(comparison["folder"]).names()

    local = answer(capsys, "compare", "a", *quick, "--out", str(tmp_path / "here"))
    assert local["groups"] == comparison["groups"]
    assert (tmp_path / "here" / "comparison.md").is_file()


def test_a_video_is_written_to_storage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    fabricated(tmp_path, f"{shared}/a")

    class Screen:
        def close(self) -> None:
            pass

    def write(path: Path, frames: object, fps: int) -> None:
        path.parent.mkdir()
        path.write_bytes(b"a film")

    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(render, "_screen", lambda family, task: Screen())
    monkeypatch.setattr(render, "write", write)
    video = answer(capsys, "render", f"{shared}/a")["video"]
    assert video.startswith(f"{shared}/a/videos/task0-iteration1-")
    assert Path(video.removeprefix("file://")).read_bytes() == b"a film"


def test_python_programs_use_storage_as_the_commands_do(tmp_path: Path, shared: str) -> None:
    small = dict(setting.split("=") for setting in SETTINGS)
    small = {key: json.loads(value) for key, value in small.items()}
    run = warprl.train(FAMILY, iterations=1, run="a", storage=shared, set=small)
    assert run.folder.parent.parent == tmp_path / "disk"
    assert run.resume(1).iteration == 2
    assert warprl.load(f"{shared}/a").iteration == 2
    assert warprl.load(f"{shared}/a", checkpoint=1).iteration == 1
    summary = run.evaluate(steps=1, episodes=2)
    assert summary.folder.startswith(f"{shared}/a/evaluation/")
    with pytest.raises(UserError, match="has no checkpoint 7; there are checkpoints of iterations"):
        warprl.load(f"{shared}/a", checkpoint=7)


def test_an_imported_initialisation_goes_along(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: str
) -> None:
    fabricated(tmp_path, f"{shared}/plain", "policy.warp=linear", shift=0.1)
    model = str(tmp_path / "model.zip")
    assert main(["export", f"{shared}/plain", "--task", "0", "--steps", "0", "--out", model]) == 0
    arguments = ("--init-from", model, "--trust")
    trained(f"{shared}/a", 1, *arguments)
    store = open_store(f"{shared}/a")
    assert "init/0/manifest.json" in store.files()
    for name in store.files("checkpoints"):
        store.remove(name)
    assert main(["resume", f"{shared}/a"]) == 0, "from the beginning, with what was imported"
    trained(str(tmp_path / "local"), 1, *arguments)
    assert tensors(store, 1) == tensors(LocalStore(tmp_path / "local"), 1)


def test_metrics_and_checkpoints_go_up_while_the_run_trains(shared: str) -> None:
    store, seen = open_store(f"{shared}/a"), []

    def wait(metrics: Any, state: Any) -> None:
        """Hold the second iteration until all of the first is in storage."""
        if metrics["iteration"] == 2:
            end = time.monotonic() + 60
            while "checkpoints/1/manifest.json" not in store.files() and time.monotonic() < end:
                time.sleep(0.01)
            seen.extend(history(store.read("metrics.jsonl")))
            assert "lease.json" in store.names()

    small = {"tasks": 2, "adaptation.episodes": 2, "output.checkpoint_every": 1}
    warprl.train(FAMILY, iterations=2, run=f"{shared}/a", set=small, callback=wait)
    assert [row["iteration"] for row in seen][0] == 1
    assert "lease.json" not in store.names()


def test_a_signal_leaves_its_last_checkpoint_in_storage(
    monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    write = RunLog.write

    def interrupted(log: RunLog, metrics: dict[str, Any]) -> None:
        write(log, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "write", interrupted)
    monkeypatch.setattr(mirror, "EVERY_S", 100.0)
    never = ("--set", "output.checkpoint_every=99", "--iterations", "9")
    assert main(["train", FAMILY, *TINY, *never, "--run", f"{shared}/a"]) == 143
    assert copies.iterations(open_store(f"{shared}/a").files()) == [1]


def test_a_killed_run_goes_on_from_storage(tmp_path: Path, shared: str) -> None:
    """The real command, killed; it is resumed at once on the same machine, from another disk."""
    arguments = ("--iterations", "500", "--run", f"{shared}/a")
    command = [sys.executable, "-m", "warprl.launch.cli", "train", FAMILY, *TINY, *arguments]
    store = open_store(f"{shared}/a")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path / "disk")}
    ) as process:
        while not copies.iterations(store.files()) and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    assert json.loads(store.read("lease.json"))["pid"] == process.pid
    before = copies.iterations(store.files())[0]
    assert before < 500
    assert main(["resume", f"{shared}/a", "--iterations", "1"]) == 0
    whole = trained(str(tmp_path / "whole"), before + 1)
    assert tensors(store, before + 1) == tensors(LocalStore(Path(whole)), before + 1)
    steps = [row["iteration"] for row in history(store.read("metrics.jsonl"))]
    assert steps == list(range(1, before + 2))


# Checkpoints in storage.


def test_an_incomplete_checkpoint_is_invisible_and_removed_in_time(
    tmp_path: Path, shared: str
) -> None:
    uri = trained(f"{shared}/a", 2)
    store = open_store(uri)
    store.remove("checkpoints/2/manifest.json")
    assert warprl.load(uri).iteration == 1
    shutil.move(tmp_path / "shared/a/checkpoints/2", tmp_path / "shared/a/checkpoints/0")
    assert main(["resume", uri]) == 0
    assert sorted(store.names("checkpoints")) == ["1", "2"]
    whole = trained(str(tmp_path / "whole"), 2)
    assert tensors(store, 2) == tensors(LocalStore(Path(whole)), 2)


def test_a_broken_checkpoint_in_storage_gives_way_to_the_one_before(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    uri = trained(f"{place}/a", 3)
    store = open_store(uri)
    whole = tensors(store, 3)
    store.write("checkpoints/3/tensors.safetensors", b"x" * len(whole))
    capsys.readouterr()
    assert main(["resume", uri]) == 0
    output = capsys.readouterr()
    assert "checkpoint 3 is broken (tensors.safetensors does not match its checksum)" in output.err
    assert "restored parameters, optimiser and counters of iteration 2" in output.out
    assert tensors(store, 3) == whole
    assert warprl.load(uri).iteration == 3


def test_a_manifest_is_the_last_file_to_come(tmp_path: Path, shared: str) -> None:
    fabricate(tmp_path / "made", FAMILY)
    written: list[str] = []

    class Recording(LocalStore):
        def write(self, path: str, content: bytes) -> None:
            written.append(path)
            super().write(path, content)

    storage.upload(Recording(tmp_path / "shared"), tmp_path / "made/checkpoints/1", "checkpoints/1")
    assert sorted(written[:2]) == ["checkpoints/1/state.json", "checkpoints/1/tensors.safetensors"]
    assert written[2:] == ["checkpoints/1/manifest.json"]


# Storage that fails.


def test_training_outlasts_a_failure_of_storage_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 100.0)

    def wait(metrics: Any, state: Any) -> None:
        """In the second iteration storage fails until that was said, and works again after."""
        if metrics["iteration"] != 2:
            return
        with out_of_order(monkeypatch):
            until(lambda: "training goes on in" in caplog.text)
        until(lambda: "works again" in caplog.text)

    small = {"tasks": 2, "adaptation.episodes": 2, "output.checkpoint_every": 1}
    warprl.train(FAMILY, iterations=3, run=f"{shared}/a", set=small, callback=wait)
    first, second = caplog.messages
    assert first.startswith(f"cannot upload to {shared}/a: the store is on fire; training goes on")
    assert second == f"uploading to {shared}/a works again"
    assert copies.iterations(open_store(f"{shared}/a").files())[0] == 3


def until(what: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_could_not_be_uploaded_is_named_kept_and_uploaded_by_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", fails)
        patch.setattr(mirror, "EVERY_S", 100.0)
        arguments = ("--iterations", "2", "--run", f"{shared}/a")
        assert main(["train", FAMILY, *TINY, *arguments]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    (copy,) = (tmp_path / "disk").glob("*/a")
    assert message == (
        f"warprl: cannot upload to {shared}/a: the store is on fire; when storage answers, "
        f"'warprl resume {copy}' uploads all of it"
    )
    assert open_store(f"{shared}/a").names() == []
    said = refused(capsys, "resume", str(copy))
    assert said == f"{shared}/a is complete at iteration 2: give iterations to continue"
    assert copies.iterations(open_store(f"{shared}/a").files()) == [2, 1]
    assert main(["resume", f"{shared}/a", "--iterations", "1"]) == 0


def test_a_result_that_cannot_be_uploaded_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    fabricated(tmp_path, f"{shared}/a")
    monkeypatch.setattr(storage, "upload", fails)
    assert main(["evaluate", f"{shared}/a", "--steps", "1", "--episodes", "1"]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    (kept,) = (tmp_path / "disk").glob("*/a/evaluation/*")
    uri = f"{shared}/a/evaluation/{kept.name}"
    assert message == f"warprl: cannot upload to {uri}: the store is on fire; {kept} has it"
    copies.discard(kept.parent.parent)
    assert (kept / "summary.json").is_file()


# The lease.


def held_elsewhere(store: Store, expires: float = float("inf")) -> lease.Holder:
    """Let a process of another machine hold a run."""
    holder = lease.Holder("node-7", 42, "another boot", "1", os.urandom(4).hex(), expires)
    store.write(lease.FILE, holder.to_bytes())
    return holder


def test_a_live_run_has_one_writer_and_the_second_is_told_who(
    capsys: pytest.CaptureFixture[str], place: str
) -> None:
    uri = trained(f"{place}/a", 1)
    with lease.Lease(open_store(uri), uri):
        said = refused(capsys, "resume", uri, "--iterations", "1")
    assert said == f"{uri} is being written by process {os.getpid()} on {os.uname().nodename}"
    assert main(["resume", uri, "--iterations", "1"]) == 0


def test_a_holder_on_another_machine_is_alive_while_it_renews(
    capsys: pytest.CaptureFixture[str], shared: str
) -> None:
    uri = trained(f"{shared}/a", 1)
    store, ended = open_store(uri), threading.Event()

    def renew() -> None:
        while not ended.wait(0.01):
            held_elsewhere(store)

    held_elsewhere(store)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        said = refused(capsys, "resume", uri, "--iterations", "1")
    finally:
        ended.set()
        thread.join()
    assert said == f"{uri} is being written by process 42 on node-7"


@pytest.mark.parametrize("expires", [0.0, float("inf")], ids=["run out", "silent"])
def test_a_lease_that_nobody_renews_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, shared: str, expires: float
) -> None:
    uri = trained(f"{shared}/a", 1)
    held_elsewhere(open_store(uri), expires)
    monkeypatch.setattr(lease, "TTL_S", 0.3)
    assert main(["resume", uri, "--iterations", "1"]) == 0


def test_a_damaged_lease_is_taken_over(monkeypatch: pytest.MonkeyPatch, shared: str) -> None:
    uri = trained(f"{shared}/a", 1)
    open_store(uri).write(lease.FILE, b"{")
    monkeypatch.setattr(lease, "TTL_S", 0.3)
    assert main(["resume", uri, "--iterations", "1"]) == 0


@pytest.mark.parametrize("where", ["local", "storage"])
def test_a_run_that_was_taken_over_stops_and_leaves_it_alone(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shared: str,
    where: str,
) -> None:
    uri = str(tmp_path / "a") if where == "local" else f"{shared}/a"
    store = LocalStore(tmp_path / "a") if where == "local" else open_store(uri)
    write = RunLog.write

    def overtaken(log: RunLog, metrics: dict[str, Any]) -> None:
        write(log, metrics)
        held_elsewhere(store)
        time.sleep(0.2)

    monkeypatch.setattr(RunLog, "write", overtaken)
    arguments = ("--iterations", "500", "--run", uri)
    assert main(["train", FAMILY, *TINY, *arguments]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    reason = "was taken over by process 42 on node-7: this process stops writing to it"
    assert last == f"warprl: {uri} {reason}"
    assert json.loads(store.read(lease.FILE))["host"] == "node-7"


def test_of_many_that_want_a_run_one_gets_it(monkeypatch: pytest.MonkeyPatch, shared: str) -> None:
    """Each in a thread, as other processes that are seen to be alive."""
    monkeypatch.setattr(storage, "PAUSE_S", 0.5)
    store = open_store(f"{shared}/a")
    held_elsewhere(store, expires=0.0)
    barrier, won = threading.Barrier(5), []

    def take() -> None:
        barrier.wait()
        try:
            won.append(lease.Lease(store, "a"))
        except UserError:
            pass

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


# What cannot be.


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/runs/a", "run 'ftp://host/runs/a': unknown scheme 'ftp': use file:///folder"),
        ("s3://key:word@bucket/a", "run: put no credentials into a URI, which is printed"),
        ("s3://bucket/a?region=mars", "run 's3://bucket/a?region=mars': use file:///folder"),
        ("s3://bucket/../a", "run 's3://bucket/../a': use file:///folder"),
        ("file://host/runs/a", "run 'file://host/runs/a': use file:///folder"),
        ("s3://bucket", "s3://bucket is not a run: name one in it, such as s3://bucket/first"),
        ("file:///shared/a b", "run name 'a b': use up to 100 letters"),
        ("file:///gone/runs/a", "there is no folder /gone/runs on this host: mount it, or make it"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, uri: str, message: str
) -> None:
    assert refused(capsys, "train", FAMILY, *TINY, "--run", uri).startswith(message)
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--storage", "shared"), "--storage 'shared' is not a URI: write file:///"),
        (("--storage", "file:///tmp", "--run", "/a"), "run '/a': with --storage, give a name and"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert refused(capsys, "train", FAMILY, *TINY, *arguments).startswith(message)


def test_a_bucket_that_does_not_exist_or_answer_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    log_in(monkeypatch, s3)
    for verb in (("train", FAMILY, *TINY, "--run"), ("resume",), ("evaluate",), ("compare",)):
        said = refused(capsys, *verb, "s3://nowhere/a")
        assert said.startswith("cannot use s3://nowhere")
        assert "there is no bucket 'nowhere'; check the name, the network and the cred" in said
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert "Could not connect to server" in refused(capsys, "resume", "s3://nowhere/a")


def test_a_server_that_says_nothing_is_not_waited_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_never(bucket: str) -> None:
        time.sleep(1)

    monkeypatch.setattr(storage, "_s3", open_never)
    monkeypatch.setattr(storage, "OPEN_S", 0.1)
    assert "s3://bucket/a: no answer within 0 s; check" in refused(
        capsys, "resume", "s3://bucket/a"
    )


def test_missing_credentials_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    said = refused(capsys, "resume", "gs://bucket/a")
    assert said.startswith("cannot use gs://bucket/a: Cannot open credentials file ")


def test_a_run_that_is_not_there_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    assert refused(capsys, "resume", f"{place}/a") == (
        f"no run '{place}/a': there are no runs in {place}"
    )
    fabricated(tmp_path, f"{place}/first")
    said = refused(capsys, "resume", f"{place}/fist")
    assert said == f"no run '{place}/fist': did you mean 'first'?"
    assert refused(capsys, "evaluate", place) == f"{place} is not a run: it holds no config.yaml"


def test_a_run_in_storage_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    uri = fabricated(tmp_path, f"{place}/a")
    before = {name: open_store(uri).read(name) for name in open_store(uri).files()}
    message = f"{uri} exists: continue it with 'warprl resume {uri}' or choose another name"
    assert refused(capsys, "train", FAMILY, *TINY, "--run", uri) == message
    # Not even if it has come since it was looked for.
    monkeypatch.setattr(folders, "require_new", lambda name, storage: None)
    assert refused(capsys, "train", FAMILY, *TINY, "--run", uri) == message
    assert {name: open_store(uri).read(name) for name in open_store(uri).files()} == before


def test_storage_that_cannot_be_written_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    uri = fabricated(tmp_path, f"{shared}/a")

    def read_only(self: LocalStore, path: str, content: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStore, "write", read_only)
    monkeypatch.setattr(LocalStore, "create", read_only)
    for verb in ("evaluate", "compare", "resume"):
        assert refused(capsys, verb, uri) == f"cannot write to {uri}: Permission denied"
    said = refused(capsys, "train", FAMILY, *TINY, "--run", f"{shared}/b")
    assert said == f"cannot write to {shared}/b: Permission denied"


# Sweeps.


def grid(tmp_path: Path, **changes: Any) -> str:
    document = {"families": [FAMILY], "agents": ["promp", "maml"], "seeds": [3]}
    document |= {"settings": [*SETTINGS[:3]], "iterations": 1, **changes}
    (tmp_path / "grid.yaml").write_text(json.dumps(document))
    return str(tmp_path / "grid.yaml")


def test_a_sweep_with_two_places_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: str
) -> None:
    file = grid(tmp_path, folder="runs")
    said = refused(capsys, "sweep", file, "--storage", shared)
    assert said == f"{file}: folder = 'runs': leave it out, or leave --storage out"
    said = refused(capsys, "sweep", grid(tmp_path), "--storage", "file:///gone")
    assert said == "there is no folder /gone on this host: mount it, or make it"


@pytest.mark.ray
def test_a_sweep_in_storage_is_skipped_when_done_and_goes_on_exactly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: str
) -> None:
    start_ray()
    file = grid(tmp_path)

    def states(*arguments: str) -> dict[str, str]:
        rows = answer(capsys, "sweep", *arguments)["runs"]
        return {row["run"]: row["state"] for row in rows}

    runs = [f"{shared}/{FAMILY}-{agent}-s3" for agent in ("promp", "maml")]
    assert states(file, "--storage", shared) == dict.fromkeys(runs, "finished")
    move_to(monkeypatch, tmp_path / "second")
    assert states(file, "--storage", shared) == dict.fromkeys(runs, "skipped")
    assert list((tmp_path / "second").iterdir()) == []
    longer = grid(tmp_path, iterations=2, folder=shared)
    assert states(longer) == dict.fromkeys(runs, "finished")

    settings = [part for setting in SETTINGS[:3] for part in ("--set", setting)]
    whole = ("--agent", "maml", "--workers", "0", "--iterations", "2", "--seed", "3")
    assert main(["train", FAMILY, *whole, *settings, "--run", "whole"]) == 0
    local = LocalStore(tmp_path / "runs" / "whole")
    assert tensors(open_store(runs[1]), 2) == tensors(local, 2)
    assert sorted(Path(shared.removeprefix("file://")).iterdir()) == sorted(
        Path(run.removeprefix("file://")) for run in runs
    )
    assert checkpoint.iterations(tmp_path / "runs" / "whole" / "checkpoints") == [2]


@pytest.mark.ray
def test_an_interrupted_sweep_in_storage_is_saved_and_goes_on(tmp_path: Path, shared: str) -> None:
    """The real command; its trials share nothing with it but storage."""
    file = grid(tmp_path, agents=["promp"], iterations=100_000)
    command = [sys.executable, "-m", "warprl.launch.cli", "sweep", file, "--storage", shared]
    run = f"{FAMILY}-promp-s3"
    store = open_store(f"{shared}/{run}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while "metrics.jsonl" not in store.names() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 143
    reached = copies.iterations(store.files())[0]
    assert said.splitlines()[-4:] == [
        f"{run}: stopped at iteration {reached}",
        "1 runs: 1 stopped",
        "stopped by SIGTERM: the same command continues it",
        shared,
    ]
    assert len(history(store.read("metrics.jsonl"))) == reached
    assert os.listdir(shared.removeprefix("file://")) == [run], "nothing else is left"
