"""What every test may rely on: one thread, deterministic torch, no display, no Ray left running.

What the tests make is noted in a ledger of their own, and not in that of whoever runs them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "WARPRL_STATE" not in os.environ:
    os.environ["WARPRL_STATE"] = tempfile.mkdtemp(prefix="warprl-tests-")
    atexit.register(shutil.rmtree, os.environ["WARPRL_STATE"], ignore_errors=True)

import pytest
import torch
from hypothesis import HealthCheck, settings

# A shell that starts the tests in the background lets them ignore Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
# Unlike use_deterministic_algorithms, this loads no compiler.
torch.set_deterministic_debug_mode("error")

# No test makes a statement about time, and the machine may be busy.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.fixture(scope="session", autouse=True)
def _ray_is_shut_down_at_the_end() -> Iterator[None]:
    """Tests that need Ray share one, which ends here."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


@pytest.fixture(autouse=True)
def _only_tests_with_the_marker_start_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Starting Ray takes seconds, so that ``make test`` leaves these tests out."""
    before = _ray_runs()
    yield
    marked = any(request.node.get_closest_marker(name) for name in ("ray", "cluster"))
    if not before and not marked:
        assert not _ray_runs(), "this test starts Ray: mark it with pytest.mark.ray"


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
