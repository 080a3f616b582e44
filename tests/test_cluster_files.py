"""The files that start clusters: valid, complete, and true to what they promise."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import ray
import yaml

from warprl import checkpoint
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.cluster import files
from warprl.launch.outcome import Entries, Outcome
from warprl.launch.runs.config import RunConfig
from warprl.launch.training import train

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(__file__).parent / "fixtures"
KINDS = ("kuberay", "slurm", "vm", "sky")
BUCKET, SHARED = "s3://bucket/runs", "/shared/runs"
TRAINED = "half-cheetah-dir-v1 --agent warpgrad --iterations 200"
TINY = "point-navigation-v1 --set adaptation.episodes=2 --set policy.hidden=[8] --seed 1"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(
    kind: str,
    workers: int = 4,
    storage: str = BUCKET,
    out: str | None = None,
    image: str | None = None,
    name: str = "warprl",
) -> dict[str, str]:
    """The texts of the files that the command writes, by name."""
    paths = files.write(kind, workers, storage, out, image, name).summary.files
    return {Path(path).name: Path(path).read_text() for path in paths}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with bad input prints before it exits with status 2."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def tool(name: str) -> str:
    """The path of a linter that the development environment installs."""
    path = shutil.which(name, path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert path is not None, f"{name} is missing: make setup"
    return path


def lint(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def code(text: str) -> str:
    """A script or YAML without its comments."""
    return re.sub(r"(^|\s)#.*", "", text)


# The command.


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_names_the_files_and_the_three_commands_that_come_next(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["cluster-files", kind, "--workers", "4", "--storage", BUCKET]
    assert main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    written = sorted(map(str, Path().rglob("*.*")))
    assert lines[: len(written)] == written
    assert [line for line in lines if line.startswith("  ")] == lines[-3:]
    assert main([*asked, "--json", "--out", "other"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == [f"other/{Path(file).name}" for file in written]
    assert len(printed["next"]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_says_which_command_made_it_and_what_to_edit(kind: str) -> None:
    command = f"warprl cluster-files {kind} --workers 4 --storage {BUCKET} --out here --name walker"
    for text in write(kind, name="walker", out="here").values():
        assert f"# Made by: {command}\n" in text
        assert text.count("EDIT") >= 3
        assert not re.search(r"@[a-z_]+@", text), "a value was not filled in"


def test_nothing_that_exists_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    mine = Path("here/cluster.yaml")
    mine.parent.mkdir()
    mine.write_text("mine")
    arguments = ("cluster-files", "vm", "--workers", "2", "--storage", BUCKET, "--out")
    line = refused(capsys, *arguments, "here")
    assert line == "warprl: here/cluster.yaml exists: choose another folder with --out\n"
    assert [file.read_text() for file in mine.parent.iterdir()] == ["mine"]
    assert "cannot make the folder" in refused(capsys, *arguments, "here/cluster.yaml")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("slurm", ("--workers", "0", "--storage", SHARED), "workers = 0: must be a whole number"),
        ("slurm", ("--workers", "x", "--storage", SHARED), "'x' is not a whole number"),
        ("slurm", ("--workers", "2"), "Missing option '--storage'"),
        ("slurm", ("--workers", "2", "--storage", "runs"), "storage = 'runs': should be an abs"),
        ("slurm", ("--workers", "2", "--storage", "/"), "storage = '': should be an absolute"),
        ("slurm", ("--workers", "2", "--storage", "/a b"), "storage = '/a b': should be an abs"),
        ("slurm", ("--workers", "2", "--storage", "/a'b"), "should be an absolute path, or a URI"),
        ("sky", ("--workers", "2", "--storage", SHARED), "share no folder; it should be a URI"),
        ("sky", ("--workers", "2", "--storage", "file:///a"), "share no folder; it should be a"),
        ("slurm", ("--workers", "2", "--storage", SHARED, "--image", "a"), "--image: has no eff"),
        ("vm", ("--workers", "2", "--storage", SHARED, "--image", "a b"), "image = 'a b': should"),
        ("vm", ("--workers", "2", "--storage", SHARED, "--name", "A_b"), "name = 'A_b': should be"),
        ("lsf", ("--workers", "2", "--storage", SHARED), "'lsf' is not one of 'kuberay', 'slurm'"),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_and_nothing_written(
    kind: str, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "cluster-files", kind, *options)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 17, 64])
def test_the_files_train_a_run_that_warprl_accepts(
    kind: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"{BUCKET}?region=eu&scheme=http"
    written = files.write(kind, workers, storage, name="walker")
    texts = [*(Path(file).read_text() for file in written.summary.files), written.text]
    (command,) = {line for text in texts for line in re.findall(r"warprl train .* --resume", text)}

    asked: list[tuple[RunConfig, str]] = []

    def record(config: RunConfig, name: str, *_: object) -> Outcome[Entries]:
        asked.append((config, name))
        return Outcome(Entries({}), "")

    monkeypatch.setattr(train, "start_or_resume", record)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # as on the nodes of these clusters
    assert main(shlex.split(command)[1:]) == 0
    ((config, name),) = asked
    assert config.compute.workers == workers
    assert name == f"{storage}/walker"


# Kubernetes.


def strict(schema: Any) -> Any:
    """A schema of Kubernetes in which, as for its API, a key that is not listed is an error."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tightened = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        tightened.setdefault("additionalProperties", False)
    return tightened


