"""What the benchmarks make of their measurements; nothing here is timed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import comparison
import learning
import numpy as np
import pytest
import throughput
import torch
from experiments import EXPERIMENTS, METHODS, Cell
from helpers_launch import fabricate
from learning import History
from throughput import Sample

from warprl.envs import make_family
from warprl.launch.cli import main
from warprl.launch.errors import UserError
from warprl.launch.evaluation import evaluate
from warprl.launch.runs import config as configuration
from warprl.types import Params

CELL = Cell("point-navigation", "promp", 1)
STEPS = configuration.steps_per_iteration(CELL.config(1))


def sample(quantity: str, repeat: int, wall_s: float, cpu_s: float) -> Sample:
    return Sample("half-cheetah-dir-v1", quantity, repeat, 1000, wall_s, cpu_s)


def history(returns: list[list[float]], cell: Cell = CELL, each: int = 10) -> History:
    steps = np.arange(1, len(returns) + 1)
    wall_s = np.linspace(0.5, 9.5, len(returns))
    return History(cell, steps, each * steps, wall_s, np.array(returns))


def metrics(iteration: int, first: float | None, last: float) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "env_steps": STEPS * iteration,
        "wall_s": 2.0 * iteration,
        "return_step_0": first,
        "return_step_1": last,
    }


def write_run(runs: Path, cell: Cell, lines: list[str], steps: int = 10 * STEPS) -> Path:
    folder = runs / cell.name
    folder.mkdir(parents=True)
    text = configuration.dump(cell.config(steps))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def save(folder: Path, iteration: int) -> None:
    (folder / "checkpoints" / str(iteration)).mkdir(parents=True)


def remaining(folder: Path, iterations: int) -> str:
    command = learning.command(CELL, folder, iterations * STEPS)
    assert command is not None
    assert command[:3] == ["resume", str(folder), "--iterations"]
    return command[3]


# --- throughput ---------------------------------------------------------------------------------


def test_a_ratio_compares_measurements_of_the_same_repeat_only() -> None:
    # Repeat 1 ran on a machine half as fast; repeat 3 was never finished.
    samples = [
        sample("loop", 0, 2.0, 2.0),
        sample("loop", 1, 4.0, 2.5),
        sample("loop", 2, 2.5, 2.0),
        sample("raw_1", 0, 1.0, 1.0),
        sample("raw_1", 1, 2.0, 1.0),
        sample("raw_1", 2, 1.0, 1.0),
        sample("raw_1", 3, 9.0, 9.0),
    ]
    found = throughput.ratio(samples, "loop", "raw_1")
    assert found.wall == pytest.approx(0.5)
    assert found.cpu == pytest.approx(0.5)
    assert found.lowest == pytest.approx(0.4)
    assert (found.highest, found.repeats) == (0.5, 3)
    with pytest.raises(ValueError, match="no repeat has both 'loop' and 'reference.loop'"):
        throughput.ratio(samples, "loop", "reference.loop")


def test_the_reference_adapts_and_differentiates_through_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throughput, "EPISODES", 2)
    monkeypatch.setattr(throughput, "HORIZON", 5)
    monkeypatch.setattr(make_family("half-cheetah-dir-v1"), "horizon", 5)  # and back afterwards
    env, policy = throughput.reference_setting("half-cheetah-dir-v1", 0, gated=True)
    episodes = throughput.reference_episodes(env, policy, 0)
    env.close()
    params = dict(policy.named_parameters())
    advantage = throughput.reference_advantage(episodes)
    assert advantage.shape == (5, 2) and abs(float(advantage.mean())) < 1e-6

    def gain(found: Params) -> torch.Tensor:
        return (throughput.reference_ratio(policy, found, episodes) * advantage).mean()

    stepped = throughput.reference_step(policy, episodes)
    assert gain({**params}).item() == pytest.approx(0.0, abs=1e-6)
    assert gain(stepped).item() > 1e-3
    # Held constant, the inner gradient would leave the meta-gradient as it is at the new point.
    through = torch.autograd.grad(gain(stepped), list(params.values()), retain_graph=True)
    apart = torch.autograd.grad(gain(stepped), list(stepped.values()))
    assert all((stepped[n] is p) == n.startswith("gates.") for n, p in params.items())
    assert any(not torch.allclose(x, y, rtol=1e-2) for x, y in zip(through, apart, strict=True))


def test_a_line_is_found_again_and_a_parabola_is_no_line() -> None:
    tasks = list(throughput.GROWTH)
    offset, slope, r2 = throughput.linear_fit(tasks, [0.5 + 0.1 * t for t in tasks])
    assert [offset, slope, r2] == pytest.approx([0.5, 0.1, 1.0])
    assert throughput.linear_fit(tasks, [(t - 80.0) ** 2 for t in tasks])[2] < 0.9


def test_a_summary_names_what_is_required_of_this_family_only() -> None:
    quantities = {name for pair in throughput.REQUIRED for name in pair}
    ant = [Sample("ant-dir-v1", q, 0, 1000, 1.0, 2.0) for q in sorted(quantities)]
    summary = throughput.summarise(ant)
    assert summary["rates"]["raw_1"] == {"steps_per_s": 1000, "steps_per_cpu_s": 500}
    required = {(r["quantity"], r["against"]): r["required"] for r in summary["ratios"]}
    assert required["loop", "raw_1"] == 0.85
    assert required["iteration.warpgrad", "raw_all"] is None


# --- learning: what is run ----------------------------------------------------------------------


def test_methods_are_compared_at_equal_environment_steps_and_meta_batches() -> None:
    for name, about in EXPERIMENTS.items():
        configs = {method: Cell(name, method, 1).config(about.steps) for method in about.methods}
        alike = {(c.family, c.tasks, c.adaptation.episodes) for c in configs.values()}
        assert len(alike) == 1
        for method, config in configs.items():
            iteration = configuration.steps_per_iteration(config)
            taken = config.iterations * iteration
            if method == "random":
                assert taken == iteration, "it learns nothing, however long it is trained"
            else:
                assert about.steps <= taken < about.steps + iteration


def test_every_variant_of_an_ablation_changes_one_thing() -> None:
    for name in ("point-navigation-ablation", "half-cheetah-dir-ablation"):
        base = Cell(name, "warpgrad", 1).config(1)
        for method in EXPERIMENTS[name].methods:
            changed = configuration.differences(Cell(name, method, 1).config(1), base)
            assert len(changed) == len(METHODS[method].settings)


def test_a_grid_is_trained_seed_by_seed_and_holds_what_was_asked_for() -> None:
    found = learning.cells(["ant-dir", "half-cheetah-dir-long"], ["maml", "boil"], [2, 1])
    assert found == [
        Cell("ant-dir", "boil", 1),
        Cell("ant-dir", "maml", 1),
        Cell("half-cheetah-dir-long", "maml", 1),
        Cell("ant-dir", "boil", 2),
        Cell("ant-dir", "maml", 2),
        Cell("half-cheetah-dir-long", "maml", 2),
    ]
    everything = learning.cells(["point-navigation"], None, None)
    assert (
        len(everything) == len(set(everything)) == 5 * len(EXPERIMENTS["point-navigation"].methods)
    )


def test_a_run_is_started_then_resumed_then_left_alone_then_prolonged(tmp_path: Path) -> None:
    folder = tmp_path / CELL.name
    started = learning.command(CELL, folder, 10 * STEPS)
    assert started is not None and started[0] == "train"
    assert started[started.index("--iterations") + 1] == "10"
    write_run(tmp_path, CELL, [])
    assert remaining(folder, 10) == "10"
    save(folder, 4)
    assert remaining(folder, 10) == "6"
    save(folder, 10)
    assert learning.command(CELL, folder, 10 * STEPS) is None
    assert remaining(folder, 12) == "2"


def test_a_run_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    folder = write_run(tmp_path, CELL, [])
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(text.replace("tasks: 20", "tasks: 10"), encoding="utf-8")
    with pytest.raises(UserError, match="trained with another tasks"):
        learning.command(CELL, folder, 10 * STEPS)


# --- learning: what is made of the runs ---------------------------------------------------------


def test_t_interval_by_hand() -> None:
    # sd = 1, t(0.975, 2) = 4.30265: 2 +- 4.30265 / sqrt(3)
    found = learning.t_interval([1.0, 2.0, 3.0])
    assert found["low"] == pytest.approx(2.0 - 2.48414, abs=1e-3)
    assert found["high"] == pytest.approx(2.0 + 2.48414, abs=1e-3)
    assert learning.t_interval([5.0]) == {"mean": 5.0, "low": None, "high": None, "n": 1}


def test_a_threshold_is_reached_by_the_running_mean_not_by_one_lucky_iteration() -> None:
    steps = np.arange(10, 110, 10)
    curve = np.array([0.0, 0, 9, 0, 0, 2, 2, 2, 2, 2])
    assert learning.first_reach(steps, curve, 2.0) == 60  # the mean of 0 9 0 0 2
    assert learning.first_reach(steps, curve, 3.0) is None
    assert learning.first_reach(steps[:3], curve[:3], 0.0) is None


def test_seeds_are_compared_at_the_steps_that_all_of_them_have_reached() -> None:
    ahead = history([[0.0, float(i)] for i in range(20)])
    behind = history([[0.0, float(i)] for i in range(10)], CELL._replace(seed=2))
    summary = learning.summarise([ahead, behind], 200, (100.0,))
    assert summary["env_steps_reached"] == [200, 100]
    assert summary["complete"] is False
    assert summary["at_env_steps"] == 100
    # Iterations 6 to 10 of both: returns 5 .. 9.
    assert summary["returns"][1] == {"mean": 7.0, "low": 7.0, "high": 7.0, "n": 2}
    assert summary["gain"]["mean"] == 7.0
    assert summary["thresholds"]["100"]["env_steps_of_mean"] is None


def test_presets_are_ranked_at_common_steps() -> None:
    fast = [history([[0.0, 2.0 * i] for i in range(10)])]
    long = [history([[0.0, 1.0 * i] for i in range(50)])]
    ranking = learning.rank({"long": long, "fast": fast})
    assert ranking["at_env_steps"] == 100
    assert [row["method"] for row in ranking["best_first"]] == ["fast", "long"]


def test_a_thinned_run_keeps_its_ends() -> None:
    rows = learning.thinned(history([[0.0, float(i)] for i in range(1000)]))
    assert len(rows) == learning.POINTS
    assert (rows[0]["iteration"], rows[-1]["iteration"]) == (1, 1000)


def test_a_report_takes_what_there_is_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    lines = [json.dumps(metrics(i, -40.0, -20.0)) + "\n" for i in range(1, 8)]
    write_run(tmp_path, CELL, [*lines, '{"iteration": 8, "env_'])
    write_run(tmp_path, CELL._replace(seed=2), lines[:6])
    write_run(tmp_path, CELL._replace(seed=3), [])
    cells = [CELL._replace(seed=seed) for seed in (1, 2, 3, 4)]
    assert learning.report(cells, 10 * STEPS, tmp_path) == 2
    document = json.loads((tmp_path / "results/learning_summary.json").read_text(encoding="utf-8"))
    assert document["runs"] == {"planned": 4, "with_data": 2}
    summary = document["experiments"][CELL.experiment]["methods"][CELL.method]
    assert summary["seeds"] == [1, 2]
    assert summary["env_steps_reached"] == [7 * STEPS, 6 * STEPS]
    assert summary["complete"] is False
    with (tmp_path / "results/learning.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert (tmp_path / "results/learning.png").stat().st_size > 1000
    assert str(tmp_path) not in json.dumps(document)


def test_an_iteration_that_lost_every_task_has_no_return_to_report(tmp_path: Path) -> None:
    rows = [metrics(1, -40.0, -20.0), metrics(2, None, -1.0), metrics(3, -40.0, -10.0)]
    folder = write_run(tmp_path, CELL, [json.dumps(row) + "\n" for row in rows])
    found = learning.read(CELL, folder)
    assert found is not None
    assert found.iteration.tolist() == [1, 3]
    assert found.returns.tolist() == [[-40.0, -20.0], [-40.0, -10.0]]


# --- comparison: the results page -----------------------------------------------------------------


QUICK = evaluate.make_protocol("point-navigation-v1", steps=1, episodes=2, seed=0)


@pytest.fixture
def comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is kept, and a short protocol."""
    monkeypatch.setattr(comparison, "COMPARISONS", tmp_path / "kept")
    monkeypatch.setattr(comparison, "protocol_of", lambda experiment: QUICK)
    return tmp_path / "kept"


