"""What the benchmarks compute from their measurements; nothing here is timed."""

from __future__ import annotations

import csv
import json
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import comparison
import learning
import numpy as np
import pytest
import ray
import scaling
import throughput
import torch
import yaml
from helpers_launch import fabricate
from throughput import Sample

from warprl.envs import make_family
from warprl.launch.cli import main
from warprl.launch.cluster.connection import connect
from warprl.launch.errors import RunFailedError
from warprl.launch.runs import config as configuration
from warprl.launch.training.cells import Cell
from warprl.types import Params

POINT, CHEETAH = "point-navigation", "half-cheetah-dir"
SETTINGS = ["tasks=2", "adaptation.episodes=2", "policy.hidden=[8]"]
GRID = {
    "families": ["point-navigation-v1"],
    "agents": ["warpgrad", "promp", "maml"],
    "seeds": [1, 2],
    "env_steps": 8000,
    "settings": SETTINGS,
}
STEPS = 800  # of an iteration of promp


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for results, and a small experiment under a name that the page has."""
    monkeypatch.setattr(common, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(comparison, "STEPS", 1)
    monkeypatch.setitem(comparison.ABOUT["experiments"], POINT, 2)
    write_experiment(tmp_path)
    return tmp_path


def write_experiment(where: Path, name: str = POINT, **changes: Any) -> None:
    grid = GRID | {"folder": str(where / "runs" / name)} | changes
    (where / f"{name}.yaml").write_text(yaml.safe_dump(grid))


def planned(method: str = "promp", seed: int = 1, name: str = POINT) -> Cell:
    """One run of an experiment as it is planned."""
    (found,) = (c for c in common.planned(name) if (c.label, c.config.seed) == (method, seed))
    return found


def write_run(cell: Cell, lines: Sequence[str]) -> None:
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(configuration.dump(cell.config))
    (cell.folder / "metrics.jsonl").write_text("".join(lines))


def metrics(iteration: int, first: float | None, last: float) -> str:
    """A line of a run's log."""
    return (
        json.dumps(
            {
                "iteration": iteration,
                "env_steps": STEPS * iteration,
                "wall_s": 2.0 * iteration,
                "return_step_0": first,
                "return_step_1": last,
            }
        )
        + "\n"
    )


def history(returns: list[list[float]]) -> learning.Floats:
    """A run of ten environment steps an iteration."""
    iteration = np.arange(1, len(returns) + 1)
    return np.column_stack([iteration, 10 * iteration, 0.5 * iteration, np.array(returns)])


def sample(quantity: str, repeat: int, wall_s: float, cpu_s: float) -> Sample:
    return Sample("half-cheetah-dir-v1", quantity, repeat, 1000, wall_s, cpu_s)


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
    assert required["preset.warpgrad", "raw_all"] is None
    cheetah = throughput.summarise([replace(each, family=throughput.FAMILIES[0]) for each in ant])
    (ratio,) = (r for r in cheetah["ratios"] if r["quantity"] == "preset.warpgrad")
    assert (ratio["against"], ratio["required"]) == ("raw_all", 0.50)


# --- scaling ------------------------------------------------------------------------------------

WORK = scaling.Work(shard_s=1.0, task_s=2.0, epoch_s=0.5)
FREE = scaling.Driving(learner_s=0.0, round_s=0.0, worker_s=0.0)
DRIVING = scaling.Driving(learner_s=0.25, round_s=0.01, worker_s=0.001)


@pytest.fixture
def stand_ins() -> Iterator[list[Any]]:
    """Three of them, whose class is sent by value: workers do not find this program's modules."""
    ray.cloudpickle.register_pickle_by_value(scaling)  # type: ignore[no-untyped-call]
    connect(1)
    actors = scaling.start_stand_ins(3)
    yield actors
    for actor in actors:
        ray.kill(actor)
    ray.cloudpickle.unregister_pickle_by_value(scaling)  # type: ignore[no-untyped-call]


