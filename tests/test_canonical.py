"""Canonical text: what changes it and what does not, whatever the dataclasses are called."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest

from warprl.launch.runs.canonical import canonical_json


@dataclass(frozen=True)
class Adam:
    lr: float = 0.1


@dataclass(frozen=True)
class Trpo:
    lr: float = 0.1


@dataclass(frozen=True)
class Config:
    size: int
    outer: Adam | Trpo = Adam()
    hidden: tuple[int, ...] = field(default_factory=lambda: (64, 64))
    warp: str | None = None


def text(config: Any) -> str:
    return canonical_json(policy=config)


def test_the_text_of_a_small_example_is_this() -> None:
    config = Config(3, outer=Trpo(lr=0.5), hidden=(8,))
    assert canonical_json(policy=config, tensors={"b": [1, None], "a": True}) == (
        '{"parts":{"policy":["Config",{"hidden":[8],"outer":["Trpo",{"lr":0.5}],"size":3}],'
        '"tensors":{"a":true,"b":[1,null]}},"schema":1}'
    )


def test_a_new_field_at_its_default_changes_nothing_also_deep_inside() -> None:
    grown_adam = make_dataclass("Adam", [("lr", float, 0.1), ("decay", float, 0.0)], frozen=True)
    outer = field(default=grown_adam())
    grown = make_dataclass("Config", [("size", int), ("outer", Any, outer), ("new", int, 7)])
    assert text(grown(3)) == text(Config(3))
    assert text(grown(3, outer=grown_adam(lr=0.5))) == text(Config(3, outer=Adam(0.5)))
    assert text(grown(3, new=8)) != text(grown(3))
    assert text(grown(3, outer=grown_adam(decay=0.1))) != text(grown(3))


def test_the_order_of_fields_changes_nothing() -> None:
    turned = make_dataclass("Config", [("warp", Any), ("size", int)])
    assert text(turned("gate", 3)) == text(Config(3, warp="gate"))


@pytest.mark.parametrize(
    "other",
    [
        Config(4),
        Config(3, Adam(0.2)),
        Config(3, Trpo()),
        Config(3, hidden=(64,)),
        Config(3, warp=""),
    ],
)
def test_a_value_or_a_variant_that_changes_changes_the_text(other: Config) -> None:
    assert text(other) != text(Config(3))


def test_variants_with_the_same_fields_differ() -> None:
    assert text(Config(3, Adam(0.5))) != text(Config(3, Trpo(0.5)))


def test_a_field_without_a_default_is_always_there() -> None:
    assert '"size":0' in text(Config(0))


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        text(Config(3, warp=object()))  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        text(Config(3, Adam(float("nan"))))
