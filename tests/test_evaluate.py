"""Adaptation curves: what is measured, over what, and what is written."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_launch import fabricate

from warprl.agents.diagnostics import diagnose
from warprl.agents.inner import Shard, adapt
from warprl.launch.cli import main
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.evaluate import ADAPTATIONS
from warprl.launch.runs import stored
from warprl.types import Trajectory

POINT, CHEETAH = "point-navigation-v1", "half-cheetah-dir-v1"


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["evaluate", *arguments, "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(["evaluate", *arguments])
    output = capsys.readouterr()
    assert (status, output.out, output.err.count("\n")) == (2, "", 1)
    return output.err


def adapted(run: stored.StoredRun, steps: int, episodes: int, seed: int) -> Trajectory:
    """Plain adaptation to all held-out tasks at once."""
    tasks = run.family.held_out_tasks()
    env = run.family.make_batch(len(tasks) * episodes)
    config = replace(run.config.adaptation, steps=steps, episodes=episodes)
    shard = Shard(tasks, range(len(tasks)), seed, 0)
    return adapt(env, run.policy, run.theta, run.phi, shard, config)[0]


def test_a_curve_is_the_mean_over_held_out_tasks_of_plain_adaptation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also: adapting some tasks at a time changes nothing."""
    fabricate(tmp_path / "a", POINT)
    summary = evaluate(capsys, "a", "--steps", "2", "--episodes", "3", "--seed", "5")
    run = stored.open_run(tmp_path / "a", None)
    tasks = run.family.held_out_tasks()
    trajectory = adapted(run, steps=2, episodes=3, seed=5)
    returns = trajectory.returns.double().numpy()
    (curve,) = summary["curves"]
    assert [point["mean"] for point in curve["curve"]] == pytest.approx(returns.mean(axis=0))
    assert [row["returns"] for row in curve["adaptations"]] == returns.tolist()
    assert summary["adaptations"] == summary["tasks"] == len(tasks)
    gain = returns[:, 2] - returns[:, 0]
    assert curve["gain"]["mean"] == pytest.approx(gain.mean())
    assert curve["gain"]["stderr"] == pytest.approx(gain.std(ddof=1) / len(tasks) ** 0.5)
    assert curve["gain"]["low"] < gain.mean() < curve["gain"]["high"]


def test_area_and_share_that_got_worse_are_those_of_every_adaptation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    (curve,) = evaluate(capsys, "a", "--steps", "2")["curves"]
    rows = curve["adaptations"]
    areas = [sum(row["returns"]) / 3 for row in rows]
    assert [row["area"] for row in rows] == pytest.approx(areas)
    assert curve["area"]["mean"] == pytest.approx(sum(areas) / len(rows))
    assert curve["area"]["low"] < curve["area"]["mean"] < curve["area"]["high"]
    worse = [row["returns"][2] < row["returns"][0] for row in rows]
    assert [row["worse"] for row in rows] == worse
    assert 0.0 < curve["worse"] == sum(worse) / len(rows) < 1.0
    lasts = sorted(row["returns"][2] for row in rows)
    assert curve["curve"][2]["iqm"] == pytest.approx(np.mean(lasts[10:30])), "the middle 20 of 40"


