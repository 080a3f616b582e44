"""Whole numbers that a caller gives: how many, or which one."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number in range, whatever its type: numpy's will do, and floats and bools will not.

    Args:
        name: of the argument, for the message.
        value: what was given.
        least: the smallest number that is right.
        most: the largest one; None is no bound.

    Returns:
        The number as an int.

    Raises:
        ValueError: in one line, if it is no whole number or out of range.

    >>> whole("steps", 3, least=0)
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise ValueError(
            f"{name} = {shown(value)}: must be a whole number, {least} or more"
        ) from None
    if most is not None and number > most:
        raise ValueError(f"{name} = {shown(number)}: must be {most} or less")
    return number


def shown(value: Any) -> str:
    """Any value on one line, shortened if it is long."""
    plain = value.tolist() if hasattr(value, "tolist") else value  # of numpy and torch
    return brief(repr(plain))


def brief(text: str) -> str:
    """A text on one line, shortened if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."
