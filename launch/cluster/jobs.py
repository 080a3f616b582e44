"""Training as jobs of a cluster: submitted from any machine that reaches its job server.

A job is found again by its id, which derives from the name of its run. What this machine knows of
it comes from the job server, and from the run itself where its folder can be read from here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobType

from warprl.launch.cluster import server, shipment
from warprl.launch.cluster.server import Client
from warprl.launch.cluster.shipment import Command
from warprl.launch.errors import RunFailedError, UserError, require_known, whole_number
from warprl.launch.outcome import Document, Outcome, table
from warprl.launch.runs.storage import open_place

PLACE = "warprl_run"  # the key of a job's metadata for where it writes
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # Ray's, for the time between SIGTERM and SIGKILL
METRICS = "metrics.jsonl"  # of a run; the module that writes it loads torch
PASSED_ON = ("WARPRL_STORAGE",)  # variables that a job needs as well
RAYS_GRACE_S = 3  # without that variable
SLACK_S = 60.0  # after its grace time, in which Ray ends a job by force
POLL_S = 0.5
LAST_WORDS = re.compile(
    r"^(?:(?:finished|stopped by \w+ and saved) at iteration (\d+)|\d+ runs: ).*$", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class Job(Document):
    """A job: the run or the folder that it writes, and how far it has come.

    ``iteration`` is the newest in the log of its run; it is None if the run is not to be read here.
    ``run`` is None if the job was submitted by other means.
    """

    job: str
    run: str | None
    state: str
    iteration: int | None
    started: str | None
    exit_status: int | None


@dataclass(frozen=True)
class Jobs(Document):
    """The jobs of a cluster, from the first to the newest."""

    jobs: Sequence[Job]


@dataclass(frozen=True)
class Log(Document):
    """What a job has printed."""

    job: str
    log: str


@dataclass(frozen=True)
class Stopped(Document):
    """A job that was asked to stop: its state, and the iteration at which its run was saved."""

    job: str
    state: str
    iteration: int | None


def submit(
    command: Command, address: str | None, grace: int, insecure: bool, wait: bool
) -> Outcome[Job]:
    """Submit a command as a job, and with ``wait`` follow it to its end.

    Raises UserError if the cluster cannot be used, or a job writes the same run already.

    Args:
        command: what the job does.
        address: of the job server; by default the environment has it.
        grace: seconds that the job has to save its run when it is stopped.
        insecure: submit to a cluster that anybody can use.
        wait: whether to print its log until it ends, and return its exit status.
    """
    whole_number("grace", grace, 1)
    with server.connected(address) as client:
        if not insecure:
            server.require_closed(client)
        job = _new_id(command, _submitted(client))
        with shipment.packed(command) as folder:
            client.submit_job(
                entrypoint=command.entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(folder), "env_vars": _env_vars(grace)},
                metadata={PLACE: command.place},
            )
        if not wait:
            here = _described(_find(client, job))
            return Outcome(here, f"submitted; follow it with 'warprl logs --follow {job}'\n{job}")

        # It is the job's exit status that counts.
        print(f"submitted {job}, which goes on if this command ends", flush=True)
        ended = _follow(client, job)
    here = _described(ended)
    return Outcome(here, _ending(ended), here.exit_status or 0)


def status(job: str | None, address: str | None) -> Outcome[Jobs]:
    """The jobs of a cluster, or one of them. Raises UserError if there is no such job."""
    with server.connected(address) as client:
        found = _submitted(client) if job is None else [_find(client, job)]

    # Storage that is not to be reached from here takes its time.
    with ThreadPoolExecutor() as threads:
        rows = list(threads.map(_described, found))
    if not rows:
        return Outcome(Jobs(rows), "there are no jobs")

    # One row a job.
    cells = [
        [row.job, row.state, _shown(row.iteration), _shown(row.started), _shown(row.run)]
        for row in rows
    ]
    return Outcome(Jobs(rows), table(["job", "state", "iteration", "started", "run"], cells))


def logs(job: str, follow: bool, address: str | None) -> Outcome[Log]:
    """What a job has printed; with ``follow``, also what it prints until it ends.

    Raises UserError if there is no such job.
    """
    with server.connected(address) as client:
        details = _find(client, job)
        if follow:
            details = _follow(client, job)
        log = client.get_job_logs(job)
    return Outcome(Log(job, log), _ending(details) if follow else log.rstrip("\n"))


def stop(job: str, address: str | None) -> Outcome[Stopped]:
    """Stop a job once it has saved its run, and wait until it has ended.

    Raises UserError if there is no such job, and RunFailedError if it does not end.
    """
    with server.connected(address) as client:
        # One that has ended needs nothing.
        details = _find(client, job)
        if details.status.is_terminal():
            return Outcome(
                Stopped(job, _state(details), None), f"{_ending(details)} before; nothing to stop"
            )

        # Others are given their grace time.
        client.stop_job(job)
        limit = _grace(details) + SLACK_S
        details = _await_end(client, job, limit)
        if not details.status.is_terminal():
            raise RunFailedError(f"{job} has not ended within {limit:g} s: try again")
        found = list(LAST_WORDS.finditer(client.get_job_logs(job)))

    # Its last words say at which iteration it was saved.
    iteration = found[-1][1] if found else None
    said = [_ending(details), *(match[0] for match in found[-1:])]
    if not found and details.status == JobStatus.STOPPED:
        said.append(f"it had not begun to train, or its iteration took over {_grace(details):g} s")
    summary = Stopped(job, _state(details), int(iteration) if iteration else None)
    return Outcome(summary, ": ".join(said))


def place_of(job: str, address: str | None) -> str:
    """Where a job writes its run. Raises UserError if there is no such job, or nothing says so."""
    with server.connected(address) as client:
        place = _run_of(_find(client, job))
    if place is None:
        raise UserError(f"job {job} was not submitted by warprl: give the path of its run")
    return place


def exit_status(details: JobDetails) -> int | None:
    """The exit status of a job as a shell has it, or None if it has not ended."""
    if not details.status.is_terminal():
        return None
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code: int | None = details.driver_exit_code
    if code is None:
        return 128 + signal.SIGTERM if details.status == JobStatus.STOPPED else 1
    return 128 - code if code < 0 else code


def _env_vars(grace: int) -> dict[str, str]:
    """The environment of a job: names of runs mean there what they mean here."""
    known = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    return {STOP_WAIT: str(grace), **known}


def _new_id(command: Command, jobs: Sequence[JobDetails]) -> str:
    """An id for a job: the name of its run, with a number from its second job on.

    Raises UserError if a job writes this run already.
    """
    for details in jobs:
        if _run_of(details) == command.place and not details.status.is_terminal():
            job = _id_of(details)
            raise UserError(f"{command.place} is written by job {job}: 'warprl stop {job}' ends it")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", command.name)
    taken, number = set(map(_id_of, jobs)), 1
    while (job := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return job


def _submitted(client: Client) -> list[JobDetails]:
    """The jobs of a cluster in the order in which they were submitted."""
    jobs = [details for details in client.list_jobs() if details.type == JobType.SUBMISSION]
    return sorted(jobs, key=lambda details: details.start_time or 0)


def _find(client: Client, job: str) -> JobDetails:
    known = {_id_of(details): details for details in _submitted(client)}
    if not known:
        raise UserError(f"no job {job!r}: this cluster has none")
    require_known("job", job, known)
    return known[job]


def _follow(client: Client, job: str) -> JobDetails:
    """Print what a job prints until it ends."""
    printed = 0

    async def follow() -> None:
        nonlocal printed
        passed = 0
        async for text in client.tail_job_logs(job):  # from the beginning, whenever it is called
            sys.stdout.write(text[max(0, printed - passed) :])
            sys.stdout.flush()
            passed += len(text)
            printed = max(printed, passed)

    while True:
        try:
            asyncio.run(follow())
        except (RuntimeError, aiohttp.ClientError):  # the connection was lost
            time.sleep(POLL_S)
        details = _await_end(client, job, 2 * POLL_S)
        if details.status.is_terminal():
            return details


def _await_end(client: Client, job: str, limit_s: float) -> JobDetails:
    """The details of a job when it has ended, or after a time limit."""
    deadline = time.monotonic() + limit_s
    while not (details := client.get_job_info(job)).status.is_terminal():
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return details


def _id_of(details: JobDetails) -> str:
    return str(details.submission_id)


def _run_of(details: JobDetails) -> str | None:
    return (details.metadata or {}).get(PLACE)


def _described(details: JobDetails) -> Job:
    run, began = _run_of(details), details.start_time
    started = began and datetime.fromtimestamp(began / 1000).isoformat(" ", "seconds")
    return Job(
        job=_id_of(details),
        run=run,
        state=_state(details),
        iteration=None if run is None else _reached(run),
        started=started or None,
        exit_status=exit_status(details),
    )


def _reached(run: str) -> int | None:
    """The last iteration in the log of a run, if it has one that can be read from here."""
    try:
        _, *complete = reversed(open_place(run).read(METRICS).split(b"\n"))
        return int(json.loads(complete[0])["iteration"]) if complete else None
    except (OSError, UserError, ValueError, KeyError):
        return None


def _state(details: JobDetails) -> str:
    return str(details.status).lower()


def _ending(details: JobDetails) -> str:
    """How a job ended, in a line."""
    text = f"{_id_of(details)}: {_state(details)}"
    if details.status != JobStatus.FAILED:
        return text
    if details.driver_exit_code is None:  # then Ray says why; otherwise it repeats the log
        return f"{text}: {' '.join((details.message or '').split())[:500]}"
    return f"{text} with status {exit_status(details)}"


def _grace(details: JobDetails) -> float:
    env_vars = (details.runtime_env or {}).get("env_vars", {})
    return float(env_vars.get(STOP_WAIT, RAYS_GRACE_S))


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
