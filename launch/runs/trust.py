"""Whether the task family of a stored run may be imported, which runs the code of its module.

A run names its family. One of a user's own, ``package.module:FAMILY``, is imported from wherever
Python finds that module, which may be the folder in which a stranger's run came. So it is imported
only

- for a run that was begun on this machine, with the module where it lay then (:mod:`.ledger`),
- for a family that the user has named, as in ``warprl train FAMILY``, or
- if the user says so, by ``--trust``.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from warprl.counts import shown
from warprl.launch.errors import UserError
from warprl.launch.runs import ledger
from warprl.launch.search_path import own_folders


class Trust(NamedTuple):
    """The word of the user for families of stored runs: for all, or for one that they have named.

    Without it, only runs that were begun on this machine are trusted.
    """

    everything: bool = False
    family: str | None = None


OURS = Trust()
ALL = Trust(everything=True)


def note(family: str, settings: Mapping[str, Any]) -> None:
    """Note that a run of a family with these settings, as plain data, is begun here."""
    if _own(family):
        ledger.note("run", *_entry(family, settings))


def require(family: str, settings: Mapping[str, Any], place: str, trust: Trust) -> None:
    """Raise UserError unless the family of the run at ``place`` may be imported. Nothing is."""
    trusted = trust.everything or trust.family == family or not _own(family)
    if trusted or _module_file(family) is None:  # then there is nothing to import
        return
    if not ledger.knows("run", *_entry(family, settings)):
        raise UserError(
            f"{place}: its task family {shown(family)} is none of this package, and the run was "
            "not begun here: using it runs the code of that module; add --trust (in Python, "
            "trust=True) if you trust it"
        )


def _own(family: str) -> bool:
    return ":" in family


def _entry(family: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    return _module_file(family) or "", json.dumps(settings, sort_keys=True)


def _module_file(family: str) -> str | None:
    """Where the module of a family lies, or its outermost package; nothing of it is run.

    It is empty if the module has no file, and None if there is no module.
    """
    outermost = family.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(outermost) or PathFinder.find_spec(outermost, own_folders())
    except (ValueError, OSError):  # it has no name, or was made without a file
        return ""
    if spec is None:
        return None
    folders = spec.submodule_search_locations or [""]
    return os.path.realpath(spec.origin or next(iter(folders)))
