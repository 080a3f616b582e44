"""Reads configurations of schema 1 and turns them into schema 2.

Schema 1 had one flat section for the learner, in which some keys decided whether others had an
effect. Only the keys of the chosen types are carried over.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from warprl.launch.errors import UserError, require_known

# The keys of the learner that kept their names, in the section of the outer step.
OUTER = (
    "init_lr",
    "epochs",
    "minibatches",
    "kl_coefficient",
    "kl_target",
    "kl_limit",
    "max_grad_norm",
)

# The new names of keys. A key of policy or adaptation that is not listed kept its name.
RENAMED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "workers": ("compute.workers",),
        "worker_timeout_s": ("compute.worker_timeout_s",),
        "checkpoint_every": ("output.checkpoint_every",),
        "keep": ("output.keep",),
        "adaptation.by": ("adaptation.type",),
        "adaptation.lr": ("adaptation.inner_lr",),
        "learner.objective": ("objective.type", "objective.kind"),
        "learner.schedule": ("outer.epochs", "outer.minibatches"),
        "learner.init": ("init",),
        "learner.loss": ("loss.type",),
        "learner.clip": ("loss.clip",),
        "learner.optimizer": ("outer.type",),
        "learner.lr": ("outer.warp_lr",),
        "learner.warp_every": ("objective.warp_every",),
        **{f"learner.{key}": (f"outer.{key}",) for key in OUTER},
    }
)

# A run that is older than a key had this default. These values never change.
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "policy": {
            "hidden": [64, 64],
            "warp": None,
            "rates": False,
            "log_std": 0.0,
            "memory": None,
            "warped": None,
        },
        "adaptation": {
            "steps": 1,
            "layers": "all",
            "lr": 0.1,
            "episodes": 20,
            "gamma": 0.99,
            "lam": 0.95,
            "by": "gradient",
        },
        "learner": {
            "objective": "exact",
            "schedule": "offline",
            "init": "fixed",
            "loss": "ppo",
            "optimizer": "adam",
            "lr": 1e-3,
            "init_lr": 1e-3,
            "clip": 0.3,
            "epochs": 5,
            "minibatches": 1,
            "kl_coefficient": 5e-4,
            "kl_target": 0.02,
            "kl_limit": 0.1,
            "max_grad_norm": 1.0,
            "warp_every": 30,
        },
    }
)


def upgrade(data: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of schema 1 as one of schema 2 that computes the same.

    Args:
        data: the content of its file.

    Returns:
        The same choices, not validated yet: a wrong value stays wrong.

    Raises:
        UserError: for a section that is missing, and for a key that schema 1 did not have.
    """
    policy, adaptation, learner = (_section(data, name) for name in DEFAULTS)
    compute = {"workers", "worker_timeout_s"} & data.keys()
    output = {"checkpoint_every", "keep"} & data.keys()
    same = data.keys() - DEFAULTS.keys() - compute - output
    return {
        **{name: data[name] for name in data if name in same},
        "schema_version": 2,
        "policy": policy,
        "adaptation": _adaptation(adaptation),
        "objective": _objective(learner),
        "init": learner["init"],
        "loss": _loss(learner),
        "outer": _outer(learner),
        "compute": {name: data[name] for name in compute},
        "output": {name: data[name] for name in output},
    }


def _section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section with all of its keys."""
    if not isinstance(data.get(name), dict):
        raise UserError(f"key {name!r} is missing")
    known = [f"{name}.{key}" for key in DEFAULTS[name]]
    for key in data[name]:
        require_known("key", f"{name}.{key}", known)
    return {**DEFAULTS[name], **data[name]}


def _adaptation(old: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: old[key] for key in ("steps", "episodes", "gamma", "lam")}
    if old["by"] == "memory":
        return {"type": "memory", **rest}
    return {"type": old["by"], "inner_lr": old["lr"], "layers": old["layers"], **rest}


def _objective(old: Mapping[str, Any]) -> dict[str, Any]:
    if old["objective"] == "two-time-scale":
        return {"type": "two-time-scale", "warp_every": old["warp_every"]}
    return {"type": "look-ahead", "kind": old["objective"]}


def _loss(old: Mapping[str, Any]) -> dict[str, Any]:
    if old["loss"] == "ppo":
        return {"type": "ppo", "clip": old["clip"]}
    return {"type": old["loss"]}


def _outer(old: Mapping[str, Any]) -> dict[str, Any]:
    if old["optimizer"] == "trpo":
        return {"type": "trpo", "kl_limit": old["kl_limit"]}
    if old["schedule"] not in ("online", "offline"):
        raise UserError(f"learner.schedule = {old['schedule']!r}: should be online or offline")
    online = {"epochs": 1, "minibatches": 1} if old["schedule"] == "online" else {}
    rest = {key: old[key] for key in OUTER}
    return {"type": old["optimizer"], "warp_lr": old["lr"], **rest, **online}
