"""What a verb returns and prints: summaries, tasks and durations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pytest

from warprl.envs import make_family
from warprl.launch.outcome import Document, Entries, duration, parameters, to_json


@dataclass(frozen=True)
class Part(Document):
    """With one field that is written even if it is None, and one that is not."""

    return_: float | None
    note: str | None = None


@dataclass(frozen=True)
class Whole(Document):
    """A document that holds others, in all ways."""

    first: Part
    others: Sequence[Part]
    named: Mapping[str, Part]


def test_a_summary_is_plain_data_with_the_fields_as_keys() -> None:
    part, noted = Part(-2.5), Part(None, "diverged")
    plain = {"return": -2.5}, {"return": None, "note": "diverged"}
    whole = Whole(part, (part, noted), {"last": noted})
    expected = {"first": plain[0], "others": list(plain), "named": {"last": plain[1]}}
    assert whole.to_json() == expected
    assert Entries({"a": whole, "b": (1, 2)}).to_json() == {"a": expected, "b": [1, 2]}


def test_what_is_not_finite_is_null_in_the_text_of_a_summary() -> None:
    found = Whole(Part(math.nan), [Part(math.inf)], {}).to_json()
    assert (
        to_json(found) == '{"first": {"return": null}, "others": [{"return": null}], "named": {}}'
    )


def test_a_tasks_numbers_fit_on_a_line_however_many_they_are() -> None:
    assert parameters({"direction": -1.0}) == "direction=-1"
    assert parameters({"x": 0.123456, "y": 2}) == "x=0.123 y=2"
    many = {"body_mass": (0.5, 1.0) * 4, "dof_damping": [1.0] * 9}
    assert parameters(many) == "body_mass~0.75 dof_damping~1"


@pytest.mark.parametrize("family", ["hopper-rand-params-v1", "walker2d-rand-params-v1"])
def test_tasks_of_many_numbers_can_be_told_apart(family: str) -> None:
    tasks = make_family(family).held_out_tasks()
    labels = {parameters(asdict(task)) for task in tasks}
    assert len(labels) == len(tasks)
    assert max(map(len, labels)) < 80


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
