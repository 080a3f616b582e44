"""The verbs that are about machines: jobs and files for clusters, and what a machine has.

Everything heavy is imported inside the verbs, as in :mod:`warprl.launch.cli`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from warprl.launch import options
from warprl.launch.cluster import address
from warprl.launch.errors import UserError
from warprl.launch.options import flag, number, text
from warprl.launch.outcome import Outcome, Summary


def cluster_files(
    kind: Annotated[
        Literal["kuberay", "slurm", "vm", "sky"],
        typer.Argument(help="KubeRay, Slurm, virtual machines by 'ray up', or SkyPilot."),
    ],
    workers: Annotated[int, number("Workers of the run, one CPU each.")],
    storage: Annotated[str, text("URI", "Where the run is stored: s3://bucket/runs, or a path.")],
    out: Annotated[str | None, text("FOLDER", "Where to write.", default="NAME-KIND")] = None,
    image: Annotated[str | None, text("IMAGE", "Container image.", default="to be edited")] = None,
    name: Annotated[str, text("NAME", "Of the run, the job and its labels.")] = "warprl",
) -> Outcome[Summary]:
    """Write the files that train a run on a cluster. Prints the commands that come next."""
    from warprl.launch.cluster import files

    return files.write(kind, workers, storage, out, image, name)


def doctor(
    cluster: Annotated[
        bool, flag("--cluster", "Show the nodes of the cluster in RAY_ADDRESS instead.")
    ] = False,
    family: Annotated[
        str | None, text("FAMILY", "With --cluster: a family that nodes have to find.")
    ] = None,
    insecure: options.Insecure = False,
) -> Outcome[Summary]:
    """Check this machine: each part is OK, or you are told what to do."""
    from warprl.launch import doctor

    if cluster:
        return doctor.examine_cluster(family, address.options(None, insecure))
    if family is not None or insecure:
        raise UserError("--family and --insecure: give them with --cluster")
    return doctor.examine()


def submit(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="After two dashes: -- train, resume or sweep."),
    ],
    server: options.Server = None,
    wait: Annotated[bool, flag("--wait", "Follow the job; its exit status becomes ours.")] = False,
    grace: Annotated[int, number("Seconds to save the run when the job is stopped.")] = 120,
) -> Outcome[Summary]:
    """Train on a cluster: submit a train, resume or sweep as a job. Prints its id last.

    The package and the modules of your own task families go along, and nothing else.
    Runs need a URI, or an absolute path on the cluster. A run that exists is continued.
    """
    given = _submittable(context, command)
    from warprl.launch.cluster import jobs
    from warprl.launch.submission import command_for_job

    for_job = command_for_job(command[0], given, command[1:])
    return jobs.submit(for_job, server, grace, given["insecure"], wait)


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="A job; all if left out.")
    ] = None,
    server: options.Server = None,
) -> Outcome[Summary]:
    """List the jobs of a cluster: their states, and the iterations that their runs have reached."""
    from warprl.launch.cluster import jobs

    return jobs.status(job, server)


def logs(
    job: options.Job,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    server: options.Server = None,
) -> Outcome[Summary]:
    """Print what a job has printed."""
    from warprl.launch.cluster import jobs

    return jobs.logs(job, follow, server)


def stop(job: options.Job, server: options.Server = None) -> Outcome[Summary]:
    """Stop a job after its current iteration, which is saved; wait until it has ended."""
    from warprl.launch.cluster import jobs

    return jobs.stop(job, server)


def fetch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A path, a URI, or the id of a job.")],
    to: Annotated[str | None, text("FOLDER", "A new folder.", default="runs/<name>")] = None,
    server: options.Server = None,
) -> Outcome[Summary]:
    """Copy the run of a job to a folder, and verify its checkpoints."""
    from warprl.launch.cluster import fetch

    return fetch.fetch(run, to, server)


def _submittable(context: typer.Context, command: Sequence[str]) -> dict[str, Any]:
    """The arguments of a command that a job may run, by name. Raises an error as it would."""
    verb, *arguments = command
    if verb not in ("train", "resume", "sweep"):
        raise UserError(f"submit: {verb!r} is no command for a job: it may be train, resume, sweep")
    group: Any = context.find_root().command
    given: dict[str, Any] = group.commands[verb].make_context(verb, arguments).params
    return given


VERBS = cluster_files, submit, status, logs, stop, fetch, doctor
