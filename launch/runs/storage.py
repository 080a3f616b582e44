"""Where runs live beside this machine: a folder that hosts share, or a bucket of S3 or GCS.

A place is written as a URI: ``file:///shared/runs``, ``s3://bucket/runs`` or ``gs://bucket/runs``.
A :class:`Store` reads and writes whole files below one such place. A file that it has
written is complete: readers see it as it was before or as it is afterwards.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from warprl.launch.background import in_background
from warprl.launch.errors import UserError, one_line
from warprl.launch.runs import files

T = TypeVar("T")

OPEN_S = 25.0  # within this time, a place is open or refused
ATTEMPT_S = 10  # a request to a bucket is repeated for about this long
PATIENCE_S = 30.0  # work on a store that fails is repeated for this long
PAUSE_S = 1.0  # between two attempts, and before a file is read back
LAST = ("manifest.json", "summary.json")  # files whose presence says that a folder is complete
KINDS = "file:///folder, s3://bucket/folder or gs://bucket/folder"


class Store(Protocol):
    """Whole files below one place; their paths are relative, with slashes.

    Every method raises OSError if the place does not answer or refuses.
    """

    uri: str

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder, without hidden files; nothing if there is no folder."""
        ...

    def files(self, folder: str = "") -> list[str]:
        """The paths of all files below a folder, without hidden ones, in order."""
        ...

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError if there is none."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a file, or replace it."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none of this path; whether this process has written it."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        ...


class LocalStore:
    """A folder of the file system, which may be shared by several hosts."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        """Use a folder, which is made when the first file is written."""
        self.uri = str(folder) if uri is None else uri
        self.folder = folder.absolute()

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder."""
        with suppress(FileNotFoundError):
            return _visible(os.listdir(self.folder / folder))
        return []

    def files(self, folder: str = "") -> list[str]:
        """The paths of all files below a folder."""
        return sorted(
            (Path(place) / name).relative_to(self.folder).as_posix()
            for place, _, names in os.walk(self.folder / folder)
            for name in _visible(names)
        )

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return files.read(self.folder / path, link=False)

    def write(self, path: str, content: bytes) -> None:
        """Write a file under a hidden name, synchronise it to the disk, and rename it."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none; the file system decides between two at once."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = target.open("xb", buffering=0)
        except FileExistsError:
            return False
        with file:
            try:
                files.append(file, content)
            except OSError:  # the disk is full
                target.unlink(missing_ok=True)
                raise
        return True

    def remove(self, path: str) -> None:
        """Remove a file or a folder."""
        target = self.folder / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


class BucketStore:
    """A prefix in a bucket, through a file system of pyarrow."""

    def __init__(self, system: Any, root: str, uri: str) -> None:
        """Use ``root``, which is ``bucket/prefix``, of a ``pyarrow.fs.FileSystem``."""
        self.uri = uri
        self._system, self._root = system, root

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder."""
        return _visible(posixpath.basename(info.path) for info in self._list(folder, False))

    def files(self, folder: str = "") -> list[str]:
        """The paths of all files below a folder."""
        start = len(self._root) + 1
        return _visible(info.path[start:] for info in self._list(folder, True) if info.is_file)

    def read(self, path: str) -> bytes:
        """The content of a file."""
        with _arrow_errors(), self._system.open_input_stream(self._full(path)) as stream:
            content: bytes = stream.read()
        return content

    def write(self, path: str, content: bytes) -> None:
        """Write a file; it appears when all of it has arrived."""
        with _arrow_errors(), self._system.open_output_stream(self._full(path)) as stream:
            stream.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Write a file if there is none, and read it back after a pause.

        The last of several that write at once has written the file. pyarrow offers no conditional
        write, so that a process which stands still between its two steps may be wrong.
        """
        try:
            self.read(path)
        except FileNotFoundError:
            self.write(path, content)
            time.sleep(PAUSE_S)
            return self.read(path) == content
        return False

    def remove(self, path: str) -> None:
        """Remove a file or a folder."""
        with suppress(FileNotFoundError), _arrow_errors():
            try:
                self._system.delete_file(self._full(path))
            except FileNotFoundError:
                self._system.delete_dir(self._full(path))

    def _full(self, path: str) -> str:
        return posixpath.join(self._root, path) if path else self._root

    def _list(self, folder: str, recursive: bool) -> list[Any]:
        from pyarrow import fs

        selector = fs.FileSelector(self._full(folder), recursive=recursive, allow_not_found=True)
        with _arrow_errors():
            found: list[Any] = self._system.get_file_info(selector)
        return found


def _visible(paths: Iterator[str] | list[str]) -> list[str]:
    return sorted(path for path in paths if not posixpath.basename(path).startswith("."))


@contextmanager
def _arrow_errors() -> Iterator[None]:
    """Turn the exceptions of pyarrow that are no OSError into one."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        if isinstance(error, OSError):
            raise
        raise OSError(one_line(error)) from error


