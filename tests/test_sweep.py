"""A grid of runs is trained once, continues where it stopped, and names what fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_runs import start_ray

from warprl import checkpoint
from warprl.launch.cli import main
from warprl.launch.runs import config
from warprl.launch.training import cells

FAMILIES = ["point-navigation-v1", "point-sparse-v1"]
AGENTS = ["promp", "maml"]
SETTINGS = ["tasks=2", "adaptation.episodes=2", "policy.hidden=[8]"]
GRID = {"families": FAMILIES, "agents": AGENTS, "seeds": [3], "settings": SETTINGS, "iterations": 1}
NAMES = [f"{family}-{agent}-s3" for family in FAMILIES for agent in AGENTS]


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the grid after one iteration."""
    where = tmp_path_factory.mktemp("grid")
    start_ray()
    assert main(["sweep", write(where, folder=str(where / "runs"))]) == 0
    return where / "runs"


@pytest.fixture
def begun(trained: Path, tmp_path: Path) -> Path:
    """A copy of them where this test's runs are."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def write(where: Path, **changes: Any) -> str:
    """The file of the grid with some keys changed; None takes a key out."""
    grid = {key: value for key, value in (GRID | changes).items() if value is not None}
    (where / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    return str(where / "grid.yaml")


def planned(where: Path, **changes: Any) -> list[cells.Cell]:
    """The cells of the grid with some keys changed."""
    file = Path(write(where, **changes))
    return cells.plan(cells.read(file), file)


def states(capsys: pytest.CaptureFixture[str], file: str) -> dict[str, str]:
    """The state of each run."""
    assert main(["sweep", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    return {Path(row["run"]).name: row["state"] for row in found}


def saved(folder: Path) -> dict[str, list[int]]:
    return {name: checkpoint.iterations(folder / name / "checkpoints") for name in NAMES}


def returns(run: Path) -> list[list[float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[line["env_steps"], line["return_step_0"], line["return_step_1"]] for line in lines]


def learned(run: Path) -> dict[str, list[float]]:
    tensors = checkpoint.load(run / "checkpoints").tensors
    return {name: tensor.tolist() for name, tensor in tensors.items()}


@pytest.mark.ray
def test_every_cell_is_an_ordinary_run_and_nothing_else_is_left(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == sorted(NAMES)
    assert saved(trained) == dict.fromkeys(NAMES, [1])
    for name in NAMES:
        found = config.load(trained / name / "config.yaml")
        assert (f"{found.family}-{found.agent}-s{found.seed}", found.compute.workers) == (name, 0)
        assert found.tasks == 2
        held = {path.name for path in (trained / name).iterdir()}
        assert held == {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints"}


@pytest.mark.ray
def test_a_finished_grid_is_skipped_and_a_longer_one_goes_on_exactly(
    capsys: pytest.CaptureFixture[str], begun: Path, tmp_path: Path
) -> None:
    assert states(capsys, write(tmp_path)) == dict.fromkeys(NAMES, "skipped")
    assert saved(begun) == dict.fromkeys(NAMES, [1])
    assert main(["sweep", write(tmp_path, iterations=2)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        assert f"{name}: resuming at 1, to iteration 2" in lines
        assert f"{name}: finished at iteration 2" in lines
    assert lines[-2:] == ["4 runs: 4 finished", str(begun)]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    arguments = ("--agent", "maml", "--workers", "0", "--iterations", "2", "--seed", "3")
    assert main(["train", FAMILIES[0], *arguments, *settings, "--run", "whole"]) == 0
    assert returns(begun / NAMES[1]) == returns(begun / "whole")
    assert learned(begun / NAMES[1]) == learned(begun / "whole")


@pytest.mark.ray
def test_a_cell_that_fails_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], begun: Path, tmp_path: Path
) -> None:
    (begun / NAMES[0] / "metrics.jsonl").unlink()
    (begun / NAMES[0] / "metrics.jsonl").mkdir()
    shutil.rmtree(begun / NAMES[1])
    file = write(tmp_path, families=FAMILIES[:1], iterations=2)
    assert main(["sweep", file]) == 1
    lines = capsys.readouterr().out.splitlines()
    (failed,) = (line for line in lines if line.startswith(f"{NAMES[0]}: failed: "))
    reason = failed.removeprefix(f"{NAMES[0]}: failed: ")
    assert reason.startswith(f"cannot write to {begun / NAMES[0]}: Is a directory")
    assert f"{NAMES[1]}: starting, to iteration 2" in lines
    end = ["2 runs: 1 failed, 1 finished", f"failed: {NAMES[0]}: {reason}", str(begun)]
    assert lines[-3:] == end
    (begun / NAMES[0] / "metrics.jsonl").rmdir()
    assert states(capsys, file) == {NAMES[0]: "finished", NAMES[1]: "skipped"}


@pytest.mark.ray
def test_a_cell_whose_process_is_killed_is_named_and_finished_by_the_next_call(
    capsys: pytest.CaptureFixture[str], begun: Path, tmp_path: Path
) -> None:
    shutil.rmtree(begun / NAMES[2])
    run = begun / NAMES[2]

    def kill() -> None:
        """Kill the process in the middle of its run; the run's lease names the process."""
        while not checkpoint.iterations(run / "checkpoints"):
            time.sleep(0.01)
        os.kill(json.loads((run / "lease.json").read_text())["pid"], signal.SIGKILL)

    settings = [*SETTINGS, "output.checkpoint_every=1"]
    one = {"families": FAMILIES[1:], "agents": AGENTS[:1], "settings": settings}
    file = write(tmp_path, iterations=100, **one)
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert main(["sweep", file]) == 1
    killer.join()
    lines = capsys.readouterr().out.splitlines()
    assert f"{NAMES[2]}: failed: its process ended; perhaps the machine ran out of memory" in lines
    assert lines[-3] == "1 runs: 1 failed"
    assert states(capsys, file) == {NAMES[2]: "finished"}
    steps = [row[0] for row in returns(run)]
    assert steps == [steps[0] * n for n in range(1, 101)], "each iteration once"


