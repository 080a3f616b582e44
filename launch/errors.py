"""Errors that a user can correct: one line that says what, where and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from warprl.counts import shown, whole

LONGEST = 299  # characters of a message
AHEAD = 180  # of them stay at the beginning if it is longer, and the others at the end


class UserError(Exception):
    """Bad input. The command line prints the message, which is one line, and exits with status.

    The message may name what a stranger wrote, in a file for instance, and so it is made safe to
    print; see :func:`printable`.
    """

    status = 2

    def __init__(self, message: str) -> None:
        """Keep the message as one short line."""
        super().__init__(printable(message))


class RunFailedError(UserError):
    """The input was good, but the work could not continue, for example because the disk is full."""

    status = 1


class WorkersLostError(RunFailedError):
    """All workers of a run were lost, or Ray itself."""


class MissingGraphicsError(UserError):
    """This machine cannot draw. The message names the packages to install."""

    status = 3


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number in range, as :func:`warprl.counts.whole` says. Raises UserError otherwise."""
    try:
        return whole(name, value, least, most)
    except ValueError as error:
        raise UserError(str(error)) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known name, or else all names.

    >>> nearest("mamml", ["maml", "promp"])
    "did you mean 'maml'?"
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def require_known(kind: str, name: str, known: Collection[str]) -> None:
    """Raise UserError, which suggests another name, unless this one is known."""
    if name not in known:
        raise UserError(f"unknown {kind} {shown(name)}: {nearest(name, known)}")


def one_line(error: BaseException) -> str:
    """The message of an exception on one line, or its type if there is no message."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    r"""Text as one line that is safe to print.

    Control characters are escaped, and the middle of a long text is left out.

    >>> printable("a line,\n and \x1b[31m red")
    'a line, and \\x1b[31m red'
    """
    line = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )
    if len(line) <= LONGEST:
        return line
    gap = " … "
    return f"{line[:AHEAD]}{gap}{line[AHEAD + len(gap) - LONGEST :]}"


@contextmanager
def os_errors(kind: type[UserError], what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError inside the ``with`` block into ``kind``: "<what>: <reason><advice>"."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror or one_line(error)}{advice}") from error


def writing(place: Path, advice: str = "") -> AbstractContextManager[None]:
    """Turn an OSError into RunFailedError: "cannot write to <place>: <reason><advice>"."""
    return os_errors(RunFailedError, f"cannot write to {place}", advice)


def reading(place: Path) -> AbstractContextManager[None]:
    """Turn an OSError into UserError: "cannot read <place>: <reason>"."""
    return os_errors(UserError, f"cannot read {place}")
