"""A run as RLlib's ``AlgorithmConfig``: our keys beside RLlib's settings; see docs/rllib.md."""

from __future__ import annotations

import reprlib
from typing import Any, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs.config import WORKER_TIMEOUT_S, RunConfig
from warprl.launch.settings import setting

OWN = ("family", "agent", "settings")  # attributes of the configuration that are not RLlib's,
BOOKKEEPING = ("algo_class", "class", "_is_frozen")  # and those that are no settings
ALIASES = {  # keys of a run that are settings of RLlib
    "seed": "seed",
    "compute.workers": "num_env_runners",
    "compute.worker_timeout_s": "sample_timeout_s",
}
HONOURED = (  # RLlib's settings that do what RLlib says
    *ALIASES.values(),
    "callbacks_on_checkpoint_loaded",
    "callbacks_on_train_result",
    "log_sys_usage",
    "placement_strategy",
)
INSTEAD = {  # what to set in place of RLlib's other settings
    "callbacks_class": "callbacks_on_train_result",
    "env": "family",
    "gamma": "adaptation.gamma",
    "grad_clip": "outer.max_grad_norm",
    "lr": "outer.warp_lr and outer.init_lr",
    "minibatch_size": "outer.minibatches",
    "model": "policy.hidden and the other keys of policy",
    "num_epochs": "outer.epochs",
    "num_gpus": "compute.device",
    "num_gpus_per_learner": "compute.device",
    "train_batch_size": "tasks and adaptation.episodes",
    "train_batch_size_per_learner": "tasks and adaptation.episodes",
}


class MetaConfig(AlgorithmConfig):
    """The family, the agent and the keys of a run beside RLlib's own settings.

    Keys may have search spaces as values, which :class:`ray.tune.Tuner` resolves. Among RLlib's own
    settings, ``num_env_runners`` is the number of workers, ``sample_timeout_s`` the time after
    which a worker without an answer is replaced, and ``seed`` the seed. A setting that would be
    ignored is refused.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        """Start with the ``warpgrad`` agent and without a task family."""
        super().__init__(algo_class=algo_class)
        self.family, self.agent = "", "warpgrad"
        self.settings: dict[str, Any] = {}
        self.seed: Any = 0
        self.sample_timeout_s = WORKER_TIMEOUT_S

    def meta(self, *, family: str | None = None, agent: str | None = None, **keys: Any) -> Self:
        """Set the family, the agent and keys of the run. What is not given keeps its value.

        Args:
            family: the task family, as ``warprl envs`` lists them.
            agent: the agent, as ``warprl agents`` lists them; it decides the defaults of all keys.
            keys: values, or search spaces, of keys as ``warprl config`` shows them, such as
                ``tasks=20`` or ``**{"adaptation.inner_lr": 0.1}``.

        Returns:
            The configuration itself.
        """
        self.family, self.agent = family or self.family, agent or self.agent
        for key in keys.keys() & ALIASES.keys():
            setattr(self, ALIASES[key], keys[key])
        self.settings = self.settings | {k: v for k, v in keys.items() if k not in ALIASES}
        return self

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """The configuration with which :meth:`run` is this one."""
        keys = configuration.flat(run)
        del keys["schema_version"]
        return cls().meta(**keys)

    def run(self) -> RunConfig:
        """The configuration of the run. Raises UserError, in one line, for a bad key or value."""
        if not self.family:
            raise UserError("family is not set: call .meta(family=...) with one of 'warprl envs'")
        keys = self.settings | {key: getattr(self, name) for key, name in ALIASES.items()}
        return configuration.resolve(
            self.family, self.agent, {}, [setting(key, value) for key, value in keys.items()]
        )

    def validate(self) -> None:
        """Raise UserError, in one line, for a setting that is wrong or would be ignored."""
        for name, value in self._changed().items():
            if name not in HONOURED:
                name = name.removeprefix("_")
                hint = f": set {INSTEAD[name]} instead" if name in INSTEAD else ""
                raise UserError(f"WarpGrad does not use {name} = {reprlib.repr(value)}{hint}")
        self.run()

    def to_dict(self) -> dict[str, Any]:
        """The settings that differ from RLlib's defaults, flat: Tune varies and shows these."""
        return {"family": self.family, "agent": self.agent, **self.settings, **self._changed()}

    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """Set RLlib's settings and keys of the run, which a dict for Tune mixes."""
        rllib = {k: v for k, v in config_dict.items() if k.startswith("__") or self._knows(k)}
        super().update_from_dict(rllib)
        return self.meta(**{k: v for k, v in config_dict.items() if k not in rllib})

    def get_state(self) -> dict[str, Any]:
        """All attributes, also those that are -1, which RLlib would leave out: they are refused."""
        known = {k: v for k, v in vars(self).items() if k not in BOOKKEEPING}
        return {**known, "class": type(self)}

    def _knows(self, name: str) -> bool:
        return self._translate_special_keys(name, warn_deprecated=False) in vars(self).keys()

    def _changed(self) -> dict[str, Any]:
        """RLlib's settings that are not at their defaults."""
        default, left_out = vars(type(self)()), (*OWN, *BOOKKEEPING)
        return {
            name: value
            for name, value in vars(self).items()
            if not (name.startswith("__") or name in left_out)
            and (name not in default or value != default[name])
        }
