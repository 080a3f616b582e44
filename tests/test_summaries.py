"""The documents of evaluations and comparisons: their layout, and reading them back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from warprl.launch.evaluation.summaries import (
    ComparisonSummary,
    EvaluationSummary,
    Measurement,
    from_json,
)
from warprl.launch.outcome import to_json

POINT = '{"mean": -2.5, "stderr": 0.5, "low": -3.5, "high": -1.5, "iqm": -2.5, "n": 2}'
PROTOCOL = '{"format": 2, "versions": {"warprl": "0.1.0"}, "tasks": [{"x": 0.5}, {"x": [1, 2]}]}'
SHARED = (
    f'"protocol": {PROTOCOL}, "tasks": 2, "trained_on": false, "repeats": 1, "inner_steps": 1, '
    '"episodes": 20, "seed": 0'
)

# As they were written before the documents had types; the second adaptation diverged.
EVALUATION = (
    '{"run": "runs/first", "family": "point-navigation-v1", "agent": "warpgrad", "checkpoint": 9, '
    f'{SHARED}, "adaptations": 2, "trained_inner_steps": 1, "curves": [{{"policy": "trained", '
    f'"digest": "5f", "curve": [{POINT}, {POINT}], "area": {POINT}, "gain": {POINT}, '
    '"worse": 0.5, "steps": [{"kl": 0.25, "cosine": null, "condition": 1.5}], "diverged": [1], '
    '"left_out": [], "adaptations": [{"task": 0, "parameters": {"x": 0.5}, "repeat": 0, '
    '"finite": true, "returns": [-3.0, -2.0], "area": -2.5, "worse": false, "kl": [0.25], '
    '"cosine": [null], "condition": [1.5]}, {"task": 1, "parameters": {"x": [1, 2]}, "repeat": 0, '
    '"finite": false, "returns": [-3.0, null], "area": null, "worse": false, "kl": [null], '
    '"cosine": [null], "condition": [null]}]}], "folder": "runs/first/evaluation/1"}'
)
COMPARISON = (
    f'{{"family": "point-navigation-v1", {SHARED}, "groups": [{{"group": "promp", '
    '"agent": "promp", "iteration": 9, "trained_inner_steps": 1, "seeds": 1, "interval_over": '
    f'"tasks of one seed", "adaptations": 2, "curve": [{POINT}, {POINT}], "area": {POINT}, '
    f'"gain": {POINT}, "worse": 0.0, "steps": [{{"kl": 0.25}}], "env_steps": null, '
    '"wall_s": 30.0, "runs": [{"run": "runs/a", "seed": 1, "agent": "promp", "iteration": 9, '
    '"trained_inner_steps": 1, "evaluation": "runs/a/evaluation/1", "reused": false, '
    '"diverged": 0, "left_out": 0, "env_steps": null, "wall_s": 30.0, "mean": -2.5}]}], '
    '"folder": "runs/comparisons/1"}'
)


@pytest.mark.parametrize(
    ("kind", "text"), [(EvaluationSummary, EVALUATION), (ComparisonSummary, COMPARISON)]
)
def test_a_document_of_before_is_read_and_written_again_to_the_letter(
    kind: type[Any], text: str
) -> None:
    assert to_json(from_json(kind, text).to_json()) == text


def test_null_is_read_as_a_number_that_is_not_finite_and_a_missing_diagnostic_as_none() -> None:
    (curve,) = from_json(EvaluationSummary, EVALUATION).curves
    assert math.isnan(curve.steps[0]["cosine"])
    assert math.isnan(curve.adaptations[1].returns[1])
    assert list(curve.adaptations[0].steps) == ["kl", "cosine", "condition"]
    (group,) = from_json(ComparisonSummary, COMPARISON).groups
    assert (list(group.steps[0]), group.reference) == (["kl"], None)


def test_a_run_is_read_without_what_holds_on_one_machine_only() -> None:
    (run,) = json.loads(COMPARISON)["groups"][0]["runs"]
    kept = {key: run[key] for key in run if key not in ("run", "evaluation", "reused", "mean")}
    found = from_json(Measurement, json.dumps(kept | {"of another time": 1}))
    assert found.to_json() == kept


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "null",
        EVALUATION[:-1],
        EVALUATION.replace('"checkpoint": 9, ', ""),
        EVALUATION.replace('"checkpoint": 9', '"checkpoint": "9"'),
        EVALUATION.replace('"finite": true', '"finite": 1'),
        EVALUATION.replace('"kl": 0.25', '"kk": 0.25'),
        EVALUATION.replace('"returns": [-3.0, -2.0]', '"returns": -3.0'),
    ],
)
def test_a_damaged_document_is_refused(broken: str) -> None:
    with pytest.raises(ValueError):
        from_json(EvaluationSummary, broken)
