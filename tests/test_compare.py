"""Comparisons: which runs count as one, what is measured, and what is written."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_launch import fabricate

from warprl.envs import make_family
from warprl.launch.cli import main
from warprl.launch.evaluation import evaluate as evaluation
from warprl.launch.evaluation.curves import Curves
from warprl.launch.runs import config as configuration
from warprl.launch.runs import ledger, stored

POINT, CHEETAH = "point-navigation-v1", "half-cheetah-dir-v1"
QUICK = ("--steps", "2", "--episodes", "2")


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))


@pytest.fixture(autouse=True)
def _evaluations_draw_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing it takes a quarter of the time here; its test is in test_evaluate.py."""
    monkeypatch.setattr("warprl.launch.evaluation.evaluate.report.plot", lambda path, summary: None)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    return answer(capsys, "compare", *arguments, *QUICK)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(["compare", *arguments])
    output = capsys.readouterr()
    assert (status, output.out, output.err.count("\n")) == (2, "", 1)
    return output.err


def evaluations(run: Path) -> int:
    return len(list(run.glob("evaluation/*")))


def seeds(folder: Path, name: str, *numbers: int, settings: tuple[str, ...] = ()) -> list[str]:
    """Runs that differ in their seeds and, untrained, in their initial parameters."""
    for number in numbers:
        fabricate(folder / f"{name}{number}", POINT, f"seed={number}", *settings)
    return [f"{name}{number}" for number in numbers]


