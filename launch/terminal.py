"""What the command line writes: results on stdout, warnings and errors in one line on stderr."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from warprl.launch.errors import UserError, one_line, printable
from warprl.launch.outcome import Outcome, Summary, to_json

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print the result or the error as one JSON object, and nothing else."
    ),
]
# typer has its own copy of click, whose base class of usage errors it offers under no other name.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
PYDANTIC = "Value error, "  # which typer leaves in front of its own words on a choice


def printed(work: Callable[..., Outcome[Summary]]) -> Callable[..., int]:
    """Turn a function into one that prints its outcome, or its error, and returns the exit status.

    It gains the option ``--json``, with which nothing but one JSON object reaches stdout, whatever
    else prints while the function works.
    """

    @functools.wraps(work)
    def run(*, json: bool, **arguments: Any) -> int:
        try:
            with reserved_stdout() if json else contextlib.nullcontext():
                outcome = work(**arguments)
        except (Exception, KeyboardInterrupt) as error:
            return complain(error, json)
        print(to_json(outcome.summary.to_json()) if json else outcome.text, flush=True)
        return outcome.status

    # typer reads the options from the signature; --json comes last in the help.
    json = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    signature = inspect.signature(work, eval_str=True)
    options = [*signature.parameters.values(), json]
    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return run


def console() -> Console:
    """Where progress is shown: on stdout, or on stderr while stdout is reserved for JSON."""
    from rich.console import Console

    return Console()


def complain(error: BaseException, json: bool) -> int:
    """Print an error as one line on stderr, and return the exit status.

    With ``json`` it is also printed on stdout: ``{"error": …, "status": …}``. A fault of the
    program itself is raised again, because its traceback is needed.
    """
    line, status = _told(error)
    if json:
        message = line or f"{type(error).__name__}: {one_line(error)}"
        print(to_json({"error": message, "status": status}), flush=True)
    if line is None:
        raise error
    print(f"warprl: {line}", file=sys.stderr)
    return status


def _told(error: BaseException) -> tuple[str | None, int]:
    """What to tell the user, or None for a fault of the program, and the exit status."""
    if isinstance(error, UserError):
        return one_line(error), error.status
    if isinstance(error, USAGE_ERROR):
        message = getattr(error, "format_message", error.__str__)()
        return printable(message.replace(PYDANTIC, "")), 2
    if isinstance(error, MemoryError):
        return f"not enough memory: {one_line(error)}", 1
    return ("interrupted", 130) if isinstance(error, KeyboardInterrupt) else (None, 1)


@contextlib.contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print the warnings that the package logs: ``warprl: warning: …``.

    Only the command line does this. To any other program the logger ``warprl`` is like every other.
    """
    handler = _OnStderr(logging.WARNING)
    logger = logging.getLogger("warprl")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _OnStderr(logging.Handler):
    """Prints on the current stderr, which a progress bar replaces while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        message = printable(record.getMessage())
        print(f"warprl: {record.levelname.lower()}: {message}", file=sys.stderr)


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Send to stderr whatever else prints, including native libraries and child processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