def record(
    method: str = "promp", seed: int = 1, last: float = -12.0, experiment: str = CELL.experiment
) -> comparison.Record:
    """A measured run whose adaptations all go from -40 to ``last``."""
    config = Cell(experiment, method, seed).config(EXPERIMENTS[experiment].steps)
    return {
        "method": method,
        "config": config.model_dump(mode="json"),
        "about": {
            "seed": seed, "agent": METHODS[method].preset, "iteration": config.iterations,
            "trained_inner_steps": 1, "diverged": 0, "left_out": 0, "env_steps": 3_200_000,
            "wall_s": 30.0,
        },
        "training": [[40_000, -38.0]] if seed == 1 else [],
        "adaptations": [{"finite": True, "returns": [-40.0, last], "kl": [0.25]}] * 40,
    }  # fmt: skip


def compared(*records: comparison.Record, experiment: str = CELL.experiment) -> dict[str, Any]:
    """A summary as it is kept."""
    about = {"date": "2026-01-02 03:04 UTC", "machine": {"cpu": "a processor", "cores": 2}}
    return about | comparison.document(experiment, comparison.summarise(experiment, records))


@pytest.mark.usefixtures("comparisons")
def test_the_results_page_has_curves_commands_and_what_others_published() -> None:
    text = comparison.page([compared(record(seed=1), record(seed=2))])
    assert "## point-navigation\n\npoint-navigation-v1: 40 held-out tasks, 2 episodes each" in text
    assert "| promp | -40.0 | -12.0 |" in text
    assert "| promp | 0.25 | - | - |" in text
    assert (
        "- promp: `python benchmarks/learning.py --experiments point-navigation --methods promp "
        "--seeds 1 2`"
    ) in text
    assert "Published: MAML (Finn et al., ICML 2017)" in text
    assert "comparison/point-navigation/comparison.png" in text


