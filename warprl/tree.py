"""Sums in a fixed binary tree over the positions of tasks. Pure.

A sum of floating-point numbers depends on its order. Here the order is that of a tree which halves
the positions until one is left, so that the same bits come out wherever its parts are summed up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias, TypeVar

Span: TypeAlias = tuple[int, int]
"""Neighbouring positions: the first, and the one behind the last."""

Value = TypeVar("Value")


def halves(span: Span) -> tuple[Span, Span]:
    """The two subtrees below a span.

    >>> halves((0, 5))
    ((0, 3), (3, 5))

    Args:
        span: of more than one position.

    Returns:
        The left one, which is larger by one if the number is odd, and the right one.
    """
    first, end = span
    middle = (first + end + 1) // 2
    return (first, middle), (middle, end)


def subtrees(whole: Span, part: Span) -> list[Span]:
    """The largest subtrees that lie in a part of the positions: at most 2 log2 of them.

    >>> subtrees((0, 8), (1, 8))
    [(1, 2), (2, 4), (4, 8)]

    Args:
        whole: the positions of the tree.
        part: some of them.

    Returns:
        Their spans, from left to right.
    """
    if part[0] <= whole[0] and whole[1] <= part[1]:
        return [whole]
    if whole[1] <= part[0] or part[1] <= whole[0]:
        return []
    return [span for half in halves(whole) for span in subtrees(half, part)]


@cache
def shares(size: int, number: int) -> tuple[Span, ...]:
    """Positions in shares of nearly equal size, cut so that shares consist of few subtrees.

    A worker sends a sum for each subtree of its share.

    >>> shares(20, 8)
    ((0, 3), (3, 5), (5, 8), (8, 10), (10, 13), (13, 15), (15, 18), (18, 20))

    Args:
        size: how many positions there are.
        number: of the shares, at most ``size``.

    Returns:
        The shares, from left to right, whose sizes differ by one at most. Of all such divisions, it
        is one in which the share with the most subtrees has the fewest, and all have the fewest
        together.
    """
    small, larger = divmod(size, number)

    @cache
    def subtrees_of(first: int, length: int) -> int:
        return len(subtrees((0, size), (first, first + length)))

    # From the right: of the last shares, given how many of them are larger by one, the most
    # subtrees of one, those of all, and the size of the first.
    found: dict[tuple[int, int], tuple[int, int, int]] = {(0, 0): (0, 0, 0)}
    for last in range(1, number + 1):
        for large in range(max(0, larger - (number - last)), min(last, larger) + 1):
            first = size - last * small - large
            choices = []
            for extra in (0, 1):
                if (last - 1, large - extra) in found:
                    most, every, _ = found[last - 1, large - extra]
                    own = subtrees_of(first, small + extra)
                    choices.append((max(most, own), every + own, small + extra))
            found[last, large] = min(choices)

    # From the left.
    spans, first = [], 0
    for last in range(number, 0, -1):
        length = found[last, larger][2]
        spans.append((first, first + length))
        first, larger = first + length, larger - (length - small)
    return tuple(spans)


def total(
    span: Span, found: Mapping[Span, Value], join: Callable[[Value, Value], Value]
) -> Value | None:
    """The sum over a subtree from the sums of subtrees below it.

    >>> total((0, 4), {(0, 2): "ab", (2, 3): "c"}, lambda left, right: f"({left} + {right})")
    '(ab + c)'

    Args:
        span: of the subtree.
        found: the sums that are there; where positions are missing, nothing is added.
        join: adds two neighbours.

    Returns:
        The sum; None if there is nothing to sum.
    """
    if span in found or span[1] - span[0] <= 1:
        return found.get(span)
    left, right = (total(half, found, join) for half in halves(span))
    if left is None or right is None:
        return right if left is None else left
    return join(left, right)
