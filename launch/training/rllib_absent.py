"""Methods of RLlib's algorithms that WarpGrad does not have: each is refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from warprl.launch.errors import UserError

T = TypeVar("T")

ABSENT = {  # the methods, and what there is instead
    "evaluate": "use warprl.load(path).evaluate()",
    "get_policy": "use warprl.load(path).policy",
    "get_module": "use warprl.load(path).policy",
    "compute_single_action": "use warprl.load(path).policy.act(obs)",
    "compute_actions": "use warprl.load(path).policy.predict(obs)",
    "get_weights": "use learner_state",
    "get_state": "use learner_state, or save(path)",
    "set_weights": "use restore(path)",
    "set_state": "use restore(path)",
    "from_state": "use from_checkpoint(path)",
    "export_model": "use warprl.load(path).export(file)",
    "export_policy_model": "use warprl.load(path).export(file)",
    "export_policy_checkpoint": "use warprl.load(path).policy.save(folder)",
    "add_module": "a run has one policy: set it with meta(...)",
    "remove_module": "a run has one policy: set it with meta(...)",
    "add_policy": "a run has one policy: set it with meta(...)",
    "remove_policy": "a run has one policy: set it with meta(...)",
}


def without_absent(algorithm: type[T]) -> type[T]:
    """A class decorator: calling a method of ABSENT raises UserError, which says what to use."""
    for name, instead in ABSENT.items():
        setattr(algorithm, name, _refusal(name, instead))
    return algorithm


def _refusal(name: str, instead: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UserError(f"WarpGrad has no {name}(): {instead}")

    return refuse