@pytest.fixture(scope="module")
def ray_job() -> Any:
    """Checks a RayJob against KubeRay's schema; what metadata may be, Kubernetes itself knows."""
    text = gzip.decompress((FIXTURES / "kuberay" / "ray.io_rayjobs.yaml.gz").read_bytes())
    versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    schema = strict(schema)
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return jsonschema.Draft4Validator(schema)  # the draft that Kubernetes' schemas are like


@pytest.mark.parametrize("storage", [BUCKET, SHARED, "file:///shared/runs"])
@pytest.mark.parametrize("workers", [1, 40])
def test_the_rayjob_fits_kuberays_schema(storage: str, workers: int, ray_job: Any) -> None:
    document = yaml.safe_load(write("kuberay", storage=storage, workers=workers)["rayjob.yaml"])
    ray_job.validate(document)
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["contaners"] = []
    with pytest.raises(jsonschema.ValidationError, match="contaners"):
        ray_job.validate(document)


def test_the_rayjob_is_authenticated_restarts_and_gives_a_worker_one_cpu() -> None:
    text = write("kuberay", name="walker", image="here/warprl:2", workers=7)["rayjob.yaml"]
    document = yaml.safe_load(text)
    spec, cluster = document["spec"], document["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray.__version__
    assert spec["backoffLimit"] > 0
    grace = int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])

    (workers,), head = cluster["workerGroupSpecs"], cluster["headGroupSpec"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 7
    assert workers["rayStartParams"]["num-cpus"] == "1"
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["template"]["spec"]["tolerations"]
    assert "tolerations" not in head["template"]["spec"]
    for group in (head, workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "here/warprl:2"
        assert container["resources"]["requests"]["cpu"] == "1"
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["terminationGracePeriodSeconds"] > grace
        assert "volumes" not in pod
    assert document["metadata"]["name"] == "walker"


def test_a_folder_is_mounted_on_every_pod() -> None:
    cluster = yaml.safe_load(write("kuberay", storage=SHARED)["rayjob.yaml"])["spec"][
        "rayClusterSpec"
    ]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "warprl-storage"}
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount == {"name": pod["volumes"][0]["name"], "mountPath": SHARED}


# Virtual machines.


@pytest.mark.parametrize("storage", [BUCKET, SHARED])
@pytest.mark.parametrize("workers", [1, 16, 17, 100])
def test_the_cluster_launchers_files_fit_rays_schema(storage: str, workers: int) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    written = write("vm", storage=storage, workers=workers)
    assert set(written) == {"cluster.yaml", "cluster-aws.yaml"}
    for text in written.values():
        jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-aws.yaml"])
def test_clusters_of_virtual_machines_want_a_token_and_listen_to_their_own_network(
    name: str,
) -> None:
    document = yaml.safe_load(write("vm", name="walker", image="here/warprl:2")[name])
    assert document["cluster_name"] == document["docker"]["container_name"] == "walker"
    assert document["docker"]["image"] == "here/warprl:2"
    assert "--env=RAY_AUTH_MODE=token" in document["docker"]["run_options"]
    assert "--env=RAY_JOB_STOP_WAIT_TIME_S=120" in document["docker"]["run_options"]
    assert "~/.ray/auth_token" in document["file_mounts"]
    starts = [*document["head_start_ray_commands"], *document["worker_start_ray_commands"]]
    assert not [line for line in starts if "dashboard-host" in line]  # Ray's default is loopback


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-aws.yaml"])
def test_a_folder_is_mounted_on_every_machine(name: str) -> None:
    mount = f"--volume={SHARED}:{SHARED}"
    assert mount in yaml.safe_load(write("vm", storage=SHARED)[name])["docker"]["run_options"]
    assert "--volume" not in write("vm", out="other")[name]


def test_there_are_machines_for_all_workers() -> None:
    written = write("vm", workers=33)
    own, aws = (yaml.safe_load(written[name]) for name in ("cluster.yaml", "cluster-aws.yaml"))
    assert len({own["provider"]["head_ip"], *own["provider"]["worker_ips"]}) == 3
    workers = aws["available_node_types"]["worker"]
    assert workers["min_workers"] == workers["max_workers"] == aws["max_workers"] == 3
    assert aws["setup_commands"] == []  # Ray's own would install another Ray if it found none


# SkyPilot.

SKY = {  # what a task may be, in the words of SkyPilot's reference
    "type": "object",
    "required": ["name", "num_nodes", "resources", "secrets", "setup", "run"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"},
        "num_nodes": {"type": "integer", "minimum": 1},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "cpus": {"type": "string", "pattern": r"^\d+\+$"},
                "memory": {"type": "string", "pattern": r"^\d+\+$"},
                "use_spot": {"type": "boolean"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"max_restarts_on_errors": {"type": "integer"}},
                },
            },
        },
        "secrets": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "setup": {"type": "string"},
        "run": {"type": "string"},
    },
}


