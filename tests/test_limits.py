"""What no machine should hold is refused before anything is allocated, whoever asked for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from warprl.agents.policy import Policy
from warprl.agents.presets import PRESETS
from warprl.envs import make_family
from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import stored
from warprl.launch.training import cells

FAMILY = "point-navigation-v1"


def bomb(levels: int) -> str:
    """A few hundred bytes of YAML that stand for 10 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    return "\n".join(lines)


@pytest.mark.parametrize("read", [configuration.load, cells.read])
def test_yaml_with_anchors_and_aliases_is_refused(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "file.yaml"
    for text in (bomb(12), "a: &x [1]\nb: *x\n", "a: &x {b: *x}", "<<: *x"):
        path.write_text(text)
        with pytest.raises(UserError, match="line 1 has an anchor or an alias"):
            read(path)


@pytest.mark.parametrize("read", [configuration.load, cells.read])
def test_a_file_that_is_too_large_or_no_file_is_refused_unread(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "file.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing
    with pytest.raises(UserError, match="it has 1,099,511,627,776 bytes, and may have 262,144"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="file"):
        read(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["policy.hidden=[" + ",".join(["4096"] * 33) + "]"], "should be a list of 1 to 32"),
        (["policy.hidden=[4096,4096,4096,4096,4096]"], "parameters: 67,108,864 are the most"),
        (
            ["policy.hidden=[4096,4096]", "policy.warp=residual", "policy.rates=true"],
            "are the most",
        ),
        (["adaptation.steps=10001"], "adaptation.steps = 10001: should be less"),
        (["adaptation.episodes=10001"], "adaptation.episodes = 10001: should be less"),
        (["tasks=10001"], "tasks = 10001: should be less"),
        (["tasks=10000", "adaptation.episodes=10000"], "numbers: 8,589,934,592 are the most"),
        (["iterations=1000000001"], "iterations = 1000000001: should be less"),
    ],
)
def test_what_no_machine_should_hold_is_refused_before_it_is_made(
    given: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Policy, "init")
    with pytest.raises(UserError, match=message) as error:
        configuration.resolve(FAMILY, "warpgrad", {}, given)
    assert len(str(error.value)) < 300


def test_a_grid_of_too_many_runs_is_refused_before_it_is_made(tmp_path: Path) -> None:
    vary = {f"outer.x{n}": list(range(10)) for n in range(30)}
    grid = {"families": [FAMILY], "agents": ["maml"], "seeds": [1], "iterations": 1, "vary": vary}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    with pytest.raises(UserError, match="runs: 10,000 are the most"):
        cells.read(tmp_path / "grid.yaml")


@pytest.mark.parametrize("agent", sorted(PRESETS))
@pytest.mark.parametrize("family", [FAMILY, "maze-v1"])
def test_the_size_of_a_network_is_known_without_making_it(family: str, agent: str) -> None:
    config = configuration.of_preset(family, agent)
    parameters = stored.fresh(config)
    assert make_family(family).spaces.obs_size == config.network.obs_dim
    assert config.network.sizes == tuple(
        sum(tensor.numel() for tensor in part.values()) for part in parameters
    )
