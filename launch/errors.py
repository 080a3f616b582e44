"""Errors a user can mend: one line that says what, where and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A one-line message for the user; the command line prints it and exits with ``status``."""

    status = 2


class RunFailedError(UserError):
    """A run that was well asked for could not go on, as when the disk is full."""

    status = 1


class MissingGraphicsError(UserError):
    """This machine cannot draw; the message names the packages to install."""

    status = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar known one, or else all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