@pytest.mark.parametrize("workers", [1, 17, 100])
def test_the_skypilot_task_has_the_structure_of_one_and_cpus_for_all_workers(workers: int) -> None:
    document = yaml.safe_load(write("sky", name="walker", workers=workers)["sky.yaml"])
    jsonschema.validate(document, SKY)
    cpus = int(document["resources"]["cpus"].rstrip("+"))
    assert document["num_nodes"] * cpus >= workers
    assert document["secrets"] == {"RAY_AUTH_TOKEN": None}  # has to be given, and is nowhere stored
    assert document["name"] == "walker"


def test_the_script_of_the_skypilot_task_is_sound(tmp_path: Path) -> None:
    document = yaml.safe_load(write("sky")["sky.yaml"])
    for name in ("setup", "run"):
        script = tmp_path / name
        script.write_text(document[name])
        lint("bash", "-n", script)
        lint(tool("shellcheck"), "--shell", "bash", script)
    assert "ray stop" not in code(document["run"])  # would end SkyPilot's own Ray


# Slurm.


def test_the_slurm_script_is_sound() -> None:
    write("slurm", storage=SHARED)
    lint("bash", "-n", "warprl-slurm/train.sbatch")
    lint(tool("shellcheck"), "warprl-slurm/train.sbatch")


def test_the_slurm_script_never_ends_the_ray_of_other_jobs() -> None:
    assert "ray stop" not in code(write("slurm")["train.sbatch"])


@pytest.mark.parametrize("workers", [1, 16, 17, 100])
def test_the_slurm_allocation_has_a_cpu_for_each_worker(workers: int) -> None:
    text = write("slurm", name="walker", workers=workers)["train.sbatch"]
    given = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert int(given["nodes"]) * int(given["cpus-per-task"]) >= workers
    assert given["job-name"] == "walker"
    assert given["signal"] == "B:TERM@120"


