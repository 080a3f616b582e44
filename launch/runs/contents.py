"""What a run saves in a checkpoint beside tensors: a document, which is checked when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from warprl.agents.policy import PolicyConfig
from warprl.counts import brief, shown
from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.metrics import MAX_NUMBER, Logged

Count = Annotated[int, Ge(0), Le(2**63)]


class Part(BaseModel):
    """A part of the document: every key is known, every value has its type and range."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Scalars(Part):
    """What the learner's state holds beside its tensors."""

    kl_coefficient: Annotated[float, Ge(0)]
    step_scale: Annotated[float, Gt(0), Le(1)]
    iteration: Count


class Counters(Part):
    """The metrics that add up over a run."""

    env_steps: Count
    wall_s: Annotated[float, Ge(0), Le(MAX_NUMBER)]
    workers_replaced: Count


class Document(Part):
    """The whole of it. Older checkpoints have neither ``config`` nor ``metrics``."""

    family: str
    policy: dict[str, Any]
    learner: Scalars
    counters: Counters
    config: dict[str, Any] | None = None
    metrics: Logged | None = None


def write(
    config: RunConfig,
    scalars: Mapping[str, float],
    counters: Mapping[str, float],
    logged: Logged | None,
) -> dict[str, Any]:
    """The document of a run's checkpoint.

    Args:
        config: of the run; what of it decides the results is saved.
        scalars: of the learner's state.
        counters: the metrics that add up.
        logged: what is in metrics.jsonl; None if the run has no such file.
    """
    document = {
        "family": config.family,
        "policy": config.model_dump(mode="json")["policy"],
        "learner": dict(scalars),
        "counters": dict(counters),
        "config": configuration.computed(config),
    }
    return document if logged is None else {**document, "metrics": vars(logged)}


def read(document: Mapping[str, Any], where: str) -> Document:
    """The document of a checkpoint, which messages name ``where``. Raises UserError."""
    try:
        # Strict JSON mode, as for the configuration.
        return Document.model_validate_json(json.dumps(document))
    except ValidationError as error:
        keys = {name: field.annotation for name, field in Document.model_fields.items()}
        raise UserError(f"{where}: {configuration.ADVICE.explain(error, keys)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: its document is not plain JSON") from error


def require_fit(document: Document, config: RunConfig, where: str) -> None:
    """Raise UserError, in one line, unless a checkpoint is of this family and this policy."""
    if document.family != config.family:
        raise UserError(
            f"{where} is of family {brief(document.family)}, and this run is of {config.family}"
        )

    # A key of the policy that is newer than the checkpoint had its default, and one without effect
    # may differ.
    defaults = TypeAdapter(PolicyConfig).dump_python(PolicyConfig(), mode="json")
    policy = defaults | document.policy
    mine = configuration.plain(config)["policy"]
    for key in policy:
        if key not in defaults:
            raise UserError(f"{where}: its policy has an unknown key {shown(key)}")
        if key in mine and policy[key] != mine[key]:
            raise UserError(
                f"{where} does not belong to this run: its policy has {key} = "
                f"{shown(policy[key])}, and the configuration has {shown(mine[key])}"
            )


def require_unchanged(document: Document, config: RunConfig, where: str) -> None:
    """Raise UserError, naming the keys, if the configuration has changed since it was saved."""
    before, now = document.config or {}, configuration.computed(config)
    if keys := configuration.changed(before, now):
        changes = ", ".join(
            f"{key} was {shown(before[key])} and is {shown(now[key])}" for key in keys
        )
        raise UserError(
            f"the configuration has changed since {where} was saved: {changes}: undo that, or give "
            "--changed to continue as another experiment"
        )
