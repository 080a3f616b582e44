"""What goes to a cluster with a job: a command, and the files that it needs.

These are the package, the modules of the user's own task families, and the file of a sweep. Nothing
else of the working folder goes along, and the nodes need no more than the package's dependencies.
"""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from warprl.launch.errors import UserError, os_errors


class Command(NamedTuple):
    """A command of ``warprl`` for a job.

    Args:
        arguments: the verb and what follows.
        place: the path or the URI of the run that it writes, or of the folder of several.
        name: of the run or the sweep.
        families: names of the task families.
        files: that it reads.
    """

    arguments: Sequence[str]
    place: str
    name: str
    families: Collection[str]
    files: Sequence[Path] = ()

    @property
    def entrypoint(self) -> str:
        """The line for the shell; signals then reach the program itself."""
        return f"exec python -m warprl.launch.cli {shlex.join(self.arguments)}"


def contents(families: Collection[str], files: Sequence[Path] = ()) -> dict[str, Path]:
    """What goes along: paths as the nodes will see them, each with the file of this machine."""
    found = {file.name: file for file in files}
    own = {family.partition(".")[0].partition(":")[0] for family in families if ":" in family}
    for name in ("warprl", *sorted(own)):
        module = importlib.import_module(name)
        if not hasattr(module, "__path__"):
            assert module.__file__ is not None, name
            found[Path(module.__file__).name] = Path(module.__file__)
            continue
        for folder in module.__path__:
            found |= {f"{name}/{path}": Path(folder) / path for path in _below(folder)}
    return found


@contextmanager
def packed(command: Command) -> Iterator[Path]:
    """A temporary folder that holds what goes along with a command."""
    with TemporaryDirectory(prefix="warprl-job-") as folder:
        for name, file in contents(command.families, command.files).items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with os_errors(UserError, f"cannot read {file}"):
                shutil.copyfile(file, target)
        yield Path(folder)


def _below(folder: str) -> Iterator[str]:
    """The files below a folder, without hidden ones and what Python has compiled."""
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if name != "__pycache__" and name[0] != "."]
        for name in names:
            if name[0] != ".":
                yield os.path.relpath(os.path.join(place, name), folder)