def test_an_iteration_lasts_as_long_as_its_largest_shard_and_its_messages() -> None:
    model = scaling.Model(tasks=20, epochs=5, work=WORK, driving=DRIVING)
    assert model.iteration_s(0) == pytest.approx(1 + 20 * 4.5 + 0.25)
    # 16 workers: four of them have two tasks. Six rounds.
    assert model.iteration_s(16) == pytest.approx(1 + 2 * 4.5 + 6 * (0.01 + 0.016) + 0.25)
    assert model.iteration_s(500) == model.iteration_s(20), "no more workers than tasks"


def test_without_what_is_not_shared_the_modelled_speed_up_is_the_number_of_workers() -> None:
    shared = scaling.Model(20, 5, WORK._replace(shard_s=0.0), FREE)
    assert [shared.speed_up(n) for n in (1, 2, 4, 5, 20)] == pytest.approx([1, 2, 4, 5, 20])
    driven = shared._replace(driving=DRIVING)
    assert all(driven.speed_up(n) < shared.speed_up(n) for n in (1, 2, 20))


def test_the_line_through_the_driver_s_times_is_not_bent_by_the_longest_of_them() -> None:
    workers = [1, 2, 4, 64]
    assert scaling.line(workers, [3 + 2 * n for n in workers]) == pytest.approx((3, 2))
    offset, _ = scaling.line(workers, [5, 7, 11, 200])  # and not 131
    assert offset == pytest.approx(3, abs=1.5)
    assert abs(np.polyfit(workers, [5, 7, 11, 200], 1)[1] - 3) > 2


def test_a_bar_is_named_only_where_it_was_measured() -> None:
    document = json.loads((common.RESULTS / "scaling.json").read_text(encoding="utf-8"))
    found = scaling.bars(document)
    assert {name: bar["at_most"] for name, bar in found.items()} == {
        "ms_per_worker_round": 2.0,
        "driver_share": 0.05,
        "kib_from_worker": 1024.0,
    }
    few = [row for row in document["driver"] if row["workers"] < 32]
    assert set(scaling.bars({**document, "driver": few})) == {"driver_share", "kib_from_worker"}