@pytest.mark.usefixtures("comparisons")
def test_a_variant_is_shown_by_its_name() -> None:
    ablation = "point-navigation-ablation"
    records = [record(method, experiment=ablation) for method in ("warpgrad-online", "warpgrad")]
    text = comparison.page([compared(*records, experiment=ablation)])
    assert "| warpgrad-online | -40.0 | -12.0 |" in text
    assert "--methods warpgrad-online --seeds 1`" in text


@pytest.mark.usefixtures("comparisons")
def test_ablations_stand_in_one_table_of_all_families_where_they_were_tried() -> None:
    point, cheetah = "point-navigation-ablation", "half-cheetah-dir-ablation"
    online = "warpgrad-online"
    text = comparison.page([
        compared(record("warpgrad", experiment=point), record(online, experiment=point),
                 record(online, 2, experiment=point), experiment=point),
        compared(record("warpgrad", last=-10.0, experiment=cheetah), experiment=cheetah),
    ])  # fmt: skip
    table = text.split("## Ablations of warpgrad")[1].split("##")[0].splitlines()
    areas = "-26.0 [-26.0, -26.0]"
    assert f"| changed | {point} | {cheetah} |" in table
    assert f"| nothing | {areas}, 1 | -25.0 [-25.0, -25.0], 1 |" in table
    assert f"| `learner.schedule=online` | {areas}, 2 | - |" in table


