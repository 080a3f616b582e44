"""WarpRL: meta-reinforcement learning with Warped Gradient Descent (Flennerhag et al., ICLR 2020).

Importing this package is cheap: it loads neither torch nor Ray nor an environment. The names of its
public interface load when they are first used; see :mod:`warprl.launch.api`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from warprl import envs as envs
    from warprl.agents.adapted import AdaptedPolicy as AdaptedPolicy
    from warprl.agents.adapter import Adapter as Adapter
    from warprl.checkpoint import CheckpointError as CheckpointError
    from warprl.envs import make_family as make_family
    from warprl.launch.api import compare as compare
    from warprl.launch.api import evaluate as evaluate
    from warprl.launch.api import families as families
    from warprl.launch.api import presets as presets
    from warprl.launch.api import render as render
    from warprl.launch.api import train as train
    from warprl.launch.errors import UserError as UserError
    from warprl.launch.handle import Run as Run
    from warprl.launch.handle import load as load
    from warprl.launch.training.train import StopTraining as StopTraining

__version__ = "0.1.0"

_HOMES = {
    "AdaptedPolicy": "agents.adapted",
    "Adapter": "agents.adapter",
    "CheckpointError": "checkpoint",
    "Run": "launch.handle",
    "StopTraining": "launch.training.train",
    "UserError": "launch.errors",
    "compare": "launch.api",
    "evaluate": "launch.api",
    "families": "launch.api",
    "load": "launch.handle",
    "make_family": "envs",
    "presets": "launch.api",
    "render": "launch.api",
    "train": "launch.api",
}

__all__ = [*_HOMES, "envs"]


def __getattr__(name: str) -> Any:
    """A name of the public interface, with the module that it comes from."""
    if name == "envs":
        return importlib.import_module("warprl.envs")
    if name not in _HOMES:
        raise AttributeError(f"module 'warprl' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"warprl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What there is, loaded or not."""
    return sorted({*globals(), *__all__})
