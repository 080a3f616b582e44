"""Files of runs, which may have come from anywhere: nothing in a run leads out of it or has no end.

A symbolic link would let a run read or overwrite any file of the user, and whoever reads a named
pipe waits for ever.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from warprl.launch.errors import UserError


def require_plain(folder: Path) -> None:
    """Raise UserError unless there are only files and folders in the folder of a run.

    The folder itself, or one above it, may be a link.
    """
    pending = [os.fspath(folder)]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    what = "a symbolic link" if entry.is_symlink() else "neither file nor folder"
                    raise UserError(
                        f"{entry.path} is {what}, and a run holds files and folders only: remove it"
                    )
