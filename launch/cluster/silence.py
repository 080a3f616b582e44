"""Keeps Ray from printing on the standard output of a run, where results belong."""

from __future__ import annotations

import ray._private.worker as ray_worker


def silence_raylet() -> None:
    """Leave out what Ray prints of lost workers; call it before Ray starts.

    Ray prints such messages on stdout whatever its settings for logs are, which breaks output in
    JSON. What matters of them arrives as an exception of the request that was lost.
    """
    setattr(ray_worker, "listen_error_messages", lambda *_: None)  # noqa: B010  # it has no types
