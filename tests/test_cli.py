"""The command line: what it prints, refuses and leaves behind."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers_launch import fabricate, refused

from warprl import __version__, checkpoint
from warprl.agents.presets import PRESETS
from warprl.envs import family_names
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.errors import MissingGraphicsError, RunFailedError, UserError
from warprl.launch.outcome import Entries, Outcome
from warprl.launch.runs import config, folders, stored
from warprl.launch.runs.log import RunLog
from warprl.launch.training import train

FAMILY = "point-navigation-v1"
TINY = (
    "--workers", "0", "--set", "tasks=2", "--set", "adaptation.episodes=2",
    "--set", "policy.hidden=[8]", "--set", "output.checkpoint_every=1",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _no_ray_of_other_tests() -> None:
    if ray.is_initialized():
        ray.shutdown()


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))


def test_help_and_version_load_nothing_heavy() -> None:
    """So that they answer at once: the time goes into torch, Ray and mujoco."""
    code = (
        "import sys; from warprl.launch.cli import main; main(['--help']); main(['--version']);"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    verbs = "train resume sweep evaluate compare render export envs agents config doctor"
    for verb in f"{verbs} submit status logs stop fetch".split():
        assert f" {verb} " in done.stdout
    assert f"warprl {__version__}" in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert not {"torch", "ray", "mujoco", "numpy", "gymnasium"} & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        (("train",), "Missing argument 'FAMILY'."),
        (("train", FAMILY, "--worker", "1"), "No such option: --worker"),
        (("train", FAMILY, "--workers", "two"), "Invalid value for '--workers': 'two' is not a"),
        (("train", FAMILY, "--workers", "-1"), "compute.workers = -1: should be greater than"),
        (("train", FAMILY, "--iterations", "0"), "iterations = 0: should be greater than 0"),
        (("train", FAMILY, "--workers", "21"), "compute.workers = 21: must not exceed tasks = 20"),
        (("train", FAMILY, "--agent", "mamml"), "unknown agent 'mamml': did you mean 'maml'?"),
        (("train", "point-navigation"), "unknown family 'point-navigation': did you mean"),
        (
            ("train", FAMILY, "--set", "outer.warp_lrr=1"),
            "unknown key 'outer.warp_lrr': did you mean",
        ),
        (("train", FAMILY, "--trust"), "--trust: nothing to trust: give the file with --init-from"),
        (("train", FAMILY, "--run", "my run"), "run name 'my run': use up to 100 letters"),
        (("train", FAMILY, "--run", "/proc/run"), "cannot make the run folder /proc/run: "),
        (("resume", "gone"), "no run 'gone': there are no runs in "),
        (("evaluate", "gone"), "no run 'gone'"),
        (
            ("evaluate", "gone", "--protocol", "mean"),
            "Invalid value for '--protocol': 'mean' is not one of 'curve', 'metaworld'.",
        ),
        (("compare", "gone"), "no run 'gone'"),
        (("render", "gone"), "no run 'gone'"),
        (("sweep", "gone.yaml"), "cannot read gone.yaml: No such file"),
        (("envs", "ant"), "unknown family 'ant': "),
        (("config", "ant"), "unknown family 'ant': "),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert refused(capsys, *arguments).startswith(message)
    assert list(tmp_path.iterdir()) == [], "nothing is made before the input is known to be good"
    assert not ray.is_initialized()


def test_bad_input_is_refused_by_the_real_command_without_loading_ray() -> None:
    code = (
        "import sys; from warprl.launch.cli import main;"
        f"status = main(['train', '{FAMILY}', '--workers', '-1']);"
        "sys.exit(status if 'ray' not in sys.modules else 99)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "warprl: compute.workers = -1: should be greater than or equal to 0\n"


def test_a_run_that_exists_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").write_text("dear")
    message = refused(capsys, "train", FAMILY, "--run", "mine")
    assert "exists: continue it with 'warprl resume mine' or choose another name" in message
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary"]


def test_a_folder_that_is_no_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for verb in ("resume", "evaluate", "compare", "render"):
        assert "is not a run: it holds no config.yaml" in refused(capsys, verb, "mine")


@pytest.mark.parametrize(
    ("verb", "part"),
    [
        ("resume", "checkpoints"),
        ("evaluate", "evaluation"),
        ("compare", "evaluation"),
        ("render", "videos"),
    ],
)
def test_a_run_that_cannot_be_written_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    verb: str, part: str,
) -> None:  # fmt: skip
    fabricate(tmp_path / "mine", FAMILY)
    if (tmp_path / "mine" / part).exists():
        shutil.rmtree(tmp_path / "mine" / part)
    (tmp_path / "mine" / part).write_text("in the way")
    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert refused(capsys, verb, "mine").endswith(f"{tmp_path / 'mine' / part}: it is not a folder")
    assert not ray.is_initialized()


def test_a_name_that_no_file_can_have_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "File name too long" in refused(capsys, "evaluate", "x" * 300)


def test_a_run_of_another_version_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("schema_version: 0\n")
    for verb in ("resume", "evaluate"):
        assert "has schema version 0 and this warprl reads 1 and 2" in refused(capsys, verb, "old")


def test_a_missing_run_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "cheetah").mkdir()
    (tmp_path / "cheetah" / "config.yaml").touch()
    assert refused(capsys, "resume", "cheeta") == "no run 'cheeta': did you mean 'cheetah'?"


def test_the_families_and_their_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == family_names()
    assert "ml10" in last
    assert main(["envs", FAMILY]) == 0
    assert "Euclidean distance to the goal" in capsys.readouterr().out
    assert main(["envs", FAMILY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["horizon"] == 100
    assert main(["envs", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == family_names()


def test_the_agents_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agents"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    assert main(["agents", "--json"]) == 0
    assert "initialisation by PPO" in json.loads(capsys.readouterr().out)["promp"]


def test_the_configuration_is_shown_before_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", FAMILY, "--agent", "maml", "--set", "outer.init_lr=0.5"]) == 0
    assert "  init_lr: 0.5\n" in capsys.readouterr().out
    assert main(["config", FAMILY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agent"] == "warpgrad"


def test_json_output_is_alone_on_stdout_whatever_else_prints() -> None:
    code = (
        "import os, sys; from warprl.launch import cli, doctor\n"
        "from warprl.launch.outcome import Entries, Outcome\n"
        "def examine():\n"
        "    print('python'); os.write(1, b'native'); os.system('echo child')\n"
        "    return Outcome(Entries({'a': float('nan')}), '', 5)\n"
        "doctor.examine = examine\n"
        "sys.exit(cli.main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, '{"a": null}\n')
    for text in ("python", "native", "child"):
        assert text in done.stderr


def test_a_run_has_one_writer(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from warprl.launch.runs import folders\n"
        "with folders.hold(Path(sys.argv[1]), 2): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {other.pid} on "):
            with folders.hold(tmp_path, 2):
                pass
        other.kill()
    with folders.hold(tmp_path, 2):
        held = json.loads((tmp_path / "lease.json").read_text())
        assert held["pid"] == os.getpid(), "a dead writer holds nothing"
    assert list(tmp_path.iterdir()) == []


def test_more_workers_than_cores_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    train.warn_about_cores(config.resolve(FAMILY, "promp", {"workers": 9999}, ["tasks=9999"]))
    (message,) = caplog.messages
    assert message.startswith("9999 workers share ")
    train.warn_about_cores(config.resolve(FAMILY, "promp", {"workers": 1}))
    assert caplog.messages == [message]


def test_a_warning_is_one_line_on_stderr_and_only_the_command_line_prints_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warns() -> Outcome[Entries]:
        logging.getLogger("warprl.launch").warning("%d things are odd", 3)
        return Outcome(Entries({}), "done")

    monkeypatch.setattr("warprl.launch.doctor.examine", warns)
    for _ in range(2):
        assert main(["doctor"]) == 0
        assert capsys.readouterr() == ("done\n", "warprl: warning: 3 things are odd\n")
    handlers = logging.getLogger("warprl").handlers
    assert handlers == [], "a library leaves it to the program what becomes of its warnings"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("trian", "--json"), 2),
        (("train", "--json"), 2),
        (("train", FAMILY, "--workers", "two", "--json"), 2),
        (("evaluate", "--json", "gone"), 2),
    ],
)
def test_with_json_an_error_is_an_object_on_stdout_beside_the_line_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int
) -> None:
    assert main(arguments) == status
    output = capsys.readouterr()
    answer = json.loads(output.out)
    assert output.err == f"warprl: {answer['error']}\n"
    assert answer == {"error": answer["error"], "status": status}


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RunFailedError("cannot write to x"), {"error": "cannot write to x", "status": 1}),
        (MissingGraphicsError("no OpenGL"), {"error": "no OpenGL", "status": 3}),
        (MemoryError("7 EiB"), {"error": "not enough memory: 7 EiB", "status": 1}),
        (KeyboardInterrupt(), {"error": "interrupted", "status": 130}),
    ],
)
def test_with_json_an_error_has_its_own_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    error: BaseException, answer: dict[str, Any],
) -> None:  # fmt: skip
    def fails() -> None:
        raise error

    monkeypatch.setattr("warprl.launch.doctor.examine", fails)
    assert main(["doctor", "--json"]) == answer["status"]
    output = capsys.readouterr()
    assert json.loads(output.out) == answer
    assert output.err == f"warprl: {answer['error']}\n"


def test_a_fault_of_the_program_keeps_its_traceback_and_is_an_object_with_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("warprl.launch.doctor.examine", fails)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])
    assert capsys.readouterr().out == ""
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"error": "ZeroDivisionError: division by zero", "status": 1}


# From here on runs are really trained: in this process, which keeps one Ray for all of them.


def trained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def history(run: str | Path) -> list[dict[str, Any]]:
    """The metrics of a run without those that measure time."""
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    timed = ("wall_s", "steps_per_s", "physics_fraction")
    return [
        {k: v for k, v in json.loads(line).items() if k not in timed and not k.startswith("time.")}
        for line in lines
    ]


def learned(run: str | Path) -> dict[str, list[float]]:
    """The newest checkpoint of a run, as numbers."""
    tensors = checkpoint.load(Path(run) / "checkpoints").tensors
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", FAMILY, *TINY, "--iterations", "3", "--run", str(folder)]) == 0
    return folder


def test_training_leaves_a_whole_run_and_prints_it_last(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", FAMILY, *TINY, "--iterations", "2", "--run", "new"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"training {FAMILY} with warpgrad and 0 workers in {tmp_path / 'new'}"
    assert lines[1].startswith("iteration 1/2  return ")
    assert lines[2].startswith("iteration 2/2  return ")
    assert lines[3].startswith("finished at iteration 2, 3,200 environment steps; last returns ")
    assert lines[-1] == str(tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "config.yaml", "metrics.jsonl", "tensorboard", "checkpoints"
    }  # fmt: skip
    assert config.load(tmp_path / "new" / "config.yaml").iterations == 2
    assert "is complete at iteration 2: give iterations" in refused(capsys, "resume", "new")


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        ("promp", "last returns after 0 to 1 inner steps: "),
        ("multitask", "last return: "),
        ("rl2", "last returns of the 4 episodes of a trial: "),
    ],
)
def test_the_last_returns_are_said_to_be_what_the_agent_makes_them(
    agent: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", FAMILY, *TINY, "--agent", agent, "--iterations", "1", "--run", "new"]
    assert main(arguments) == 0
    assert f"environment steps; {told}-" in capsys.readouterr().out


def test_every_iteration_logs_what_tools_rely_on(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    promised = {
        "iteration", "env_steps", "wall_s", "return_step_0", "return_step_3", "kl", "meta_loss",
        "grad_norm", "steps_per_s", "physics_fraction", "diverged_tasks", "time.physics",
    }  # fmt: skip
    assert all(promised <= set(line) for line in lines)


def test_a_resumed_run_equals_an_uninterrupted_one(
    capsys: pytest.CaptureFixture[str], whole: Path
) -> None:
    answer = trained(capsys, "train", FAMILY, *TINY, "--iterations", "2", "--run", "halves")
    assert (answer["iteration"], answer["stopped_by"]) == (2, None)
    assert main(["resume", "halves", "--iterations", "1"]) == 0
    output = capsys.readouterr().out
    assert "restored parameters, optimiser and counters of iteration 2" in output
    assert history(answer["run"]) == history(whole)
    assert learned(answer["run"]) == learned(whole)


def test_a_broken_checkpoint_gives_way_to_the_one_before(
    capsys: pytest.CaptureFixture[str], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "3" / "state.json").write_text("{")
    assert main(["resume", "copy"]) == 0
    output = capsys.readouterr()
    assert "warprl: warning: checkpoint 3 is broken (" in output.err
    assert "iteration 2" in output.out
    assert history(tmp_path / "copy") == history(whole)
    assert learned(tmp_path / "copy") == learned(whole)


def test_a_run_without_a_checkpoint_starts_again_and_says_so(
    capsys: pytest.CaptureFixture[str], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    assert main(["resume", "copy"]) == 0
    assert (
        "there is no checkpoint yet, so training starts from the beginning"
        in capsys.readouterr().out
    )
    assert history(tmp_path / "copy") == history(whole)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_after_its_iteration_saved(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    number: signal.Signals, status: int,
) -> None:  # fmt: skip
    write = RunLog.write

    def interrupted(log: RunLog, metrics: dict[str, Any]) -> None:
        write(log, metrics)
        if metrics["iteration"] == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "write", interrupted)
    arguments = ("--iterations", "9", "--run", "cut", "--set", "output.checkpoint_every=5")
    before = signal.getsignal(number)
    assert main(["train", FAMILY, *TINY, *arguments]) == status
    output = capfd.readouterr()
    assert "stopping after this iteration; a second signal stops at once" in output.err
    assert f"stopped by {number.name} and saved at iteration 1" in output.out
    assert checkpoint.iterations(tmp_path / "cut" / "checkpoints") == [1]
    assert signal.getsignal(number) is before


def test_a_run_whose_tasks_all_diverge_warns_and_stops_with_everything_saved(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    large = ("--set", "adaptation.inner_lr=1e30", "--set", "output.checkpoint_every=10")
    for run, iterations in (("two", "2"), ("lost", "9")):
        status = main(["train", FAMILY, *TINY, *large, "--iterations", iterations, "--run", run])
        output = capfd.readouterr()
        said = [line for line in output.err.splitlines() if line.startswith("warprl: ")]
        complaints = [line for line in said if "diverged tasks left out" not in line]
        assert complaints[:2] == [
            f"warprl: warning: iteration {n} learned nothing: every task diverged; "
            "a new run needs a lower adaptation.inner_lr than 1e+30"
            for n in (1, 2)
        ]
        assert "return none (every task diverged)  " in output.out
        assert "nan" not in output.out + output.err
        if run == "two":
            assert (status, len(complaints)) == (0, 2)
    assert status == 2
    assert complaints[2:] == [
        "warprl: stopped at iteration 3: every task diverged 3 times in a row; the parameters from "
        f"before are saved in {tmp_path / 'lost'}: begin a new run with a lower "
        "adaptation.inner_lr than 1e+30"
    ]
    lines = (tmp_path / "lost" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["return_step_0"] for line in lines] == [None] * 3
    assert "NaN" not in "".join(lines)
    theta, _ = stored.fresh(config.load(tmp_path / "lost" / "config.yaml"))
    saved = learned(tmp_path / "lost")
    assert all(saved[f"theta.{name}"] == tensor.tolist() for name, tensor in theta.items())


def test_a_full_disk_ends_a_run_with_one_line_and_what_is_saved_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: Path
) -> None:
    save = checkpoint.save

    def fills_up(folder: Path, iteration: int, *rest: Any, **more: Any) -> Path:
        if iteration == 2:
            raise OSError(28, "No space left on device")
        return save(folder, iteration, *rest, **more)

    with monkeypatch.context() as full:
        full.setattr(checkpoint, "save", fills_up)
        assert main(["train", FAMILY, *TINY, "--iterations", "3", "--run", "full"]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "cannot write to " in message and "No space left on device" in message
    assert main(["resume", "full"]) == 0
    assert history(tmp_path / "full") == history(whole)
    assert learned(tmp_path / "full") == learned(whole)


@pytest.mark.ray
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """A real command with a worker, told to stop twice within one iteration."""
    arguments = ("--workers", "1", "--run", "cut", "--set", "tasks=4")
    command = [sys.executable, "-m", "warprl.launch.cli", "train", FAMILY, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline().startswith(b"training ")
            assert process.stdout.readline().startswith(b"iteration 1/200")
            process.send_signal(signal.SIGTERM)
            assert any(b"stopping after this iteration" in line for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 143
        finally:
            process.kill()
    assert checkpoint.iterations(tmp_path / "cut" / "checkpoints") == []


def test_too_little_memory_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine() -> None:
        raise MemoryError("Unable to allocate 7 EiB")

    monkeypatch.setattr("warprl.launch.doctor.examine", examine)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "warprl: not enough memory: Unable to allocate 7 EiB\n"


def test_a_job_that_starts_again_continues_the_run(tmp_path: Path) -> None:
    asked = ["train", FAMILY, *TINY, "--resume", "--run"]
    assert main([*asked, "again", "--iterations", "1"]) == 0
    for _ in range(2):  # the second time it is complete, which is no error
        assert main([*asked, "again", "--iterations", "3"]) == 0
    assert main([*asked, "whole", "--iterations", "3"]) == 0
    again, whole = (
        checkpoint.load(tmp_path / run / "checkpoints", 3).tensors for run in ("again", "whole")
    )
    assert all(again[name].equal(whole[name]) for name in again | whole)


def test_a_job_that_starts_again_does_not_continue_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path / "another", FAMILY)
    line = refused(capsys, "train", FAMILY, "--resume", "--run", "another")
    assert line.endswith("another exists with tasks = 2, not 20: choose another name")
    assert refused(capsys, "train", FAMILY, "--resume").startswith("--resume: needs --run")