def test_environment_steps_are_equal_up_to_whole_iterations(tmp_path: Path) -> None:
    """An iteration is 2 tasks x 2 episodes x 20 steps x 2 rollouts, or 4 of warpgrad."""
    agents, families = ["promp", "warpgrad"], FAMILIES[1:]
    for steps, iterations in ((481, [4, 2]), (640, [4, 2]), (641, [5, 3])):
        changes = {"agents": agents, "families": families, "iterations": None, "env_steps": steps}
        assert [cell.config.iterations for cell in planned(tmp_path, **changes)] == iterations


def test_every_combination_of_varied_values_is_a_run_named_after_them(tmp_path: Path) -> None:
    vary = {"policy.warp": ["gate", None], "policy.hidden": [[8], [8, 4]], "loss.type": ["ppo"]}
    settings = ["tasks=2", "policy.rates=false"]
    found = planned(
        tmp_path, families=FAMILIES[:1], agents=["warpgrad"], settings=settings, vary=vary
    )
    assert {cell.name: (cell.config.policy.warp, cell.config.policy.hidden) for cell in found} == {
        f"point-navigation-v1-warpgrad-warp_{warp}-hidden_{hidden}-loss.type_ppo-s3": values
        for warp, hidden, values in (
            ("gate", "8", ("gate", (8,))),
            ("gate", "8x4", ("gate", (8, 4))),
            ("none", "8", (None, (8,))),
            ("none", "8x4", (None, (8, 4))),
        )
    }
    assert all(cell.config.tasks == 2 for cell in found)


def test_a_value_is_named_alike_however_it_is_written(tmp_path: Path) -> None:
    """So that a file that writes 0.001 for 1e-3 goes on with the same runs."""
    for values in (["1e-3", "2e16"], [0.001, 2.0e16], [1.0e-3, "20000000000000000"]):
        vary = {"outer.kl_coefficient": values}
        found = planned(tmp_path, families=FAMILIES[:1], agents=AGENTS[:1], vary=vary)
        ends = [cell.name.removeprefix("point-navigation-v1-promp-") for cell in found]
        assert ends == ["kl_coefficient_0.001-s3", "kl_coefficient_2e16-s3"]