def is_uri(text: str) -> bool:
    """Whether a text is written as a URI, known or not."""
    return "://" in text


def require_uri(text: str, what: str) -> str:
    """A URI without a slash at its end. Raises UserError for what is none of a known kind."""
    parts = urlsplit(text)
    if not is_uri(text):
        absolute = f"file://{os.path.abspath(text)}"
        raise UserError(f"{what} {text!r} is not a URI: write {absolute}, s3://… or gs://…")
    if parts.scheme not in ("file", "s3", "gs"):
        raise UserError(f"{what} {text!r}: unknown scheme {parts.scheme!r}: use {KINDS}")
    if "@" in parts.netloc:
        raise UserError(
            f"{what}: put no credentials into a URI, which is printed and saved: use the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    wrong_host = bool(parts.netloc) == (parts.scheme == "file")
    if wrong_host or parts.query or parts.fragment or ".." in parts.path.split("/"):
        raise UserError(f"{what} {text!r}: use {KINDS}")
    return text.rstrip("/")


def open_store(uri: str) -> Store:
    """The store at a URI.

    Raises UserError in one line, within OPEN_S seconds, if the bucket does not exist or does not
    answer. A folder need not exist.
    """
    parts = urlsplit(require_uri(uri, "storage"))
    path = unquote(parts.path).strip("/")
    if parts.scheme == "file":
        return LocalStore(Path("/") / path, uri)
    connect = _gcs if parts.scheme == "gs" else _s3

    def reach() -> Any:
        from pyarrow import fs

        system = connect(parts.netloc)
        with _arrow_errors():
            known = system.get_file_info(parts.netloc)
        if known.type == fs.FileType.NotFound:
            raise FileNotFoundError(2, f"there is no bucket {parts.netloc!r}")
        return system

    try:
        system = _within(OPEN_S, reach)
    except OSError as error:
        advice = "check the name, the network and the credentials"
        raise UserError(f"cannot use {uri}: {reason(error)}; {advice}") from error
    return BucketStore(system, posixpath.join(parts.netloc, path).rstrip("/"), uri)


def open_place(place: str) -> Store:
    """The store at a path or a URI. Raises UserError as :func:`open_store` does."""
    return open_store(place) if is_uri(place) else LocalStore(Path(place))


def _s3(bucket: str) -> Any:
    """S3, or what the variables of AWS's own tools name as its endpoint."""
    from pyarrow import fs

    endpoint = urlsplit(_first(os.environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    region = _first(os.environ, "AWS_REGION", "AWS_DEFAULT_REGION")
    with _arrow_errors():
        if not region:
            region = "us-east-1" if endpoint.netloc else fs.resolve_s3_region(bucket)
        return fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint.netloc or None,
            scheme=endpoint.scheme or "https",
            connect_timeout=5,
            request_timeout=ATTEMPT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
            allow_delayed_open=True,  # a small file is one request
        )


def _gcs(bucket: str) -> Any:
    from pyarrow import fs

    with _arrow_errors():
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=ATTEMPT_S))


def _first(values: Mapping[str, str], *names: str) -> str:
    """The first of some variables that is set, or nothing."""
    return next((values[name] for name in names if values.get(name)), "")


def _within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``. Raises TimeoutError, an OSError, if it takes longer."""
    done = in_background(work, "opens-storage")
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():
            raise
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None


def persistently(work: Callable[[], T]) -> T:
    """The result of ``work``, which is repeated for PATIENCE_S seconds while it raises OSError."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except OSError:
            if time.monotonic() >= end:
                raise
        time.sleep(PAUSE_S)


def upload(store: Store, source: Path, target: str) -> None:
    """Write a file, or a folder whose manifest or summary comes last. Raises OSError."""
    paths = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    for path in sorted(paths, key=lambda path: (path.name in LAST, path)):
        store.write(posixpath.join(target, *path.relative_to(source).parts), path.read_bytes())


def reason(error: OSError) -> str:
    """Why a store failed, without what Google's library writes around it."""
    said = error.strerror or one_line(error)
    return said.rpartition("underlying error message was: ")[2].partition(" error_info=")[0]
