"""An adapter that presents the training loop as an RLlib Algorithm; see docs/rllib.md.

Nothing is computed here: :func:`warprl.launch.training.loop.iterations` does that, with the same
bits as ``warprl train``. What the adapter saves is a run that every command takes.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune import Checkpoint, PlacementGroupFactory

from warprl.launch.cluster.connection import prepare
from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import stored
from warprl.launch.runs.trust import Trust
from warprl.launch.training.loop import Progress, experiment_of, iterations, sampling
from warprl.launch.training.rllib_absent import without_absent
from warprl.launch.training.rllib_config import MetaConfig
from warprl.launch.training.rllib_results import iteration_metrics as iteration_metrics
from warprl.launch.training.rllib_results import result
from warprl.learner import LearnerState


class WarpGradConfig(MetaConfig):
    """RLlib's configuration of :class:`WarpGrad`.

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
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        """Start with the ``warpgrad`` agent and without a task family."""
        super().__init__(algo_class or WarpGrad)


@without_absent
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

    def _setup_logdir(self) -> None:
        """Make no folder for logs but a trial's, because no log is written."""
        if self._storage:
            super()._setup_logdir()  # type: ignore[no-untyped-call]

    def setup(self, config: Any) -> None:
        """Start the workers, if there are any, and draw the initial parameters."""
        self._set_up_metrics()  # type: ignore[no-untyped-call]
        self.callbacks: list[Any] = []  # of classes; functions are called
        self._run = config.run()
        self._experiment = experiment_of(self._run)
        self._progress = Progress.begin(self._experiment)
        self._resources = ExitStack()
        if workers := self._run.compute.workers:
            prepare(workers, [self._run.family], free=False)  # Tune may have reserved the CPUs
        self._sampler = self._resources.enter_context(sampling(self._run, self._experiment))

    @property
    def learner_state(self) -> LearnerState:
        """All that has been learned so far."""
        return self._progress.learner

    def step(self) -> dict[str, Any]:
        """One meta-iteration."""
        before, run = self._progress.counters, self._run
        steps = iterations(self._experiment, self._sampler, self._progress, run.compute.device)
        self._progress, metrics = next(steps)
        done = "iterations" in self.config.settings and metrics["iteration"] >= run.iterations
        return {**result(metrics, before, run.adaptation.steps), "done": done}

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
            found = configuration.load(file, Trust(family=self._run.family))
            for key in configuration.differences(found, self._run):
                raise UserError(f"{folder} holds another run, with another {key}")
        configuration.save(file, self._run)
        self._progress.save(folder / "checkpoints", self._run)
        return str(folder)

    def restore_from_path(self, path: str | Path) -> None:  # type: ignore[override]
        """Continue from the newest intact checkpoint of a run.

        Raises UserError if there is none, or if the family or the policy differs.
        """
        found = configuration.load(Path(path) / "config.yaml", Trust(family=self._run.family))
        for key in configuration.differences(found, self._run):
            if key.partition(".")[0] in ("family", "policy"):
                was, now = (configuration.flat(run).get(key) for run in (found, self._run))
                raise UserError(f"{path}: cannot continue: {key} was {was} and is now {now}")
        self._progress = Progress.load(stored.load_checkpoint(Path(path), found, None))
        self._iteration = self._progress.learner.iteration

    @classmethod
    def from_checkpoint(  # type: ignore[override]  # there is only one policy
        cls, path: str | Path | Checkpoint, filesystem: Any = None, *, trust: bool = False
    ) -> Self:
        """The algorithm that saved a checkpoint, at the iteration at which it did.

        Args:
            path: a folder or URI, such as that of a checkpoint that Tune saved, or of a run.
            filesystem: where ``path`` lies, if it is neither on this disk nor a URI.
            trust: import the task family even if it is not one of this package and the checkpoint
                was not saved on this machine. That runs the code of its module.
        """
        where = path if isinstance(path, Checkpoint) else Checkpoint(path, filesystem)
        with where.as_directory() as folder:
            run = configuration.load(Path(folder) / "config.yaml", Trust(trust))
            algorithm = cls(config=WarpGradConfig.of(run))
            algorithm.restore_from_path(folder)
        return algorithm