def test_a_memory_s_curve_is_that_of_its_trials_and_has_no_steps_to_diagnose(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    by_memory = ("policy.memory=gru", "policy.warp=none", "adaptation.type=memory")
    fabricate(tmp_path / "a", POINT, *by_memory, "init=maml")
    summary = evaluate(capsys, "a", "--steps", "2", "--episodes", "3", "--seed", "5")
    run = stored.open_run(tmp_path / "a", None)
    trajectory = adapted(run, steps=2, episodes=3, seed=5)
    (curve,) = summary["curves"]
    assert [row["returns"] for row in curve["adaptations"]] == trajectory.returns.tolist()
    assert curve["steps"] == [{}, {}]
    with (Path(summary["folder"]) / "curve.csv").open() as file:
        assert [row["kl"] for row in csv.DictReader(file)] == ["", "", ""]


def test_curves_of_two_lines_by_hand() -> None:
    returns = np.array([[1.0, 3.0, 0.5], [2.0, -1.0, 2.0]])
    curves = Curves(returns, np.ones(2, dtype=np.bool_), {})
    assert curves.area.tolist() == [1.5, 1.0]
    assert curves.gain.tolist() == [-0.5, 0.0]
    assert curves.worse.tolist() == [True, False], "back at the start is not worse"


def test_every_step_is_diagnosed_at_the_parameters_it_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, "policy.warp=residual", warp_shift=0.3)
    (curve,) = evaluate(capsys, "a", "--steps", "2", "--episodes", "3")["curves"]
    run = stored.open_run(tmp_path / "a", None)
    trajectory = adapted(run, steps=2, episodes=3, seed=0)
    found = diagnose(run.policy, run.phi, trajectory)
    for name, values in found.items():
        measured = np.array([row[name] for row in curve["adaptations"]])
        np.testing.assert_allclose(measured, values.double().numpy(), rtol=1e-4, atol=1e-6)
        middle = np.median if name == "condition" else np.mean
        of_steps = [step[name] for step in curve["steps"]]
        assert of_steps == pytest.approx(middle(measured, axis=0).tolist())
    assert all(step["kl"] > 0.0 for step in curve["steps"])
    assert all(-1.0 < step["cosine"] < 0.999 for step in curve["steps"])
    assert all(step["condition"] > 1.001 for step in curve["steps"])


