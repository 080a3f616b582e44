"""Settings that a program gives as values, in the words of ``--set``."""

from __future__ import annotations

import json
from typing import Any

from warprl.counts import shown
from warprl.launch.errors import UserError


def setting(key: str, value: Any) -> str:
    """One key and its value as ``--set`` takes them; numbers and arrays may be numpy's.

    Raises UserError for a value that has no JSON.

    >>> setting("policy.hidden", (8, 8)), setting("policy.warp", None)
    ('policy.hidden=[8, 8]', 'policy.warp=null')
    """
    if isinstance(value, str) and value.lower() == "none":
        return f"{key}=none"
    try:
        return f"{key}={json.dumps(value, default=lambda number: number.tolist())}"
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{key} = {shown(value)}: should be a number, text, a list or None; search spaces are "
            "for tune.Tuner"
        ) from error