def test_runs_measured_before_stay_beside_those_measured_now(comparisons: Path) -> None:
    def measured(*now: comparison.Record) -> dict[str, Any]:
        records = comparison.joined(comparison.stored(CELL.experiment), now)
        comparison.write(CELL.experiment, records)
        assert comparison.stored(CELL.experiment) == records
        (found,) = comparison.kept()
        return {
            group["group"]: {run["seed"]: run["mean"] for run in group["runs"]}
            for group in found["groups"]
        }

    assert measured(record(seed=1), record(seed=2)) == {"promp": {1: -12.0, 2: -12.0}}
    assert measured(record(seed=2, last=-9.0), record("maml")) == {
        "promp": {1: -12.0, 2: -9.0},
        "maml": {1: -12.0},
    }
    with (comparisons / CELL.experiment / "curve.csv").open(encoding="utf-8") as file:
        rows = {(row["group"], row["inner_step"]): row["mean"] for row in csv.DictReader(file)}
    assert float(rows["promp", "1"]) == -10.5
    assert (comparisons / CELL.experiment / "comparison.png").stat().st_size > 1000


def retuned(run: comparison.Record) -> None:
    run["config"]["learner"]["lr"] = 0.5


def trained_shorter(run: comparison.Record) -> None:
    run["about"]["iteration"] -= 1


