"""The tree of random generators: the key is all that decides a stream."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warprl.seeding import Purpose, generator

keys = st.tuples(
    st.integers(0, 2**40),
    st.sampled_from(get_args(Purpose)),
    st.integers(0, 2**20),
    st.integers(0, 200),
    st.integers(0, 20),
)
Key = tuple[int, Purpose, int, int, int]


def stream(key: Key) -> list[float]:
    seed, purpose, iteration, task, k = key
    rng = generator(seed, purpose, iteration=iteration, task=task, k=k)
    return [float(x) for x in rng.random(4)]


@given(keys)
def test_equal_keys_give_equal_streams(key: Key) -> None:
    assert stream(key) == stream(key)


@given(st.lists(keys, min_size=2, max_size=6, unique=True))
def test_different_keys_give_different_streams(different: list[Key]) -> None:
    firsts = [tuple(stream(key)) for key in different]
    assert len(set(firsts)) == len(firsts)


@given(keys, st.integers(0, 4))
def test_every_part_of_the_key_matters(key: Key, part: int) -> None:
    seed, purpose, iteration, task, k = key
    purposes = get_args(Purpose)
    following = purposes[(purposes.index(purpose) + 1) % len(purposes)]
    neighbours: list[Key] = [
        (seed + 1, purpose, iteration, task, k),
        (seed, following, iteration, task, k),
        (seed, purpose, iteration + 1, task, k),
        (seed, purpose, iteration, task + 1, k),
        (seed, purpose, iteration, task, k + 1),
    ]
    assert stream(neighbours[part]) != stream(key)


def test_swapping_two_parts_of_a_key_gives_another_stream() -> None:
    streams = {
        tuple(generator(1, "action", iteration=2, task=3, k=4).random(4).tolist()),
        tuple(generator(1, "action", iteration=3, task=2, k=4).random(4).tolist()),
        tuple(generator(2, "action", iteration=1, task=3, k=4).random(4).tolist()),
        tuple(generator(1, "action", iteration=2, task=4, k=3).random(4).tolist()),
        tuple(generator(1, "reset", iteration=2, task=3, k=4).random(4).tolist()),
    }
    assert len(streams) == 5


def test_a_stream_does_not_depend_on_what_was_drawn_before() -> None:
    alone = generator(7, "reset", task=1).random(3).tolist()
    neighbour = generator(7, "reset", task=0)
    neighbour.random(1000)
    assert generator(7, "reset", task=1).random(3).tolist() == alone


@pytest.mark.parametrize("part", ["seed", "iteration", "task", "k"])
def test_a_negative_key_is_refused(part: str) -> None:
    key = {"seed": 0, "iteration": 0, "task": 0, "k": 0, part: -1}
    with pytest.raises(ValueError, match="non-negative.*-1"):
        generator(key["seed"], "init", iteration=key["iteration"], task=key["task"], k=key["k"])


def test_streams_never_change() -> None:
    # Old runs stay reproducible: a change here is a change of every result.
    assert generator(0, "init").integers(0, 1000, 4).tolist() == [143, 721, 3, 26]