def test_a_variant_is_an_agent_with_its_own_settings_iterations_and_name(tmp_path: Path) -> None:
    variants = {
        "wide": {"agent": "maml", "settings": ["policy.hidden=[16]"]},
        "brief": {"agent": "maml", "iterations": 2},
    }
    changes: dict[str, Any] = {"families": FAMILIES[:1], "agents": ["maml"], "variants": variants}
    found = planned(tmp_path, **changes, iterations=None, env_steps=4000)
    iterations = found[0].config.iterations
    assert iterations > 2
    assert [
        (cell.name, cell.config.agent, cell.config.policy.hidden, cell.config.iterations)
        for cell in found
    ] == [
        ("point-navigation-v1-maml-s3", "maml", (8,), iterations),
        ("point-navigation-v1-wide-s3", "maml", (16,), iterations),
        ("point-navigation-v1-brief-s3", "maml", (8,), 2),
    ]
    assert [cell.label for cell in found] == ["maml", "wide", "brief"]
    alone = planned(tmp_path, **changes | {"agents": None}, vary={"adaptation.steps": [1, 2]})
    assert [cell.label for cell in alone] == [
        "wide-steps_1",
        "wide-steps_2",
        "brief-steps_1",
        "brief-steps_2",
    ]


def test_the_example_in_the_help_is_a_sweep(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sweep", "--help"]) == 0
    text = capsys.readouterr().out
    example = text[text.index(" families:") : text.index(" Runs have the varied values")]
    file = tmp_path / "grid.yaml"
    file.write_text("\n".join(line[1:] for line in example.splitlines()))
    found = cells.plan(cells.read(file), file)
    assert len(found) == 2 * 3 * 2 * 2
    assert "half-cheetah-dir-v1-online-warp_gate-s1" in [cell.name for cell in found]


@pytest.mark.ray
def test_a_run_with_other_settings_is_refused_by_name_before_any_work(
    capsys: pytest.CaptureFixture[str], begun: Path, tmp_path: Path
) -> None:
    file = write(tmp_path, iterations=2, settings=[*SETTINGS, "outer.init_lr=0.5"])
    shutil.rmtree(begun / NAMES[0])
    capsys.readouterr()
    assert main(["sweep", file]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"warprl: {begun / NAMES[1]} was trained with outer.init_lr = ")
    assert ", and the sweep file says 0.5: move it away" in output.err
    assert output.out == ""
    assert main(["sweep", write(tmp_path, settings=[*SETTINGS, "outer.type=trpo"])]) == 2
    said = "was trained with outer.type = adam, and the sweep file says trpo: move it away"
    assert said in capsys.readouterr().err
    assert not (begun / NAMES[0]).exists()


def test_a_folder_that_is_no_run_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / NAMES[2]).mkdir(parents=True)
    (tmp_path / "runs" / NAMES[2] / "diary").touch()
    assert main(["sweep", write(tmp_path)]) == 2
    assert f"{NAMES[2]} is not a run: it holds no config.yaml" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [NAMES[2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": ["maml"]}, "unknown key 'agent': did you mean 'agents'?"),
        ({"families": None}, "key 'families' is missing"),
        ({"seeds": []}, "seeds = []: should be a list of one or more whole numbers"),
        ({"families": 3}, "families = 3: should be a list of one or more names"),
        ({"settings": 3}, "settings = 3: should be a list of names"),
        ({"seeds": [True]}, "seeds.0 = true: should be a whole number"),
        ({"seeds": [-1]}, "seed = -1: should be greater than or equal to 0"),
        ({"iterations": 0}, "iterations = 0: should be greater than 0"),
        ({"iterations": None}, "give either iterations or env_steps"),
        ({"env_steps": 1000}, "give either iterations or env_steps"),
        ({"concurrent": 0}, "concurrent = 0: should be greater than 0"),
        ({"agents": ["maml", "mamml"]}, "unknown agent 'mamml': did you mean 'maml'?"),
        ({"families": ["point-navigation"]}, "unknown family 'point-navigation': did you mean"),
        (
            {"settings": ["outer.ini_lr=1"]},
            "unknown key 'outer.ini_lr': did you mean 'outer.init_lr'?",
        ),
        ({"settings": ["tasks"]}, "settings: 'tasks' is not KEY=VALUE"),
        ({"settings": ["seed=4"]}, "settings: 'seed' cannot be set: see 'seeds'"),
        ({"settings": ["agent=maml"]}, "settings: 'agent' cannot be set: see 'agents'"),
        ({"agents": ["maml", "maml"]}, f"{NAMES[1]} is in the grid 2 times"),
        ({"agents": None}, "give agents, variants or both"),
        ({"agents": []}, "agents = []: should be a list of one or more"),
        ({"vary": {"tasks": 3}}, "vary.tasks = 3: should be a list of one or more values"),
        ({"vary": {"tasks": []}}, "vary.tasks = []: should be a list of one or more"),
        ({"vary": {"policy.wrap": ["gate"]}}, "promp policy.wrap=gate: unknown key 'policy.wrap'"),
        ({"vary": {"policy": ["gate"]}}, "promp policy=gate: 'policy' is a section"),
        ({"vary": {"output.keep": [2, 1]}}, "promp output.keep=1: output.keep = 1: should be gre"),
        ({"vary": {"seed": [1, 2]}}, "vary: 'seed' cannot be set: see 'seeds'"),
        ({"vary": {"tasks": [2]}}, "settings: 'tasks' is in vary too: name it once"),
        ({"vary": {"outer.init_lr": [1, 1.0]}}, "point-navigation-v1-promp-init_lr_1.0-s3 is in"),
        (
            {
                "agents": None,
                "variants": {"x" * 75: {"agent": "maml"}},
                "vary": {"output.keep": [2]},
            },
            f"'point-navigation-v1-{'x' * 75}-keep_2-s3' is not a run name of up to 100",
        ),
        (
            {"variants": {"wide": {"agent": "maml", "settings": ["policy.hiden=[9]"]}}},
            "wide policy.hiden=[9]: unknown key 'policy.hiden': did you mean 'policy.hidden'?",
        ),
        (
            {"variants": {"wide": {"agent": "maml", "setting": []}}},
            "unknown key 'variants.wide.setting': did you mean 'variants.wide.settings'?",
        ),
        ({"variants": {"wide": 3}}, "variants.wide = 3: should be an object"),
        ({"variants": {"wide": {}}}, "key 'variants.wide.agent' is missing"),
        (
            {"variants": {"wide": {"agent": "maml", "settings": ["tasks"]}}},
            "variants.wide.settings: 'tasks' is not KEY=VALUE",
        ),
        (
            {"variants": {"a b": {"agent": "random"}}},
            "'point-navigation-v1-a b-s3' is not a run name of up to 100 characters",
        ),
        (
            {"variants": {"same": {"agent": "maml"}}},
            "point-navigation-v1-maml-s3 and point-navigation-v1-same-s3 are the same run",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, **changes)
    assert main(["sweep", file]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"warprl: {file}: {message}")
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert not (tmp_path / "runs").exists()


def test_a_bad_file_is_refused_without_loading_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from warprl.launch.cli import main;"
        "status = main(['sweep', sys.argv[1]]); sys.exit(99 if 'ray' in sys.modules else status)"
    )
    command = [sys.executable, "-c", code, write(tmp_path, agents=["mamml"])]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


@pytest.mark.ray
def test_an_interrupt_lets_every_run_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The real command, interrupted as a terminal does it: with all that it has started."""
    file = write(tmp_path, families=FAMILIES[:1], iterations=100_000, concurrent=1)
    command = [sys.executable, "-m", "warprl.launch.cli", "sweep", file]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"{NAMES[0]}: starting, to iteration 100000\n"
            metrics = tmp_path / "runs" / NAMES[0] / "metrics.jsonl"
            while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
            rest, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 130
    reached = max(checkpoint.iterations(metrics.parent / "checkpoints"))
    assert rest.splitlines()[:3] == [
        f"{NAMES[0]}: stopped at iteration {reached}",
        "2 runs: 1 stopped, 1 waiting",
        "stopped by SIGINT: the same command continues it",
    ]
    assert len(returns(metrics.parent)) == reached
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [NAMES[0]]
