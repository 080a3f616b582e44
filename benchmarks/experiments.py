"""What the learning benchmarks train: experiments, the methods in each, and the runs of both.

Within an experiment the methods alone differ: family, environment steps, meta-batches and seeds are
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from warprl.launch.runs import config as configuration
from warprl.launch.runs.config import RunConfig


@dataclass(frozen=True)
class Method:
    """A preset, or a variant of one."""

    preset: str
    settings: tuple[str, ...] = ()
    trained: bool = True  # or it never learns, and one iteration is all that it takes


@dataclass(frozen=True)
class Experiment:
    """Methods on one family; all that are trained take the same environment steps."""

    family: str
    steps: int  # environment steps of a run
    methods: tuple[str, ...]
    settings: tuple[str, ...] = ()  # what is changed in every method alike
    seeds: tuple[int, ...] = (1, 2, 3)
    thresholds: tuple[float, ...] = ()  # returns that are to be reached
    evaluated: int = 20  # episodes at every step of an adaptation to a held-out task


GRADIENT = (
    "warpgrad", "warp-leap", "warp-maml", "warp-promp", "t-net", "meta-sgd", "promp", "anil",
    "boil", "maml", "maml-trpo", "fomaml", "leap", "reptile",
)  # fmt: skip
# What there is without meta-learning: pre-training on all tasks, and none.
REFERENCES = ("multitask", "random")
COMPARED = (*GRADIENT, *REFERENCES)
CONTRASTED = ("warpgrad", "promp", "maml")
PAIRED = ("warpgrad", "warp-promp", "promp", "maml")

# What makes warpgrad what it is, one thing changed at a time.
PARTS = {
    "approximate": ("learner.objective=approximate",),
    "online": ("learner.schedule=online",),
    "linear": ("policy.warp=linear",),
    "residual": ("policy.warp=residual",),
    "unwarped": ("policy.warp=none",),
    "warps-alone": ("learner.init=fixed",),
    "low-warp": ("policy.warped=[0]",),
    "high-warp": ("policy.warped=[1]",),
}
# What might make it better.
REMEDIES = {
    "slow-warps": ("learner.lr=3e-4",),
    "slowest-warps": ("learner.lr=1e-4",),
    "five-steps": ("adaptation.steps=5",),
    "short-steps": ("adaptation.lr=0.05",),
    "loose-kl": ("learner.kl_target=0.1", "learner.kl_limit=0.3"),
    "fast-init": ("learner.init_lr=3e-3",),
    "maml-init": ("learner.init=maml",),
}
VARIANTS = PARTS | REMEDIES
METHODS: Mapping[str, Method] = MappingProxyType(
    {name: Method(name, trained=name != "random") for name in COMPARED}
    | {f"warpgrad-{name}": Method("warpgrad", settings) for name, settings in VARIANTS.items()}
)
ABLATION = ("warpgrad", *(f"warpgrad-{name}" for name in VARIANTS))
ABLATION_SHORT = ("warpgrad", *(f"warpgrad-{name}" for name in (*PARTS, "slow-warps")))

# Small meta-batches learn faster per environment step. The direction families have two tasks only.
FEW = ("tasks=8",)
SMALL = ("tasks=10", "adaptation.episodes=10")
POINT = Experiment(
    "point-navigation-v1",
    3_200_000,
    COMPARED,
    ("tasks=20", "adaptation.episodes=10"),
    seeds=(1, 2, 3, 4, 5),
    thresholds=(-12.0,),
)
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        "point-navigation": POINT,
        "half-cheetah-dir": Experiment(
            "half-cheetah-dir-v1", 2_000_000, COMPARED, FEW, seeds=(1, 2, 3, 4, 5)
        ),
        "half-cheetah-dir-long": Experiment(
            "half-cheetah-dir-v1", 20_000_000, CONTRASTED, FEW, thresholds=(230.0, 300.0)
        ),
        "half-cheetah-vel": Experiment(
            "half-cheetah-vel-v1", 2_000_000, COMPARED, SMALL, evaluated=10
        ),
        "half-cheetah-vel-long": Experiment(
            "half-cheetah-vel-v1", 4_000_000, PAIRED, SMALL, seeds=(1, 2), evaluated=10
        ),
        "ant-dir": Experiment(
            "ant-dir-v1", 400_000, COMPARED, ("tasks=4", "adaptation.episodes=10"), evaluated=5
        ),
        "walker2d-rand-params": Experiment(
            "walker2d-rand-params-v1", 1_000_000, COMPARED, SMALL, evaluated=5
        ),
        "walker2d-rand-params-long": Experiment(
            "walker2d-rand-params-v1", 3_000_000, PAIRED, SMALL, evaluated=10
        ),
        "point-navigation-ablation": Experiment(
            POINT.family, POINT.steps, ABLATION, POINT.settings, POINT.seeds
        ),
        "half-cheetah-dir-ablation": Experiment(
            "half-cheetah-dir-v1", 2_000_000, ABLATION_SHORT, FEW
        ),
        "half-cheetah-dir-ablation-long": Experiment(
            "half-cheetah-dir-v1", 4_000_000, ("warpgrad", "warpgrad-unwarped"), FEW
        ),
    }
)


class Cell(NamedTuple):
    """One run of an experiment."""

    experiment: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of the run folder."""
        return f"{self.experiment}-{self.method}-s{self.seed}"

    @property
    def family(self) -> str:
        """What it is trained on."""
        return EXPERIMENTS[self.experiment].family

    @property
    def settings(self) -> tuple[str, ...]:
        """What is changed in the preset."""
        return EXPERIMENTS[self.experiment].settings + METHODS[self.method].settings

    def config(self, steps: int) -> RunConfig:
        """The configuration that takes at least this many environment steps, if it is to learn."""
        method = METHODS[self.method]
        config = configuration.resolve(
            self.family, method.preset, {"workers": 0, "seed": self.seed}, self.settings
        )
        return configuration.with_env_steps(config, steps if method.trained else 1)
