"""Search for step sizes with Ray Tune; every trial saves a run that ``warprl`` commands take.

$ python examples/tune_search.py
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ray import tune

import warprl
from warprl.launch.training.rllib import WarpGrad, WarpGradConfig


def main() -> None:
    """Takes minutes with the default number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()

    # Any key that 'warprl config' shows can have a search space.
    config = WarpGradConfig().env_runners(num_env_runners=0)
    config = config.meta(family="point-navigation-v1", agent="warpgrad", tasks=4)
    config = config.meta(
        **{
            "adaptation.episodes": 4,
            "adaptation.inner_lr": tune.loguniform(0.01, 1.0),
            "outer.warp_lr": tune.loguniform(1e-4, 1e-2),
        }
    )
    with tempfile.TemporaryDirectory() as storage:
        results = tune.Tuner(
            WarpGrad,
            param_space=config.to_dict(),
            tune_config=tune.TuneConfig(
                metric="env_runners/episode_return_mean", mode="max", num_samples=options.samples
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                stop={"training_iteration": options.iterations},
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
            ),
        ).fit()

        # The checkpoint that Tune saved of the best trial is a run.
        best = results.get_best_result()
        assert best.checkpoint is not None
        run = warprl.load(Path(best.checkpoint.path))
        print(f"best of {len(results)}: {run.config.adaptation}")
        policy = run.adapt(run.tasks[0])
        print("returns on a held-out task:", *(round(r, 1) for r in policy.returns))


if __name__ == "__main__":
    main()
