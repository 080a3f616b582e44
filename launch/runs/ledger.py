"""The ledger: what was made on this machine, noted outside of runs, where no run can reach it.

An entry is an empty file that is named after a checksum, in a folder that only its owner can read:
``WARPRL_STATE``, or ``warprl`` in ``XDG_STATE_HOME`` or ``~/.local/state``. Whoever sends a run
cannot send entries along, and what was changed since it was noted has another checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from warprl.launch.errors import one_line

log = logging.getLogger(__name__)


def note(kind: str, *parts: str) -> None:
    """Note that something was made here. Warn if that cannot be written: then nobody knows later.

    Args:
        kind: of what was made.
        parts: what it consists of.
    """
    place = folder()
    try:
        if place is None:
            raise FileNotFoundError("there is no home folder")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / _name(kind, *parts)).touch(mode=0o600)
    except OSError as error:
        where = place or "WARPRL_STATE"
        log.warning("cannot note in %s that this %s was made here: %s", where, kind, _why(error))


def forget(kind: str, *parts: str) -> None:
    """Take back a note, if there is one."""
    place = folder()
    if place is not None:
        with suppress(OSError):  # then it stays, which only takes room
            (place / _name(kind, *parts)).unlink()


def knows(kind: str, *parts: str) -> bool:
    """Whether this was noted before, to the letter."""
    place = folder()
    return place is not None and os.path.isfile(place / _name(kind, *parts))


def folder() -> Path | None:
    """The folder of the ledger; None if this user has no home."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    place = Path(os.environ.get("WARPRL_STATE") or os.path.join(state, "warprl"))
    # A relative path would be another one in each working folder, also in one that was sent here.
    return place if place.is_absolute() else None


def _name(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _why(error: OSError) -> str:
    return error.strerror or one_line(error)
