"""Where Python looks for the modules of users' own task families: behind everything installed.

By itself, Python looks into the folder of a program first, and Ray's workers into the folder where
that was started. There a file such as ``scipy.py`` or ``packaging.py`` takes the place of the
package of that name. So Ray starts without these folders, and whoever imports a family of a user's
own adds them at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def own_folders() -> list[str]:
    """The folders in which modules of this program's user may lie: working folder and script."""
    # Tune runs a trial in a folder of its own, and remembers the one before.
    folders = [os.environ.get("TUNE_ORIG_WORKING_DIR") or os.getcwd()]
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    return folders + [script] * (script in sys.path)


def look_for(family: str, folders: Sequence[str]) -> None:
    """Look into these folders as well if a task family is a user's own, and so has a module."""
    for folder in folders:
        if ":" in family and folder not in sys.path:
            sys.path.append(folder)


@contextmanager
def without_working_folder() -> Iterator[None]:
    """Start processes, in the ``with`` block, that do not look into their working folder."""
    before = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}
    listed = (before["PYTHONPATH"] or "").split(os.pathsep)
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, listed))  # an empty one stands for it
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