def test_a_policy_without_warps_has_no_cosine_and_no_condition(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, "policy.warp=none")
    summary = evaluate(capsys, "a", "--steps", "1")
    assert [list(step) for step in summary["curves"][0]["steps"]] == [["kl"]]
    with (Path(summary["folder"]) / "tasks.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["kl_step_1"]) > 0.0
    assert (row["cosine_step_1"], row["condition_step_1"]) == ("", "")


def test_few_tasks_are_repeated_with_different_random_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", CHEETAH)
    summary = evaluate(capsys, "a", "--steps", "1", "--episodes", "1")
    assert (summary["tasks"], summary["repeats"]) == (2, ADAPTATIONS // 2)
    (curve,) = summary["curves"]
    rows = curve["adaptations"]
    assert curve["gain"]["n"] == len(rows) == ADAPTATIONS
    for task, direction in ((0, 1.0), (1, -1.0)):
        same = [row for row in rows if row["task"] == task]
        assert all(row["parameters"] == {"direction": direction} for row in same)
        assert [row["repeat"] for row in same] == list(range(ADAPTATIONS // 2))
        assert len({row["returns"][0] for row in same}) == len(same)
    assert np.mean([row["returns"][0] for row in rows]) == pytest.approx(curve["curve"][0]["mean"])


def test_evaluation_may_adapt_longer_than_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    longer = evaluate(capsys, "a", "--steps", "4")["curves"][0]["curve"]
    assert len(longer) == 5
    default = evaluate(capsys, "a")
    assert default["trained_inner_steps"] == 1
    assert default["curves"][0]["curve"] == longer[:4], "the steps before are the same"


def test_runs_stand_beside_the_untrained_policy_and_each_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    fabricate(tmp_path / "b", POINT, shift=0.5)
    summary = evaluate(capsys, "b", "--untrained", "--against", "a", "--steps", "1")
    trained, untrained, other = summary["curves"]
    assert [c["policy"] for c in summary["curves"]] == ["trained", "untrained", str(tmp_path / "a")]
    assert untrained["curve"] == other["curve"], "run a was saved untrained, and has the same seed"
    assert trained["curve"] != other["curve"]


def test_the_files_hold_what_was_answered(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    summary = evaluate(capsys, "a", "--untrained", "--steps", "1")
    folder = Path(summary["folder"])
    assert folder.parent == tmp_path / "a" / "evaluation"
    assert json.loads((folder / "summary.json").read_text()) == summary
    with (folder / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = [point for curve in summary["curves"] for point in curve["curve"]]
    assert [float(row["mean"]) for row in rows] == [point["mean"] for point in points]
    assert [row["policy"] for row in rows] == ["trained"] * 2 + ["untrained"] * 2
    assert [row["kl"] for row in rows[::2]] == ["", ""], "no step led to the first point"
    steps = [curve["steps"][0]["kl"] for curve in summary["curves"]]
    assert [float(row["kl"]) for row in rows[1::2]] == steps
    with (folder / "tasks.csv").open() as file:
        lines = list(csv.DictReader(file))
    adaptations = [row for curve in summary["curves"] for row in curve["adaptations"]]
    assert [float(line["area"]) for line in lines] == [row["area"] for row in adaptations]
    assert [line["worse"] for line in lines] == [str(row["worse"]) for row in adaptations]
    assert [float(line["kl_step_1"]) for line in lines] == [row["kl"][0] for row in adaptations]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_people_get_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fabricate(tmp_path / "a", CHEETAH)
    assert main(["evaluate", "a", "--steps", "1", "--episodes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "return by task step 0 step 1".split()
    assert lines[1].startswith("0: direction=1 ")
    assert "all 2 tasks x 10 repeats, n = 20, 1 episode each at every step" in lines[4]
    header = "trained mean std error 95 % interval IQM KL cosine condition"
    assert lines[6].split() == header.split()
    assert lines[8].split()[-3:-1] != lines[7].split()[-3:-1], "step 0 has no step behind it"
    assert lines[9].startswith("gain of 1 step: ")
    assert re.search(r"; \d+% of the adaptations end below their start$", lines[9])
    assert lines[10].startswith("area under the curve (mean of its 2 points): ")
    assert lines[-1].startswith("written to ")


def test_an_adaptation_that_diverges_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, "adaptation.inner_lr=1e38")
    (curve,) = evaluate(capsys, "a", "--steps", "2")["curves"]
    assert curve["diverged"]
    assert [row["finite"] for row in curve["adaptations"]].count(False) == len(curve["diverged"])
    kept = [row["kl"][1] for row in curve["adaptations"] if row["finite"]]
    assert curve["steps"][1]["kl"] == (pytest.approx(np.mean(kept)) if kept else None)


def test_the_mean_cosine_is_over_the_adaptations_that_had_a_gradient(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", "point-sparse-v1", "policy.warp=gate", warp_shift=0.1)
    (curve,) = evaluate(capsys, "a", "--steps", "1", "--episodes", "2")["curves"]
    cosines = [row["cosine"][0] for row in curve["adaptations"] if row["finite"]]
    there = [cosine for cosine in cosines if cosine is not None]
    assert 0 < len(there) < len(cosines), "some tasks gave no reward, and so no gradient"
    assert curve["steps"][0]["cosine"] == pytest.approx(np.mean(there))


def test_what_cannot_be_evaluated_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    fabricate(tmp_path / "b", CHEETAH)
    assert "cannot compare: " in refused(capsys, "a", "--against", "b")
    assert "steps = 0: must be a whole number, 1 or more" in refused(capsys, "a", "--steps", "0")
    assert "episodes = 0: must be a whole number, 1" in refused(capsys, "a", "--episodes", "0")
    assert "episodes = 10001: must be 10000 or less" in refused(capsys, "a", "--episodes", "10001")
    assert "seed = -1: must be a whole number, 0 or more" in refused(capsys, "a", "--seed", "-1")
    message = refused(capsys, "a", "--checkpoint", "9")
    assert "9: it does not exist; there are checkpoints of iterations 1" in message
    assert not (tmp_path / "a" / "evaluation").exists()


def test_a_checkpoint_of_another_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    fabricate(tmp_path / "b", CHEETAH)
    fabricate(tmp_path / "c", POINT, "policy.hidden=[9]")
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "kept")
    (tmp_path / "b" / "checkpoints").rename(tmp_path / "a" / "checkpoints")
    assert f"is of family {CHEETAH}, and this run is of {POINT}" in refused(capsys, "a")
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "b" / "checkpoints")
    (tmp_path / "c" / "checkpoints").rename(tmp_path / "a" / "checkpoints")
    assert "its policy has hidden = [9], and the configuration has [8]" in refused(capsys, "a")


def test_a_checkpoint_from_before_a_key_existed_had_its_default(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, without=["rates"])
    fabricate(tmp_path / "b", POINT, "policy.rates=true", without=["rates"])
    assert main(["evaluate", "a", "--steps", "1", "--episodes", "1"]) == 0
    capsys.readouterr()
    assert "its policy has rates = False, and the configuration" in refused(capsys, "b")


def test_a_broken_checkpoint_gives_way_to_the_one_before_and_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, iterations=(1, 2))
    (tmp_path / "a" / "checkpoints" / "2" / "tensors.safetensors").write_bytes(b"")
    assert main(["evaluate", "a", "--steps", "1", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["checkpoint"] == 1
    assert "checkpoint 2 is broken (" in output.err
    assert "using 1" in output.err
