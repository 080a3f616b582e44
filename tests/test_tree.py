"""The order of sums: the same wherever parts of them are summed up."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import pytest
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


@pytest.mark.parametrize("tasks", [1, 5, 9, 12])
def test_no_equal_shares_have_fewer_subtrees(tasks: int) -> None:
    def subtrees(shares: Sequence[Span]) -> tuple[int, int]:
        each = [len(tree.subtrees((0, tasks), span)) for span in shares]
        return max(each), sum(each)

    for number in range(1, tasks + 1):
        divisions = [
            list(itertools.pairwise((0, *cuts, tasks)))
            for cuts in itertools.combinations(range(1, tasks), number - 1)
        ]
        sizes = [[len(range(*span)) for span in shares] for shares in divisions]
        least = min(
            subtrees(shares)
            for shares, each in zip(divisions, sizes, strict=True)
            if max(each) - min(each) <= 1
        )
        found = tree.shares(tasks, number)
        assert list(found) in divisions
        assert {len(range(*span)) for span in found} <= {tasks // number, -(-tasks // number)}
        assert subtrees(found) == least


def test_no_worker_sends_more_than_three_sums_of_twenty_tasks() -> None:
    for number in range(1, 21):
        spans = tree.shares(20, number)
        assert max(len(tree.subtrees((0, 20), span)) for span in spans) <= 3


def test_one_share_less_broken_is_worth_one_subtree_more() -> None:
    each = [len(tree.subtrees((0, 64), span)) for span in tree.shares(64, 5)]
    assert (max(each), sum(each)) == (4, 18)  # and not (5, 17)


def test_many_workers_get_their_shares() -> None:
    assert len(tree.shares(3000, 1000)) == 1000


def test_nothing_sums_up_to_nothing() -> None:
    assert tree.total((0, 4), {}, bracketed) is None
