"""The job server of a cluster: where it is, and a client that does not wait for it for ever."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from ray import _raylet
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from warprl.launch.cluster import address as addresses
from warprl.launch.cluster.probe import TOKEN
from warprl.launch.errors import RunFailedError, UserError, one_line

CONNECT_S, FIRST_ANSWER_S, ANSWER_S = 5.0, 10.0, 120.0
AGENT_S = 90.0  # in which the head runs its first job; its server answers earlier
NO_AGENT = "No available agent"
URL = "http://HOST:8265"
TALKATIVE = (  # loggers of Ray's that would tell of each upload
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
REFUSED = (401, 403)  # statuses of requests without a token, or with a wrong one


class Client(JobSubmissionClient):
    """Ray's client, with limits of time and errors of one line."""

    def __init__(self, url: str) -> None:
        """Connect to a job server."""
        self._answer_s = FIRST_ANSWER_S
        tokens: Any = _raylet.AuthenticationTokenLoader.instance()  # type: ignore[attr-defined]
        super().__init__(url, headers=tokens.get_token_for_http_header(ignore_auth_mode=True))
        self._answer_s = ANSWER_S  # for it may be busy, but it is there

    def _do_request(self, method: str, endpoint: str, **settings: Any) -> Any:
        limits, deadline = (CONNECT_S, self._answer_s), time.monotonic() + AGENT_S
        while True:
            found = super()._do_request(method, endpoint, timeout=limits, **settings)
            unready = found.status_code == 500 and NO_AGENT in found.text
            if not unready or time.monotonic() > deadline:
                return found
            time.sleep(1.0)

    def _raise_error(self, r: requests.Response) -> NoReturn:
        reason = (r.text.strip().splitlines() or ["no reason given"])[-1]  # a traceback's last line
        raise RunFailedError(f"{self.get_address()} refuses with status {r.status_code}: {reason}")


@contextmanager
def connected(given: str | None) -> Iterator[Client]:
    """The client of a cluster's job server.

    Raises UserError, within half a minute, if there is none or it refuses our token, and
    RunFailedError if it does not answer in the ``with`` block.

    Args:
        given: the address on the command line; without one, the environment has it.
    """
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    url = url_of(given)
    kind: type[UserError] = UserError
    try:
        # Ray's client prefers these variables to what it is told.
        os.environ["RAY_API_SERVER_ADDRESS"] = url
        try:
            client = Client(url)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{url}: this is no job server of Ray ({one_line(error)})") from error
        kind = RunFailedError
        yield client
    except AuthenticationError as error:
        raise kind(f"{url}: the cluster refuses this token: {TOKEN}") from error
    except (requests.RequestException, ConnectionError) as error:
        raise kind(f"{url}: no job server answers there: {_reason(error)}") from error


def url_of(given: str | None) -> str:
    """The URL of a job server, from an option or from the environment.

    Raises UserError if there is none.
    """
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or addresses.named()
    if address is None:
        raise UserError(f"there is no cluster: give --address {URL}, or set RAY_ADDRESS")
    if "://" not in address:
        return addresses.dashboard(address)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{address}: jobs need {URL}, or the HOST:PORT that 'ray start' prints")
    return address.rstrip("/")


def require_closed(client: Client) -> None:
    """Raise UserError if anybody who reaches a cluster of other machines can run programs on it."""
    url = client.get_address()
    if addresses.is_loopback(f"{urlsplit(url).hostname}:0"):
        return
    answer = requests.get(f"{url}/api/jobs/", timeout=(CONNECT_S, ANSWER_S))
    if answer.status_code not in REFUSED:
        raise UserError(f"{url}: {addresses.OPEN} in the command that is submitted")


def _reason(error: Exception) -> str:
    """Why there was no answer, without the names of the libraries that it passed through."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    unreachable = isinstance(error, ConnectionError | requests.ConnectionError)
    return "it cannot be reached" if unreachable else one_line(error)