def test_the_page_on_scaling_has_the_tables_of_the_stored_results(tmp_path: Path) -> None:
    document = json.loads((common.RESULTS / "scaling.json").read_text(encoding="utf-8"))
    settings = scaling.FULL.settings
    assert scaling.rounded(scaling.modelled(document, settings)) == document["modelled"]
    assert scaling.bars(document) == document["bars"]
    page = (common.RESULTS.parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert all(table in page for table in scaling.tables(document))
    scaling.draw(tmp_path / "scaling.png", scaling.models(document, settings))
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_a_stand_in_answers_for_the_largest_subtrees_of_its_shard() -> None:
    recorded = scaling.record()
    answers = scaling.answers_of(recorded, (3, 6), 20)
    facts, sums = answers["AskFacts"].content, answers["AskGradient"].content
    assert (facts.returns.shape, facts.finite.tolist()) == ((3, 4), [True] * 3)
    assert list(sums) == [(3, 5), (5, 6)]
    # Each is as large as it would be by itself.
    one = scaling.answers_of(recorded, (5, 6), 20)
    sizes = [len(pickle.dumps(each["AskGradient"], 5)) for each in (answers, one)]
    assert sizes[0] > 1.9 * sizes[1]


@pytest.mark.ray
def test_the_driver_takes_the_steps_of_a_run_with_stand_ins_that_do_not_load_torch(
    stand_ins: list[Any],
) -> None:
    recorded = scaling.record()
    found = scaling.measure_driver(stand_ins, recorded, repeats=1)
    assert (found.workers, found.tasks, found.rounds) == (3, 20, 1 + 5)
    assert found.cpu_s > 0
    # Five times the sums of theta_0 and phi: of two subtrees, and of three at most.
    sums = 5 * sum(x.nbytes for arrays, *_ in recorded.sums for x in arrays.values()) / 1024
    assert 2 * sums < found.kib_mean < 3 * sums < found.kib_from_worker < 3.1 * sums
    loaded = [actor.__ray_call__.remote(lambda _: "torch" in sys.modules) for actor in stand_ins]
    assert ray.get(loaded) == [False] * 3


# --- experiments --------------------------------------------------------------------------------


def test_the_page_has_every_experiment() -> None:
    files = {path.stem for path in common.EXPERIMENTS.glob("*.yaml")}
    assert files == set(comparison.ABOUT["experiments"])


@pytest.mark.parametrize("name", comparison.ABOUT["experiments"])
def test_methods_are_compared_at_equal_environment_steps_and_meta_batches(name: str) -> None:
    grid, cells = common.grid(name), common.planned(name)
    assert grid.env_steps is not None
    assert (
        len({(c.config.family, c.config.tasks, c.config.adaptation.episodes) for c in cells}) == 1
    )
    for cell in cells:
        iteration = configuration.steps_per_iteration(cell.config)
        taken = cell.config.iterations * iteration
        if cell.label == "random":
            assert taken == iteration, "it learns nothing, however long it is trained"
        else:
            assert grid.env_steps <= taken < grid.env_steps + iteration


@pytest.mark.parametrize("name", [f"{POINT}-ablation", f"{CHEETAH}-ablation"])
def test_every_variant_of_an_ablation_changes_what_its_name_says_alone(name: str) -> None:
    base = planned("warpgrad", name=name).config
    for label, variant in common.grid(name).members:
        changed = configuration.differences(planned(label, name=name).config, base)
        assert changed == [setting.partition("=")[0] for setting in variant.settings]


def test_no_two_experiments_share_a_run() -> None:
    names = comparison.ABOUT["experiments"]
    folders = [cell.folder for name in names for cell in common.planned(name)]
    assert len(folders) == len(set(folders))


# --- learning -----------------------------------------------------------------------------------


def test_t_interval_by_hand() -> None:
    # sd = 1, t(0.975, 2) = 4.30265: 2 +- 4.30265 / sqrt(3)
    found = learning.t_interval([1.0, 2.0, 3.0])
    assert found["low"] == pytest.approx(2.0 - 2.48414, abs=1e-3)
    assert found["high"] == pytest.approx(2.0 + 2.48414, abs=1e-3)
    assert learning.t_interval([5.0]) == {"mean": 5.0, "low": None, "high": None, "n": 1}


def test_a_threshold_is_reached_by_the_running_mean_not_by_one_lucky_iteration() -> None:
    steps = np.arange(10.0, 110.0, 10.0)
    curve = np.array([0.0, 0, 9, 0, 0, 2, 2, 2, 2, 2])
    assert learning.first_reach(steps, curve, 2.0) == 60  # the mean of 0 9 0 0 2
    assert learning.first_reach(steps, curve, 3.0) is None
    assert learning.first_reach(steps[:3], curve[:3], 0.0) is None


def test_seeds_are_compared_at_the_steps_that_all_of_them_have_reached() -> None:
    ahead = history([[0.0, float(i)] for i in range(20)])
    behind = history([[0.0, float(i)] for i in range(10)])
    summary = learning.summarise({1: ahead, 2: behind}, 200, (7.0, 100.0))
    assert summary["env_steps_reached"] == [200, 100]
    assert summary["complete"] is False
    assert summary["at_env_steps"] == 100
    # Iterations 6 to 10 of both: returns 5 .. 9.
    assert summary["returns"][1] == {"mean": 7.0, "low": 7.0, "high": 7.0, "n": 2}
    assert summary["gain"]["mean"] == 7.0
    assert summary["thresholds"]["7"] == {
        "env_steps_of_seeds": [100, 100],
        "env_steps_of_mean": 100,
    }
    assert summary["thresholds"]["100"]["env_steps_of_mean"] is None


def test_methods_are_ranked_at_common_steps() -> None:
    fast = {1: history([[0.0, 2.0 * i] for i in range(10)])}
    long = {1: history([[0.0, 1.0 * i] for i in range(50)])}
    ranking = learning.best_first({"long": long, "fast": fast})
    assert ranking["at_env_steps"] == 100
    assert [row["method"] for row in ranking["best_first"]] == ["fast", "long"]


def test_a_thinned_run_keeps_its_ends() -> None:
    rows = learning.thinned(history([[0.0, float(i)] for i in range(1000)]))
    assert len(rows) == common.POINTS
    assert (rows[0]["iteration"], rows[-1]["iteration"]) == (1, 1000)


def test_a_report_takes_what_there_is_and_says_what_is_missing(experiments: Path) -> None:
    lines = [metrics(i, -40.0, -20.0) for i in range(1, 8)]
    write_run(planned(seed=1), [*lines, '{"iteration": 8, "env_'])
    write_run(planned(seed=2), lines[:6])
    write_run(planned("maml"), [])
    table = learning.report([POINT], ["promp", "maml"])
    steps, values = "4,800 of 8,000", ("-40.0 [-40.0, -40.0]", "-20.0 [-20.0, -20.0]")
    assert "  ".join([POINT, "promp", "2", steps, *values]) in re.sub("  +", "  ", table)
    results = experiments / "results"
    document = json.loads((results / "learning_summary.json").read_text(encoding="utf-8"))
    found = document["experiments"][POINT]
    assert found["seeds_planned"] == [1, 2]
    assert found["train"] == f"warprl sweep benchmarks/experiments/{POINT}.yaml"
    (summary,) = found["methods"].values()
    assert summary["seeds"] == [1, 2]
    assert summary["env_steps_reached"] == [7 * STEPS, 6 * STEPS]
    assert summary["complete"] is False
    with (results / "learning.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert rows[7] == {
        "experiment": POINT,
        "method": "promp",
        "seed": "2",
        "iteration": "1",
        "env_steps": "800",
        "wall_s": "2.0",
        "return_step_0": "-40.0",
        "return_step_1": "-20.0",
    }
    assert (results / "learning.png").stat().st_size > 1000
    assert str(experiments) not in json.dumps(document)


def test_a_report_of_nothing_is_refused(experiments: Path) -> None:
    with pytest.raises(RunFailedError, match="no run of point-navigation has finished"):
        learning.report([POINT], ["promp"])
    assert not (experiments / "results").exists()


@pytest.mark.usefixtures("experiments")
def test_an_iteration_that_lost_every_task_has_no_return_to_report() -> None:
    lines = [metrics(1, -40.0, -20.0), metrics(2, None, -1.0), metrics(3, -40.0, -10.0)]
    write_run(planned(), lines)
    found = learning.read(planned())
    assert found[:, 0].tolist() == [1, 3]
    assert found[:, 3:].tolist() == [[-40.0, -20.0], [-40.0, -10.0]]


# --- comparison: the results page -----------------------------------------------------------------


def record(
    method: str = "promp", seed: int = 1, last: float = -12.0, name: str = POINT
) -> comparison.Record:
    """A measured run whose adaptations all go from -40 to ``last``."""
    config, rows = planned(method, seed, name).config, len(comparison.protocol_of(name).rows)
    about = {
        "seed": seed,
        "agent": config.agent,
        "iteration": config.iterations,
        "trained_inner_steps": 1,
        "diverged": 0,
        "left_out": 0,
        "env_steps": 3_200_000,
        "wall_s": 30.0,
    }
    return {
        "method": method,
        "config": configuration.plain(config),
        "about": about,
        "training": [[40_000, -38.0]] if seed == 1 else [],
        "adaptations": [{"finite": True, "returns": [-40.0, last], "kl": [0.25]}] * rows,
    }


def keep(*now: comparison.Record, name: str = POINT) -> comparison.Document:
    """What is kept after these runs have been measured."""
    comparison.keep(name, now, common.planned(name))
    found = comparison.kept(name)
    assert found is not None
    return found


@pytest.mark.usefixtures("experiments")
def test_the_results_page_has_curves_commands_and_what_others_published() -> None:
    text = comparison.page([keep(record(seed=1), record(seed=2), record("maml"))])
    assert f"## {POINT}\n\npoint-navigation-v1: 40 held-out tasks, 2 episodes each" in text
    assert "| promp | -40.0 | -12.0 |" in text
    assert "| promp | 0.25 | - | - |" in text
    assert (
        f"Trained by `warprl sweep benchmarks/experiments/{POINT}.yaml`; only seeds 1 of `maml`."
    ) in text
    assert "Published: MAML (Finn et al., ICML 2017)" in text
    assert f"benchmarks/results/{POINT}.png" in text


@pytest.mark.usefixtures("experiments")
def test_what_is_kept_says_how_it_came_about_and_is_the_same_bytes_again() -> None:
    document = keep(record(seed=1))
    path = common.RESULTS / f"{POINT}.json.xz"
    assert {"command", "date", "versions", "machine"} <= set(document)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", document["commit"])
    (run,) = document["runs"]
    assert run["measured"] == {"date": document["date"], "commit": document["commit"]}
    before = path.read_bytes()
    common.write_json(path, document)
    assert path.read_bytes() == before


def test_ablations_stand_in_one_table_of_all_families_where_they_were_tried(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, cheetah = f"{POINT}-ablation", f"{CHEETAH}-ablation"
    online = {"online": {"agent": "warpgrad", "settings": ["outer.epochs=1"]}}
    for name, family in ((point, "point-navigation-v1"), (cheetah, "half-cheetah-dir-v1")):
        monkeypatch.setitem(comparison.ABOUT["experiments"], name, 2)
        changes = {"families": [family], "agents": ["warpgrad"], "variants": online}
        write_experiment(experiments, name, **changes)
    text = comparison.page(
        [
            keep(
                record("warpgrad", name=point),
                record("online", name=point),
                record("online", 2, name=point),
                name=point,
            ),
            keep(record("warpgrad", last=-10.0, name=cheetah), name=cheetah),
            keep(record()),
        ]
    )
    table = text.split("## Ablations of warpgrad")[1].split("##")[0].splitlines()
    areas = "-26.0 [-26.0, -26.0]"
    assert f"| changed | {point} | {cheetah} |" in table
    assert f"| nothing | {areas}, 1 | -25.0 [-25.0, -25.0], 1 |" in table
    assert f"| `outer.epochs=1` | {areas}, 2 | - |" in table
    assert "| online | -40.0 | -12.0 |" in text


def test_runs_measured_before_stay_beside_those_measured_now(experiments: Path) -> None:
    def measured(*now: comparison.Record) -> dict[str, Any]:
        return {
            group["group"]: {run["seed"]: run["mean"] for run in group["runs"]}
            for group in keep(*now)["groups"]
        }

    assert measured(record(seed=1), record(seed=2)) == {"promp": {1: -12.0, 2: -12.0}}
    assert measured(record(seed=2, last=-9.0), record("maml")) == {
        "promp": {1: -12.0, 2: -9.0},
        "maml": {1: -12.0},
    }
    comparison.unpack(experiments / "plain", [keep()])
    with (experiments / "plain" / POINT / "curve.csv").open(encoding="utf-8") as file:
        rows = {(row["group"], row["inner_step"]): row["mean"] for row in csv.DictReader(file)}
    assert float(rows["promp", "1"]) == -10.5
    assert json.loads((experiments / "plain" / POINT / "results.json").read_text()) == keep()
    comparison.draw(keep())
    assert (common.RESULTS / f"{POINT}.png").stat().st_size > 1000


def retuned(run: comparison.Record) -> None:
    run["config"]["adaptation"]["gamma"] = 0.5


def trained_shorter(run: comparison.Record) -> None:
    run["about"]["iteration"] -= 1


def given_up(run: comparison.Record) -> None:
    run["method"] = "anil"  # of no cell of this experiment


@pytest.mark.usefixtures("experiments")
@pytest.mark.parametrize("change", [retuned, trained_shorter, given_up])
def test_a_run_that_would_be_trained_otherwise_today_does_not_stay(
    change: Callable[[comparison.Record], None], capsys: pytest.CaptureFixture[str]
) -> None:
    document = keep(record(seed=1), record(seed=2))
    change(document["runs"][1])
    common.write_json(common.RESULTS / f"{POINT}.json.xz", document)
    assert [run["about"]["seed"] for run in keep()["runs"]] == [1]
    method = document["runs"][1]["method"]
    assert f"('{method}', 2) is left out: unfinished, or other" in capsys.readouterr().err


@pytest.mark.usefixtures("experiments")
def test_rows_kept_without_their_runs_are_not_lost_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = {**keep(record()), "runs": []}
    common.write_json(common.RESULTS / f"{POINT}.json.xz", document)
    assert [group["group"] for group in keep(record("maml"))["groups"]] == ["maml"]
    assert "the stored results hold no single runs" in capsys.readouterr().err


@pytest.mark.usefixtures("experiments")
def test_no_run_of_another_protocol_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(record())
    monkeypatch.setitem(comparison.ABOUT["experiments"], POINT, 3)
    assert [run["method"] for run in keep(record("maml"))["runs"]] == ["maml"]
    assert "all stored runs are left out: another protocol" in capsys.readouterr().err


def test_a_run_is_measured_as_compare_does_and_kept_without_its_folder(
    experiments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = planned("warpgrad")
    cell.folder.parent.mkdir(parents=True)
    settings = [*SETTINGS, "adaptation.steps=3", "seed=1"]
    fabricate(cell.folder, "point-navigation-v1", *settings, iterations=(3,))
    found = comparison.measure(cell, POINT)
    assert str(experiments) not in json.dumps(found)
    (group,) = comparison.summarise(POINT, [found], common.planned(POINT))["groups"]
    quick = ["--steps", "1", "--episodes", "2", "--out", str(experiments / "out"), "--json"]
    assert main(["compare", str(cell.folder), *quick]) == 0
    (expected,) = json.loads(capsys.readouterr().out)["groups"]
    assert expected["runs"][0]["reused"]
    for name in ("area", "gain"):
        assert group[name] == pytest.approx(expected[name], rel=1e-3)
    assert group["steps"] == [pytest.approx(step, rel=1e-3) for step in expected["steps"]]


@pytest.mark.usefixtures("experiments")
def test_the_overview_says_whether_a_warped_method_is_ahead_of_both_plain_ones() -> None:
    (promp,) = keep(record())["groups"]

    def of(areas: dict[str, float]) -> str:
        groups = [
            promp
            | {"group": name, "area": promp["area"] | {"mean": a, "low": a - 1, "high": a + 1}}
            for name, a in areas.items()
        ]
        return comparison.overview([{"experiment": POINT, "groups": groups}])

    ahead = of({"warpgrad": -10.0, "warp-promp": -13.0, "promp": -12.5, "maml": -15.0})
    assert (
        "| -13.0 [-14.0, -12.0] | -12.5 [-13.5, -11.5] | -15.0 [-16.0, -14.0] | warpgrad |" in ahead
    )
    assert "| no |" in of({"warpgrad": -10.0, "promp": -11.5, "maml": -15.0})
    assert "| no |" in of({"warpgrad": -10.0, "promp": -12.5, "maml": -8.0})


def test_only_runs_that_are_trained_to_their_end_are_compared(
    experiments: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: a pool's would not see the small experiment."""
    monkeypatch.setattr(comparison, "ProcessPoolExecutor", InThisProcess)
    write_experiment(
        experiments, agents=["warpgrad"], seeds=[1, 2, 3, 4], iterations=2, env_steps=None
    )
    for seed, iteration in ((1, 2), (2, 1), (3, 3)):
        cell = planned("warpgrad", seed)
        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        settings = [*SETTINGS, "adaptation.steps=3", f"seed={seed}", "iterations=2"]
        fabricate(cell.folder, "point-navigation-v1", *settings, iterations=(iteration,))
    comparison.update(POINT, jobs=2)
    document = comparison.kept(POINT)
    assert document is not None
    assert [run["about"]["seed"] for run in document["runs"]] == [1]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"comparison: point-navigation-v1-warpgrad-s{seed} is left out: at iteration {done} of 2"
        for seed, done in ((2, 1), (3, 3))
    ]


class InThisProcess:
    """Stands for a pool of processes."""

    def __init__(self, jobs: int, mp_context: object) -> None:
        pass

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)


def test_the_page_is_the_one_of_the_kept_results() -> None:
    documents = [comparison.kept(name) for name in comparison.ABOUT["experiments"]]
    page = comparison.page([document for document in documents if document])
    assert comparison.PAGE.read_text(encoding="utf-8") == page
