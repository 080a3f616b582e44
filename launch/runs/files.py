"""Files that are read with a limit, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from warprl.checkpoint import sync

TEMPORARY = ".part-"  # begins the name of what is not whole yet


def read(path: Path, most: int | None = None, link: bool = True) -> bytes:
    """The content of a file. Raises OSError for anything else, which it does not wait for.

    Args:
        path: of the file.
        most: bytes that it may have.
        link: whether it may be a link to a file.
    """
    flags = os.O_NONBLOCK | (0 if link else os.O_NOFOLLOW)
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
        _require_regular(os.fstat(file.fileno()), path, most)
        return file.read()


def require_file(path: Path, most: int | None = None) -> None:
    """Raise OSError unless this is a regular file, of at most so many bytes."""
    _require_regular(path.stat(), path, most)


def _require_regular(found: os.stat_result, path: Path, most: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if most is not None and found.st_size > most:
        what = f"it has {found.st_size:,} bytes, and may have {most:,}"
        raise OSError(errno.EFBIG, what, str(path))


def write(path: Path, content: str | bytes) -> None:
    """Write a file, or replace it, so that it is whole under its name. Raises OSError."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path for a file, which gets its name after the ``with`` block.

    Before that it is synchronised to the disk. If the block raises an exception, nothing is left,
    and a file that had the name stays as it was. Raises OSError.
    """
    temporary = _beside(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder, which gets its name after the ``with`` block.

    What is written into it has to be synchronised to the disk. If the block raises an exception,
    nothing is left. Raises OSError, also if there is something of this name by then.
    """
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def append(file: FileIO, content: bytes) -> None:
    """Write all of the content to a file that keeps nothing back. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _beside(path: Path) -> Path:
    """A new hidden name in the same folder; its end says what kind of file it is."""
    return path.with_name(f"{TEMPORARY}{os.urandom(4).hex()}{path.suffix}")
