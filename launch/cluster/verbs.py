"""The verbs that are about machines: files for clusters, and what a machine or a cluster has.

Everything heavy is imported inside the verbs, as in :mod:`warprl.launch.cli`.
"""

from __future__ import annotations

from typing import Annotated, Literal

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


VERBS = cluster_files, doctor
