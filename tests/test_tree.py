"""The order of sums: the same wherever parts of them are summed up."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from warprl import tree
from warprl.tree import Span


def bracketed(left: str, right: str) -> str:
    """A sum that shows its order."""
    return f"({left} + {right})"


@given(data=st.data(), tasks=st.integers(1, 40))
def test_sums_over_any_parts_have_the_order_of_the_whole(data: st.DataObject, tasks: int) -> None:
    whole = (0, tasks)
    present = data.draw(st.sets(st.integers(0, tasks - 1), min_size=1))
    leaves = {(n, n + 1): str(n) for n in present}
    cuts = sorted(data.draw(st.sets(st.integers(1, tasks), max_size=6)) | {0, tasks})

    found: dict[Span, str] = {}
    for part in zip(cuts, cuts[1:], strict=False):
        for span in tree.subtrees(whole, part):
            own = {leaf: name for leaf, name in leaves.items() if part[0] <= leaf[0] < part[1]}
            part_of_it = tree.total(span, own, bracketed)
            if part_of_it is not None:
                found[span] = part_of_it
    total = tree.total(whole, leaves, bracketed)
    assert total is not None and re.findall(r"\d+", total) == [str(n) for n in sorted(present)]
    assert tree.total(whole, found, bracketed) == total


@given(tasks=st.integers(2, 300), data=st.data())
def test_a_part_has_few_subtrees_which_cover_it_once(tasks: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, tasks - 1))
    part = first, data.draw(st.integers(first + 1, tasks))
    spans = tree.subtrees((0, tasks), part)
    assert [n for span in spans for n in range(*span)] == list(range(*part))
    assert len(spans) <= 2 * math.ceil(math.log2(tasks))


def test_halves_of_a_meta_batch_are_the_shards_of_two_workers() -> None:
    for tasks in range(2, 50):
        assert [len(range(*half)) for half in tree.halves((0, tasks))] == [
            (tasks + 1) // 2,
            tasks // 2,
        ]


def test_nothing_sums_up_to_nothing() -> None:
    assert tree.total((0, 4), {}, bracketed) is None