def log(run: Path, iterations: int, pace: float = 1.0) -> None:
    lines = [
        {"iteration": i, "env_steps": 100 * i, "wall_s": pace * i, "return_step_0": -9.0}
        | {"return_step_1": -8.0 + i}
        for i in range(1, iterations + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- what is measured ---------------------------------------------------------------------------


def test_a_group_is_measured_as_its_runs_are_evaluated_one_by_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2, 3)
    (group,) = compare(capsys, *names, "--seed", "7")["groups"]
    alone = [answer(capsys, "evaluate", name, *QUICK, "--seed", "7")["curves"][0] for name in names]
    returns = [np.array([row["returns"] for row in curve["adaptations"]]) for curve in alone]
    assert (group["seeds"], group["adaptations"]) == (3, 120)
    for k, point in enumerate(group["curve"]):
        assert point["mean"] == pytest.approx(np.mean([own[:, k].mean() for own in returns]))
        assert point["low"] < point["mean"] < point["high"]
        assert point["n"] == 120
    last = np.sort(np.concatenate([own[:, 2] for own in returns]))
    assert group["curve"][2]["iqm"] == pytest.approx(last[30:90].mean())
    assert group["area"]["mean"] == pytest.approx(np.mean(returns))
    gains = np.concatenate([own[:, 2] - own[:, 0] for own in returns])
    assert group["gain"]["mean"] == pytest.approx(gains.mean())
    assert group["worse"] == pytest.approx((gains < 0).mean())
    assert [run["mean"] for run in group["runs"]] == pytest.approx(
        [r[:, 2].mean() for r in returns]
    )


def test_what_inner_steps_do_is_told_over_all_seeds_and_only_of_what_takes_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed, moved in ((1, 0.0), (2, 0.3)):
        fabricate(tmp_path / f"gates{seed}", POINT, f"seed={seed}", warp_shift=moved)
    fabricate(tmp_path / "plain", POINT, "policy.warp=none")
    gates, plain = compare(capsys, "gates1", "gates2", "plain")["groups"]
    alone = [answer(capsys, "evaluate", f"gates{s}", *QUICK, "--seed", "0") for s in (1, 2)]
    found = [row for summary in alone for row in summary["curves"][0]["adaptations"]]
    for k, step in enumerate(gates["steps"]):
        assert step["kl"] == pytest.approx(np.mean([row["kl"][k] for row in found]))
        assert step["cosine"] == pytest.approx(np.mean([row["cosine"][k] for row in found]))
        assert step["condition"] == pytest.approx(np.median([row["condition"][k] for row in found]))
    assert [list(step) for step in plain["steps"]] == [["kl"], ["kl"]]
    remembers = ("policy.memory=gru", "policy.warp=none", "adaptation.type=memory")
    fabricate(tmp_path / "memory", POINT, *remembers, "init=maml")
    assert main(["compare", "gates1", "memory", *QUICK]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = "inner steps KL, step 1 KL, step 2 cosine, step 1 cosine, step 2 condition, step 1"
    (first,) = (i for i, line in enumerate(lines) if line[:2] == ["inner", "steps"])
    assert lines[first][:-3] == head.split()
    assert "policy.memory=none" in lines[first + 1]
    assert all(float(cell) > 0 for cell in lines[first + 1][-6:])
    assert lines[first + 2] == [], "what has a memory takes no inner steps"
    assert main(["compare", "memory", *QUICK]) == 0
    assert "cosine" not in capsys.readouterr().out


def test_a_singular_warp_counts_again_as_it_did_when_it_was_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "shut", POINT, warp_shift=-1e4)  # gates of 1 + tanh(-inf)
    conditions = []
    for _ in range(2):
        assert main(["compare", "shut", *QUICK]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        (first,) = (i for i, line in enumerate(lines) if line[:2] == ["inner", "steps"])
        conditions.append(lines[first + 1][-2:])
    assert conditions == [["inf", "inf"]] * 2


def test_the_interval_is_over_seeds_and_not_over_tasks_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two policies far apart: the draws take one of them twice as often as both."""
    fabricate(tmp_path / "near", POINT, "seed=1")
    fabricate(tmp_path / "far", POINT, "seed=2", shift=3.0)
    (group,) = compare(capsys, "near", "far")["groups"]
    means = sorted(run["mean"] for run in group["runs"])
    last = group["curve"][2]
    assert group["interval_over"] == "seeds and tasks"
    assert means[1] - means[0] > 20.0
    assert (last["low"], last["high"]) == pytest.approx(means, abs=0.2 * (means[1] - means[0]))


def test_repeats_of_few_tasks_are_resampled_within_the_task(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", CHEETAH)
    arguments = ("a", "--steps", "1", "--episodes", "1")
    summary = answer(capsys, "compare", *arguments)
    (group,) = summary["groups"]
    assert (summary["tasks"], summary["repeats"], group["adaptations"]) == (2, 10, 20)
    (curve,) = answer(capsys, "evaluate", *arguments)["curves"]
    for found, expected in zip(group["curve"], curve["curve"], strict=True):
        width = expected["high"] - expected["low"]
        assert found["low"] == pytest.approx(expected["low"], abs=0.2 * width)
        assert found["high"] == pytest.approx(expected["high"], abs=0.2 * width)


def test_one_run_will_do_and_its_one_seed_is_pointed_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1)
    (group,) = compare(capsys, "a1")["groups"]
    assert (group["seeds"], group["interval_over"]) == (1, "tasks of one seed")
    assert main(["compare", "a1", *QUICK]) == 0
    assert "warpgrad: one seed (n = 1), so the interval is over tasks alone" in (
        capsys.readouterr().out
    )


def test_what_diverged_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fabricate(tmp_path / "a", POINT, "adaptation.inner_lr=1e38")
    assert main(["compare", "a", *QUICK, "--out", str(tmp_path / "c")]) == 0
    number = json.loads((tmp_path / "c" / "summary.json").read_text())["groups"][0]["runs"][0]
    assert number["diverged"] > 0
    assert f"warpgrad: {number['diverged']} of 40 diverged\n" in capsys.readouterr().out


# --- what stands beside runs --------------------------------------------------------------------


def test_the_untrained_policies_of_a_group_adapt_as_evaluate_has_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in (1, 2):
        fabricate(tmp_path / f"a{seed}", POINT, f"seed={seed}", shift=0.3)
    summary = compare(capsys, "a1", "a2", "--with", "untrained")
    trained, untrained = summary["groups"]
    alone = [
        answer(capsys, "evaluate", name, *QUICK, "--seed", "0", "--untrained")["curves"][1]
        for name in ("a1", "a2")
    ]
    assert (untrained["group"], untrained["reference"]) == ("untrained", "untrained")
    assert "reference" not in trained
    assert (untrained["iteration"], untrained["env_steps"], untrained["wall_s"]) == (0, 0, 0)
    assert [run["seed"] for run in untrained["runs"]] == [1, 2]
    assert [run["mean"] for run in untrained["runs"]] == pytest.approx(
        [curve["curve"][2]["mean"] for curve in alone]
    )
    assert untrained["curve"] != trained["curve"]
    with (Path(summary["folder"]) / "references.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [row["returns"] for curve in alone for row in curve["adaptations"]]
    assert [[float(row[f"return_step_{k}"]) for k in range(3)] for row in rows] == expected
    assert [row["seed"] for row in rows] == ["1"] * 40 + ["2"] * 40


def test_groups_that_began_alike_share_their_untrained_policies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT)
    fabricate(tmp_path / "b", POINT, "outer.warp_lr=0.5")
    fabricate(tmp_path / "c", POINT, "policy.warp=none")
    rows = compare(capsys, "a", "b", "--with", "untrained")["groups"][2:]
    assert [row["group"] for row in rows] == ["untrained"]
    rows = compare(capsys, "a", "c", "--with", "untrained,untrained")["groups"][2:]
    assert [row["group"] for row in rows] == [
        "untrained (warpgrad policy.warp=gate)",
        "untrained (warpgrad policy.warp=none)",
    ]


# --- which runs count as one --------------------------------------------------------------------


def test_runs_that_differ_in_more_than_the_seed_are_groups_named_after_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2) + seeds(
        tmp_path, "b", 1, settings=("outer.init_lr=0.5", "policy.warp=none")
    )
    summary = compare(capsys, *names)
    assert [group["seeds"] for group in summary["groups"]] == [2, 1]
    first, second = (group["group"].split() for group in summary["groups"])
    assert first[:2] == ["warpgrad", "policy.warp=gate"]
    assert second == ["warpgrad", "policy.warp=none", "outer.init_lr=0.5"]


def test_how_a_run_was_carried_out_makes_no_group_and_how_far_it_went_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "a", POINT, "seed=1")
    fabricate(
        tmp_path / "b",
        POINT,
        "seed=2",
        "iterations=7",
        "output.checkpoint_every=2",
        "output.keep=5",
    )
    fabricate(tmp_path / "c", POINT, "seed=3", iterations=(1, 4))
    groups = compare(capsys, "a", "b", "c")["groups"]
    assert [group["group"] for group in groups] == [
        "warpgrad iterations=1",
        "warpgrad iterations=4",
    ]
    assert [[run["seed"] for run in group["runs"]] for group in groups] == [[1, 2], [3]]


def test_the_order_of_runs_changes_no_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2, 3)
    (first,) = compare(capsys, *names)["groups"]
    (second,) = compare(capsys, *reversed(names))["groups"]
    for group in (first, second):
        assert [run.pop("reused") for run in group["runs"]] == [group is second] * 3
    assert first == second


# --- evaluations that are there -----------------------------------------------------------------


def test_an_evaluation_of_the_same_protocol_is_used_again_and_the_report_is_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2)
    log(tmp_path / "a1", 1)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        assert main(["compare", *names, *QUICK, "--out", str(folder)]) == 0
    assert [evaluations(tmp_path / name) for name in names] == [1, 1]
    first, second = capsys.readouterr().out.split(f"written to {folders[0]}\n")
    assert second == f"{first}written to {folders[1]}\n"
    for name in ("comparison.csv", "comparison.md", "comparison.png", "curve.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_measuring_anew_gives_the_same_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2)
    (first,) = compare(capsys, *names)["groups"]
    for name in names:
        (tmp_path / name / "evaluation").rename(tmp_path / f"{name}-kept")
    (second,) = compare(capsys, *names)["groups"]
    for group in (first, second):
        for run in group["runs"]:
            assert not run.pop("reused")
            run.pop("evaluation")
    assert first == second


def test_what_evaluate_has_measured_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1)
    folder = answer(capsys, "evaluate", "a1", *QUICK, "--seed", "0", "--untrained")["folder"]
    (run,) = compare(capsys, "a1")["groups"][0]["runs"]
    assert (run["reused"], run["evaluation"]) == (True, folder)


def change(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    (path,) = run.glob("evaluation/*/summary.json")
    summary = json.loads(path.read_text())
    edit(summary)
    path.write_text(json.dumps(summary))


def cut_off(run: Path) -> None:
    (path,) = run.glob("evaluation/*/summary.json")
    path.write_text(path.read_text()[:100])


def not_a_mapping(run: Path) -> None:
    (path,) = run.glob("evaluation/*/summary.json")
    path.write_text("[" * 10_000)


def without_curves(run: Path) -> None:
    change(run, lambda summary: summary["curves"].clear())


def without_a_key(run: Path) -> None:
    change(run, lambda summary: summary["curves"][0].pop("diverged"))


def without_an_adaptation(run: Path) -> None:
    change(run, lambda summary: summary["curves"][0]["adaptations"].pop())


def without_a_return(run: Path) -> None:
    change(run, lambda summary: summary["curves"][0]["adaptations"][3]["returns"].pop())


def without_a_diagnostic(run: Path) -> None:
    change(run, lambda summary: summary["curves"][0]["adaptations"][3].pop("kl"))


def with_a_word_for_a_number(run: Path) -> None:
    change(run, lambda summary: summary["curves"][0]["adaptations"][3].update(returns=["x"] * 3))


def of_another_version(run: Path) -> None:
    change(run, lambda summary: summary["protocol"]["versions"].update(mujoco="2.1"))


def trained_on(run: Path) -> None:
    fabricate(run.parent / "further", POINT, "seed=1", shift=0.1, iterations=(2,))
    (run.parent / "further" / "checkpoints" / "2").rename(run / "checkpoints" / "2")


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        not_a_mapping,
        without_curves,
        without_a_key,
        without_an_adaptation,
        without_a_return,
        without_a_diagnostic,
        with_a_word_for_a_number,
        of_another_version,
        trained_on,
    ],
)
def test_an_evaluation_that_may_give_other_numbers_is_not_used(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    seeds(tmp_path, "a", 1)
    compare(capsys, "a1")
    damage(tmp_path / "a1")
    monkeypatch.setattr(ledger, "knows", lambda *parts: True)  # as if it had been written so
    (run,) = compare(capsys, "a1")["groups"][0]["runs"]
    assert not run["reused"]


def test_an_evaluation_that_was_not_made_here_is_not_believed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1)
    honest = compare(capsys, "a1")["groups"][0]["curve"]

    def forge(summary: dict[str, Any]) -> None:
        for adaptation in summary["curves"][0]["adaptations"]:
            adaptation["returns"] = [-0.1] * 3

    change(tmp_path / "a1", forge)
    (forged,) = (tmp_path / "a1" / "evaluation").iterdir()
    assert main(["compare", "a1", *QUICK, "--json"]) == 0
    output = capsys.readouterr()
    (group,) = json.loads(output.out)["groups"]
    assert (group["runs"][0]["reused"], group["curve"]) == (False, honest)
    assert output.err == (
        f"warprl: warning: {forged} was not measured on this machine: measuring anew\n"
    )

    # The new one is ours, and is used although the other one is still there.
    assert main(["compare", "a1", *QUICK, "--json"]) == 0
    output = capsys.readouterr()
    (group,) = json.loads(output.out)["groups"]
    assert (group["runs"][0]["reused"], group["curve"], output.err) == (True, honest, "")


@pytest.mark.parametrize("option", [("--steps", "1"), ("--episodes", "3"), ("--seed", "1")])
def test_an_evaluation_of_another_protocol_is_not_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: tuple[str, str]
) -> None:
    seeds(tmp_path, "a", 1)
    compare(capsys, "a1")
    (run,) = answer(capsys, "compare", "a1", *QUICK, *option)["groups"][0]["runs"]
    assert not run["reused"]


def test_an_evaluation_from_before_a_key_existed_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the configuration of the policy, or of its adaptation, has got since."""
    seeds(tmp_path, "a", 1)
    compare(capsys, "a1")
    run = stored.open_run(tmp_path / "a1", None)
    grown = dataclass_with(run.config.adaptation, "annealing", 1.0)
    later = replace(run, config=run.config.model_copy(update={"adaptation": grown}))
    protocol = evaluation.make_protocol(POINT, steps=2, episodes=2, seed=0)
    assert evaluation.recall(later, protocol) is not None
    changed = replace(grown, annealing=0.5)
    later = replace(run, config=run.config.model_copy(update={"adaptation": changed}))
    assert evaluation.recall(later, protocol) is None


def dataclass_with(config: Any, name: str, default: float) -> Any:
    """The configuration with one more field, at its default."""
    grown = make_dataclass(
        type(config).__name__,
        [(name, float, field(default=default))],
        bases=(type(config),),
        frozen=True,
    )
    return grown(**vars(config))


def test_an_evaluation_from_before_the_family_s_card_changed_is_not_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds(tmp_path, "a", 1)
    compare(capsys, "a1")
    card = make_family(POINT).definition()
    monkeypatch.setattr(
        type(make_family(POINT)), "definition", lambda self: replace(card, reward="another")
    )
    summary = compare(capsys, "a1")
    assert not summary["groups"][0]["runs"][0]["reused"]
    assert summary["family"] == POINT
    monkeypatch.setattr(
        type(make_family(POINT)),
        "definition",
        lambda self: replace(card, reward="another", differences="from others"),
    )
    reused = compare(capsys, "a1")["groups"][0]["runs"][0]["reused"]
    assert reused, "on what the card says of others, no number depends"


# --- what is written ----------------------------------------------------------------------------


def test_the_files_hold_what_was_answered(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2) + seeds(tmp_path, "b", 1, settings=("outer.warp_lr=0.5",))
    summary = compare(capsys, *names)
    folder = Path(summary["folder"])
    assert folder.parent == tmp_path / "comparisons"
    assert json.loads((folder / "summary.json").read_text()) == summary
    with (folder / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    groups = summary["groups"]
    assert [row["group"] for row in rows] == [group["group"] for group in groups]
    for row, group in zip(rows, groups, strict=True):
        assert float(row["mean"]) == group["curve"][2]["mean"]
        assert float(row["iqm"]) == group["curve"][2]["iqm"]
        assert float(row["area_low"]) == group["area"]["low"]
        assert float(row["area_iqm"]) == group["area"]["iqm"]
        assert float(row["gain_high"]) == group["gain"]["high"]
        assert (int(row["seeds"]), float(row["worse"])) == (group["seeds"], group["worse"])
        assert (row["env_steps"], row["wall_s"]) == ("", ""), "nothing was logged"
    with (folder / "curve.csv").open() as file:
        points = list(csv.DictReader(file))
    expected = [point["mean"] for group in groups for point in group["curve"]]
    assert [float(point["mean"]) for point in points] == expected
    steps = [step for group in groups for step in group["steps"]]
    for name in ("kl", "cosine", "condition"):
        told = [point[name] for point in points]
        assert told[0::3] == ["", ""], "nothing was done before the first step"
        assert [float(value) for value in told if value] == [step[name] for step in steps]
    lines = (folder / "comparison.md").read_text().splitlines()
    assert lines[0] == f"# {POINT}: 40 held-out tasks, 2 episodes each at every step"
    assert [line.count("|") for line in lines[2:6]] == [11] * 4
    assert lines[4].startswith(f"| {groups[0]['group']} | 2 | 40 | 1 | ")
    assert [line.count("|") for line in lines[7:11]] == [8] * 4
    assert lines[7].startswith("| inner steps | KL, step 1 | KL, step 2 | cosine, step 1 | ")
    assert float(lines[9].split("|")[2]) == pytest.approx(groups[0]["steps"][0]["kl"], rel=5e-3)


def test_people_get_a_table_a_line_a_group(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = seeds(tmp_path, "a", 1, 2)
    for name, pace in zip(names, (30.0, 50.0), strict=True):
        log(tmp_path / name, 1, pace)
    assert main(["compare", *names, *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = "agent seeds tasks K return after 2 IQM area worse env steps training"
    assert lines[2].split() == header.split()
    assert lines[3].split()[:4] == ["warpgrad", "2", "40", "1"]
    assert lines[3].split()[-2:] == ["100", "0:40"]
    assert lines[5].split() == "mean return after step 0 step 1 step 2".split()
    assert "warpgrad: 2 seeds; with fewer than 6, the interval is too narrow for 95 %" in lines
    assert not [line for line in lines if "one seed" in line]
    assert lines[-1].startswith("written to ")


def test_training_curves_have_a_panel_and_end_at_the_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1)

    def width(summary: dict[str, Any]) -> int:
        header = (Path(summary["folder"]) / "comparison.png").read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        (found,) = struct.unpack(">I", header[16:20])
        return int(found)

    without = compare(capsys, "a1")
    log(tmp_path / "a1", 3)
    with_panel = compare(capsys, "a1")
    assert width(with_panel) > 1.5 * width(without)
    (run,) = with_panel["groups"][0]["runs"]
    assert (run["env_steps"], run["wall_s"]) == (100, 1.0), "the checkpoint is of iteration 1"


# --- what is refused ----------------------------------------------------------------------------


def test_a_run_that_began_with_another_policy_is_no_seed_of_one_that_did_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fabricate(tmp_path / "fresh", POINT, "seed=1")
    fabricate(tmp_path / "begun", POINT, "seed=1")
    theta, _ = stored.fresh(configuration.load(tmp_path / "begun" / "config.yaml"))
    imported = stored.Imported(theta, {"file": "x.zip", "sha256": "0123456789abcdef" * 4})
    stored.save_imported(tmp_path / "begun", imported)
    arguments = ["compare", "fresh", "begun", "--steps", "1", "--episodes", "1", "--json"]
    assert main(arguments) == 0
    labels = [group["group"] for group in json.loads(capsys.readouterr().out)["groups"]]
    assert labels == ["warpgrad init-from=none", "warpgrad init-from=0123456789ab"]


def test_what_cannot_be_compared_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1, 2)
    fabricate(tmp_path / "b", CHEETAH)
    fabricate(tmp_path / "c", POINT, "seed=1", "output.checkpoint_every=5")
    (tmp_path / "file").touch()
    message = refused(capsys, "a1", "b")
    assert f"cannot compare: {tmp_path / 'a1'} is of family {POINT} and " in message
    assert "no run 'gone': known: a1, a2, b, c" in refused(capsys, "a1", "gone")
    assert "a1 have the same settings and seed 1: name one of them" in refused(capsys, "a1", "a1")
    assert "c have the same settings and seed 1: name one of them" in refused(capsys, "a1", "c")
    assert "steps = 0: must be a whole number, 1 or more" in refused(capsys, "a1", "--steps", "0")
    assert "episodes = 0: must be a whole number, 1" in refused(capsys, "a1", "--episodes", "0")
    assert "seed = -1: must be a whole number, 0 or more" in refused(capsys, "a1", "--seed", "-1")
    assert "Missing argument 'RUN" in refused(capsys)
    message = refused(capsys, "a1", "--with", "scratch,orakel")
    assert "unknown reference 'orakel': choose from untrained, scratch, finetuned" in message
    out = tmp_path / "a2"
    assert f"{out} exists: choose another folder" in refused(capsys, "a1", "--out", str(out))
    out = tmp_path / "file" / "inside"
    message = f"cannot make the folder {out}: Not a directory"
    assert message in refused(capsys, "a1", "--out", str(out))
    assert evaluations(tmp_path / "a1") == evaluations(tmp_path / "a2") == 0
    assert not (tmp_path / "comparisons").exists()


def test_a_run_that_cannot_be_written_is_refused_unless_it_is_evaluated_already(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seeds(tmp_path, "a", 1, 2)
    (tmp_path / "a2" / "evaluation").touch()
    assert "evaluation: it is not a folder" in refused(capsys, "a1", "a2")
    assert evaluations(tmp_path / "a1") == 0
    assert not (tmp_path / "comparisons").exists()


def test_a_damaged_log_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seeds(tmp_path, "a", 1)
    (tmp_path / "a1" / "metrics.jsonl").write_text("{]\n")
    assert "metrics.jsonl, line 1, is damaged" in refused(capsys, "a1")
    assert evaluations(tmp_path / "a1") == 0


def test_a_comparison_that_fails_leaves_no_empty_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = evaluation.measure

    def diverging(*arguments: Any) -> Curves:
        found = measure(*arguments)
        return replace(found, returns=np.full_like(found.returns, np.nan))

    fabricate(tmp_path / "a", POINT)
    monkeypatch.setattr(evaluation, "measure", diverging)
    assert main(["compare", "a", *QUICK, "--out", str(tmp_path / "c")]) == 1
    assert "no adaptation has a finite return" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
