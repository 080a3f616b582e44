"""What the benchmarks make of their measurements; nothing here is timed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import comparison
import learning
import numpy as np
import pytest
import throughput
import torch
from experiments import EXPERIMENTS, METHODS, Cell
from learning import History
from throughput import Sample

from warprl.envs import make_family
from warprl.launch import config as configuration
from warprl.launch.errors import UserError
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
        configs = [Cell(name, method, 1).config(about.steps) for method in about.methods]
        assert len({(c.family, c.tasks, c.adaptation.episodes) for c in configs}) == 1
        for config in configs:
            taken = config.iterations * configuration.steps_per_iteration(config)
            assert about.steps <= taken < about.steps + configuration.steps_per_iteration(config)


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


def compared() -> dict[str, Any]:
    """What a comparison of one preset writes, reduced to what the page reads."""
    points = [
        {"mean": mean, "stderr": 1.0, "low": mean - 2.0, "high": mean + 2.0, "iqm": mean, "n": 80}
        for mean in (-40.0, -12.0)
    ]
    run = {"env_steps": 3_200_000, "wall_s": 30.0, "mean": -12.0, "diverged": 0, "left_out": 0}
    group = {
        "group": "promp", "agent": "promp", "iteration": 80, "trained_inner_steps": 1, "seeds": 2,
        "interval_over": "seeds and tasks", "adaptations": 80, "curve": points,
        "area": points[0] | {"mean": -26.0}, "gain": points[1], "worse": 0.0,
        "env_steps": 3_200_000.0, "wall_s": 30.0,
        "runs": [
            {"run": "/somewhere/a", "evaluation": "/somewhere/a/evaluation/1", "reused": False,
             "seed": seed, **run}
            for seed in (1, 2)
        ],
    }  # fmt: skip
    return {
        "family": "point-navigation-v1", "tasks": 40, "repeats": 1, "inner_steps": 1,
        "episodes": 20, "seed": 0, "folder": "/somewhere/else", "groups": [group],
        "date": "2026-01-02 03:04 UTC", "machine": {"cpu": "a processor", "cores": 2},
    }  # fmt: skip


def kept(document: dict[str, Any] | None = None, method: str = "promp") -> dict[str, Any]:
    cell = CELL._replace(method=method)
    return comparison.portable(
        document or compared(), cell.experiment, {Path("/somewhere/a"): cell}
    )


def test_the_results_page_has_curves_commands_and_what_others_published() -> None:
    text = comparison.page([kept()])
    assert "## point-navigation\n\npoint-navigation-v1: 40 held-out tasks, 20 episodes each" in text
    assert "| promp | -40.0 | -12.0 |" in text
    assert (
        "- promp: `python benchmarks/learning.py --experiments point-navigation --methods promp "
        "--seeds 1 2`"
    ) in text
    assert "Published: MAML (Finn et al., ICML 2017)" in text
    assert "comparison/point-navigation/comparison.png" in text


def test_a_kept_comparison_names_no_folder() -> None:
    document = kept()
    assert "somewhere" not in json.dumps(document)
    assert [run["seed"] for run in document["groups"][0]["runs"]] == [1, 2]


def test_a_variant_is_shown_by_its_name() -> None:
    document = compared()
    document["groups"][0] |= {"group": "warpgrad learner.schedule=online", "agent": "warpgrad"}
    assert "| warpgrad-online | -40.0 | -12.0 |" in comparison.page(
        [kept(document, "warpgrad-online")]
    )


def test_the_overview_says_whether_a_warped_method_is_ahead_of_both_plain_ones() -> None:
    def of(areas: dict[str, float]) -> str:
        document = kept()
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


def test_only_finished_runs_are_compared(tmp_path: Path) -> None:
    finished, begun, _ = (write_run(tmp_path, CELL._replace(seed=n), []) for n in (1, 2, 3))
    whole = CELL.config(EXPERIMENTS[CELL.experiment].steps).iterations
    save(finished, whole)
    save(begun, whole - 1)
    assert comparison.finished(CELL.experiment, tmp_path) == {finished: CELL}


def test_the_page_is_the_one_of_the_kept_results() -> None:
    assert comparison.PAGE.read_text(encoding="utf-8") == comparison.page(comparison.kept())
