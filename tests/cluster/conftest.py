"""Clusters for the tests of this folder, all of which carry the marker ``cluster``."""

from __future__ import annotations

import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_cluster import Cluster, leave_the_network, running_cluster


@pytest.fixture(scope="session")
def network() -> bool:
    """Whether the tests are alone in a network of their own, so that nothing else reaches them."""
    return leave_the_network()


@pytest.fixture(scope="session")
def cluster(network: bool) -> Iterator[Cluster]:
    """A head without CPUs and three nodes of one each, for tests that leave them as they are."""
    with running_cluster(cpus=0) as cluster:
        nodes = [cluster.add_node() for _ in range(3)]
        for node in nodes:
            node.await_start()
        yield cluster


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has everything but this package."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, symlinks=True)
    # Folders in a .pth file are searched, but their own .pth files are not run.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(borrowed)))
    return home / "bin" / "python"
