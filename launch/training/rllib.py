"""An adapter that presents the training loop as an RLlib Algorithm; see docs/rllib.md.

Nothing is computed here: :func:`warprl.launch.training.loop.iterations` does that, with the same
bits as ``warprl train``. What the adapter saves is a run that every command takes.
"""

from __future__ import annotations

import reprlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune import Checkpoint, PlacementGroupFactory

from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import stored
from warprl.launch.runs.config import WORKER_TIMEOUT_S, RunConfig
from warprl.launch.settings import setting
from warprl.launch.training.loop import Progress, experiment_of, iterations, sampling
from warprl.learner import LearnerState

METRICS = "meta"  # the key of our metrics in RLlib's results
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
INSTEAD = {
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


ABSENT = {  # methods of RLlib's algorithms, and what there is instead
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
    "export_policy_model": "use warprl.load(path).export(file)",
    "export_policy_checkpoint": "use warprl.load(path).policy.save(folder)",
    "add_module": "a run has one policy: set it with meta(...)",
    "remove_module": "a run has one policy: set it with meta(...)",
    "add_policy": "a run has one policy: set it with meta(...)",
    "remove_policy": "a run has one policy: set it with meta(...)",
}


class WarpGradConfig(AlgorithmConfig):
    """RLlib's configuration of a run: the family, the agent and the keys of ``config.yaml``.

    >>> config = WarpGradConfig().env_runners(num_env_runners=0)
    >>> config = config.meta(family="point-navigation-v1", agent="promp", tasks=2, seed=3)
    >>> config = config.meta(**{"adaptation.episodes": 2, "policy.hidden": [8]})
    >>> algorithm = config.build_algo()
    >>> result = algorithm.train()
    >>> result["num_env_steps_sampled_lifetime"]
    800
    >>> sorted(name for name in iteration_metrics(result) if name.startswith("return_"))
    ['return_step_0', 'return_step_1']
    >>> algorithm.stop()

    Keys may have search spaces as values, which :class:`ray.tune.Tuner` resolves. Among RLlib's own
    settings, ``num_env_runners`` is the number of workers, ``sample_timeout_s`` the time after
    which a worker without an answer is replaced, and ``seed`` the seed. A setting that would be
    ignored is refused.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        """Start with the ``warpgrad`` agent and without a task family."""
        super().__init__(algo_class=algo_class or WarpGrad)
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


class WarpGrad(Algorithm):
    """Meta-learns warp parameters phi and the initialisation theta_0 (Flennerhag et al., 2020).

    It has no EnvRunners, Learners or RLModules of RLlib's. Use ``train``, ``save``, ``restore``,
    ``from_checkpoint`` and ``stop``.
    """

    config: WarpGradConfig

    @classmethod
    def get_default_config(cls) -> WarpGradConfig:
        """The ``warpgrad`` agent."""
        return WarpGradConfig()

    @classmethod
    def default_resource_request(cls, config: Any) -> PlacementGroupFactory:
        """One core for each worker. The process that waits for workers needs none of its own."""
        settings = cls.get_default_config().update_from_dict(config)
        workers = settings.num_env_runners
        bundles = [{"CPU": 0.0 if workers else 1.0}, *[{"CPU": 1.0}] * workers]
        return PlacementGroupFactory(bundles, strategy=settings.placement_strategy)

    def setup(self, config: Any) -> None:
        """Start the workers, if there are any, and draw the initial parameters."""
        self._set_up_metrics()  # type: ignore[no-untyped-call]
        self.callbacks: list[Any] = []  # of classes; functions are called
        self._run = config.run()
        self._experiment = experiment_of(self._run)
        self._progress = Progress.begin(self._experiment)
        self._resources = ExitStack()
        self._sampler = self._resources.enter_context(sampling(self._run, self._experiment))

    @property
    def learner_state(self) -> LearnerState:
        """All that has been learned so far."""
        return self._progress.learner

    def step(self) -> dict[str, Any]:
        """One meta-iteration."""
        before = self._progress.counters
        device = self._run.compute.device
        steps = iterations(self._experiment, self._sampler, self._progress, device)
        self._progress, metrics = next(steps)
        last = self._experiment.agent.adaptation.steps
        wall, update = metrics["wall_s"] - before["wall_s"], metrics["time.meta_update"]
        planned = "iterations" in self.config.settings
        return {
            METRICS: metrics,
            "num_env_steps_sampled_lifetime": metrics["env_steps"],
            "env_runners": {
                "episode_return_mean": metrics[f"return_step_{last}"],
                "num_env_steps_sampled": metrics["env_steps"] - before["env_steps"],
                "num_env_steps_sampled_lifetime": metrics["env_steps"],
            },
            "timers": {
                "training_step": wall,
                "env_runner_sampling_timer": wall - update,
                "learner_update_timer": update,
            },
            "fault_tolerance": {"num_remote_worker_restarts": metrics["workers_replaced"]},
            "done": planned and metrics["iteration"] >= self._run.iterations,
        }

    def cleanup(self) -> None:
        """End the workers."""
        self._resources.close()

    def save_to_path(  # type: ignore[override]  # always the whole of its own state
        self, path: str | Path | None = None, *, use_msgpack: bool = False
    ) -> str:
        """Save as a run with one more checkpoint, which every command of ``warprl`` takes.

        Nothing is pickled, and so RLlib's ``use_msgpack`` makes no difference. Raises UserError if
        the folder holds a run of another configuration.
        """
        folder = Path(path or tempfile.mkdtemp())
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "config.yaml"
        if file.exists():
            for key in configuration.differences(configuration.load(file), self._run):
                raise UserError(f"{folder} holds another run, with another {key}")
        file.write_text(configuration.dump(self._run), encoding="utf-8")
        self._progress.save(folder / "checkpoints", self._run)
        return str(folder)

    def restore_from_path(self, path: str | Path) -> None:  # type: ignore[override]
        """Continue from the newest intact checkpoint of a run.

        Raises UserError if there is none, or if the family or the policy differs.
        """
        found = configuration.load(Path(path) / "config.yaml")
        for key in configuration.differences(found, self._run):
            if key.partition(".")[0] in ("family", "policy"):
                was, now = (configuration.flat(run).get(key) for run in (found, self._run))
                raise UserError(f"{path}: cannot continue: {key} was {was} and is now {now}")
        self._progress = Progress.load(stored.load_checkpoint(Path(path), found, None))
        self._iteration = self._progress.learner.iteration

    @classmethod
    def from_checkpoint(  # type: ignore[override]  # there is only one policy
        cls, path: str | Path | Checkpoint, filesystem: Any = None
    ) -> Self:
        """The algorithm that saved a checkpoint, at the iteration at which it did.

        Args:
            path: a folder or URI, such as that of a checkpoint that Tune saved, or of a run.
            filesystem: where ``path`` lies, if it is neither on this disk nor a URI.
        """
        where = path if isinstance(path, Checkpoint) else Checkpoint(path, filesystem)
        with where.as_directory() as folder:
            keys = configuration.flat(configuration.load(Path(folder) / "config.yaml"))
            del keys["schema_version"]
            algorithm = cls(config=WarpGradConfig().meta(**keys))
            algorithm.restore_from_path(folder)
        return algorithm


def _absent(name: str, instead: str) -> Callable[..., Any]:
    """A method that RLlib's algorithms have and WarpGrad has not."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise UserError(f"WarpGrad has no {name}(): {instead}")

    return refuse


for _name, _instead in ABSENT.items():
    setattr(WarpGrad, _name, _absent(_name, _instead))


def iteration_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Our metrics of one iteration, from RLlib's result."""
    metrics: dict[str, Any] = result[METRICS]
    return metrics