class Job:
    """A Slurm job of two nodes that runs on this machine, with stand-ins for Slurm's commands."""

    ID = str(os.getpid())  # from which ports and folders follow

    def __init__(self, folder: Path, train: str) -> None:
        write("slurm", out=str(folder), workers=2, storage=str(folder))
        self.script = folder / "train.sbatch"
        self.script.write_text(self.script.read_text().replace(TRAINED, train))
        self.folder, self.home, self.nodes = folder, folder / "home", folder / "nodes"
        self.scratch = Path(f"/tmp/warprl-{self.ID}")
        self.home.mkdir()
        self.nodes.mkdir()

    def start(self, *commands: Path, state: str = "RUNNING") -> subprocess.Popen[bytes]:
        """Run the script; ``commands`` is where stand-ins for other commands are."""
        scripts = sysconfig.get_path("scripts")
        found = [*map(str, commands), str(FIXTURES / "slurm"), scripts, os.environ["PATH"]]
        environment = {
            **os.environ,
            "PATH": ":".join(found),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "SLURM_JOB_ID": self.ID,
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_CPUS_PER_TASK": "1",
            "WARPRL_TEST_FOLDER": str(self.scratch),
            "WARPRL_TEST_NODES": str(self.nodes),
            "WARPRL_TEST_STATE": state,
        }
        log = (self.folder / "log").open("ab")
        with log:
            return subprocess.Popen(
                ["bash", self.script], env=environment, stdout=log, stderr=log, cwd=self.folder
            )

    def await_line(self, pattern: str, process: subprocess.Popen[bytes]) -> None:
        while not re.search(pattern, (self.folder / "log").read_text()):
            assert process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.1)

    @property
    def requeued(self) -> bool:
        return (self.nodes / "requeued").exists()

    def assert_nothing_is_left(self) -> None:
        assert not self.scratch.exists()
        assert not [name for name in os.listdir(self.home) if name.endswith(".token")]
        assert list(self.processes()) == []

    def processes(self) -> Iterator[str]:
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if str(self.scratch) in line:
                yield line


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Commands ``ray``, which listens until it is ended, and ``warprl``, which waits to be told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "ray": """
            import signal, socket, sys, time
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            ports = [a.partition("=")[2] for a in sys.argv if a.startswith("--port=")]
            servers = [socket.create_server(("", int(port))) for port in ports]
            time.sleep(600)
        """,
        "warprl": """
            import os, signal, sys
            print("token", oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode), flush=True)
            signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
            if sys.argv[2] == "long":
                signal.pause()
            sys.exit(int(sys.argv[2]))
        """,
    }
    for name, script in scripts.items():
        lines = [line[12:] for line in script.splitlines()]
        (folder / name).write_text(f"#!{sys.executable}" + "\n".join(lines))
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("status", [0, 1])
def test_a_slurm_job_ends_with_the_status_of_its_run_and_leaves_nothing(
    status: int, tmp_path: Path, stand_ins: Path
) -> None:
    job = Job(tmp_path / "job", str(status))
    assert job.start(stand_ins).wait() == status
    job.assert_nothing_is_left()
    assert not job.requeued
    assert "token 0o100600" in (job.folder / "log").read_text()


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("CANCELLED", False)])
def test_a_slurm_job_that_is_told_to_stop_saves_and_returns_unless_it_was_cancelled(
    state: str, requeued: bool, tmp_path: Path, stand_ins: Path
) -> None:
    job = Job(tmp_path / "job", "long")
    process = job.start(stand_ins, state=state)
    job.await_line("token", process)
    process.send_signal(signal.SIGTERM)  # as --signal=B:TERM does: to the script alone
    assert process.wait() == 143
    assert "saved" in (job.folder / "log").read_text()
    assert job.requeued is requeued
    job.assert_nothing_is_left()


@pytest.mark.cluster
def test_a_slurm_job_trains_on_its_nodes_and_continues_after_a_preemption(tmp_path: Path) -> None:
    """Real raylets, one a node, on loopback; the result is that of a run in one process."""
    job = Job(tmp_path / "job", f"{TINY} --iterations 12")
    process = job.start()
    job.await_line("iteration 2/12", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert job.requeued
    job.assert_nothing_is_left()
    (saved,) = checkpoint.iterations(job.folder / "warprl" / "checkpoints")
    assert 2 <= saved < 12

    assert job.start().wait() == 0
    job.assert_nothing_is_left()
    alone = [
        *TINY.split(),
        "--iterations",
        "12",
        "--workers",
        "0",
        "--run",
        str(tmp_path / "alone"),
    ]
    assert main(["train", *alone]) == 0
    first, second = (
        checkpoint.load(folder / "checkpoints", 12).tensors
        for folder in (job.folder / "warprl", tmp_path / "alone")
    )
    assert all(first[name].equal(second[name]) for name in first | second)


# The image.


def test_the_dockerfile_passes_its_linter() -> None:
    lint(tool("hadolint"), ROOT / "launch" / "cluster" / "Dockerfile")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = (ROOT / "launch" / "cluster" / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line]


def test_the_image_has_egl_the_locked_versions_and_a_user_without_privileges() -> None:
    found = instructions()
    assert found[0] == ("FROM", "python:3.11-slim-bookworm")
    runs = [arguments for name, arguments in found if name == "RUN"]
    assert any(machine.PACKAGES in arguments for arguments in runs)
    installs = [arguments for arguments in runs if "pip install" in arguments]
    assert len(installs) == 3
    assert all("--constraint source/constraints.txt" in arguments for arguments in installs)
    (user,) = (position for position, (name, _) in enumerate(found) if name == "USER")
    assert found[user] == ("USER", "1000")
    assert user < found.index(("RUN", "python -m venv venv"))


def test_docker_sees_every_file_that_the_image_needs_and_little_else() -> None:
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY"
        for source in arguments.split()[1:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    seen = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert copied == seen
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in ignored