def given_up(run: comparison.Record) -> None:
    run |= record("warpgrad-online", seed=2)  # of the ablation, and not of this experiment


@pytest.mark.parametrize("change", [retuned, trained_shorter, given_up])
def test_a_run_that_would_be_trained_otherwise_today_does_not_stay(
    comparisons: Path, change: Callable[[comparison.Record], None]
) -> None:
    comparison.write(CELL.experiment, [record(seed=1), record(seed=2)])
    path = comparisons / CELL.experiment / "runs.jsonl"
    first, second = map(json.loads, path.read_text().splitlines())
    change(second)
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    assert [run["about"]["seed"] for run in comparison.stored(CELL.experiment)] == [1]


def test_rows_kept_without_their_runs_are_not_lost_without_a_word(
    comparisons: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.write(CELL.experiment, [record()])
    (comparisons / CELL.experiment / "runs.jsonl").unlink()
    assert comparison.stored(CELL.experiment) == []
    assert "rows are kept without their runs" in capsys.readouterr().err


@pytest.mark.usefixtures("comparisons")
def test_no_run_of_another_protocol_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison.write(CELL.experiment, [record()])
    longer = replace(QUICK, episodes=3)
    monkeypatch.setattr(comparison, "protocol_of", lambda experiment: longer)
    assert comparison.stored(CELL.experiment) == []


@pytest.mark.usefixtures("comparisons")
def test_a_run_is_measured_as_compare_does_and_kept_without_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    settings = CELL.settings
    fabricate(folder, CELL.family, *settings, "adaptation.steps=1", iterations=(3,))
    found = comparison.measure(folder, CELL)
    assert str(tmp_path) not in json.dumps(found)
    (group,) = compared(found)["groups"]
    quick = ["--steps", "1", "--episodes", "2", "--out", str(tmp_path / "out"), "--json"]
    assert main(["compare", str(folder), *quick]) == 0
    (expected,) = json.loads(capsys.readouterr().out)["groups"]
    assert expected["runs"][0]["reused"]
    for name in ("area", "gain"):
        assert group[name] == pytest.approx(expected[name], rel=1e-4)
    assert group["steps"] == [pytest.approx(step, rel=1e-4) for step in expected["steps"]]


@pytest.mark.usefixtures("comparisons")
def test_the_overview_says_whether_a_warped_method_is_ahead_of_both_plain_ones() -> None:
    def of(areas: dict[str, float]) -> str:
        document = compared(record())
        (promp,) = document["groups"]
        document["groups"] = [
            promp
            | {"group": name, "area": promp["area"] | {"mean": a, "low": a - 1, "high": a + 1}}
            for name, a in areas.items()
        ]
        return comparison.overview([document])

    ahead = of({"warpgrad": -10.0, "warp-promp": -13.0, "promp": -12.5, "maml": -15.0})
    assert (
        "| -13.0 [-14.0, -12.0] | -12.5 [-13.5, -11.5] | -15.0 [-16.0, -14.0] | warpgrad |" in ahead
    )
    assert "| no |" in of({"warpgrad": -10.0, "promp": -11.5, "maml": -15.0})
    assert "| no |" in of({"warpgrad": -10.0, "promp": -12.5, "maml": -8.0})


def test_only_runs_that_are_finished_and_of_today_s_settings_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished, begun, other, longer, _ = (
        write_run(tmp_path, CELL._replace(seed=n), []) for n in (1, 2, 3, 4, 5)
    )
    whole = CELL.config(EXPERIMENTS[CELL.experiment].steps).iterations
    for folder, iteration in ((finished, whole), (begun, whole - 1), (other, whole)):
        save(folder, iteration)
    save(longer, whole + 1)
    path = other / "config.yaml"
    path.write_text(path.read_text().replace("init_lr: 0.001", "init_lr: 0.5"))
    assert comparison.finished(CELL.experiment, tmp_path) == {finished: CELL}
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in told] == [f.name for f in (begun, other, longer)]


def test_the_page_is_the_one_of_the_kept_results() -> None:
    assert comparison.PAGE.read_text(encoding="utf-8") == comparison.page(comparison.kept())
