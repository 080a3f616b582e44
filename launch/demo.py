"""The demonstration of ``make demo``: train, evaluate and film, through the public command line."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from warprl.launch.runs import folders

FAMILY = "half-cheetah-dir-v1"
FULL = ("--iterations", "70", "--set", "tasks=8")
SHORT = ("--iterations", "3", "--set", "tasks=4", "--set", "adaptation.episodes=4")
NO_GRAPHICS = 3  # the exit status of ``warprl render`` where nothing can be drawn


def main() -> int:
    """Run the demonstration; its exit status is that of the first verb that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a rehearsal that learns nothing")
    parser.add_argument("--require-video", action="store_true", help="fail if this cannot be drawn")
    options = parser.parse_args()

    # Ctrl-C reaches the verb as well. The verb saves its work, and its status ends the demo.
    signal.signal(signal.SIGINT, lambda number, frame: None)

    # Verb by verb; each prints what it is doing.
    run = f"demo-{folders.stamp()}"
    size = SHORT if options.short else FULL
    minutes = "a few seconds" if options.short else "about three minutes on two cores"
    try:
        print(f"Meta-training on {FAMILY} with two workers: {minutes}", flush=True)
        _warprl("train", FAMILY, "--workers", "2", "--seed", "1", "--run", run, *size)
        print("Measuring adaptation to each of its tasks", flush=True)
        evaluation = _warprl("evaluate", run)
        print("Filming one task before and after adaptation", flush=True)
        video = _film(run, options.require_video)
    except subprocess.CalledProcessError as error:
        return error.returncode
    print(_summary(evaluation, video))
    return 0


def _warprl(*arguments: str) -> dict[str, Any]:
    """The result of a verb. Its progress and its errors go straight to the terminal."""
    command = [sys.executable, "-P", "-m", "warprl.launch.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _film(run: str, required: bool) -> str:
    try:
        return str(_warprl("render", run)["video"])
    except subprocess.CalledProcessError as error:
        if required or error.returncode != NO_GRAPHICS:
            raise
        return f"none, see above; then: warprl render {run}"


def _summary(evaluation: dict[str, Any], video: str) -> str:
    folder = Path(evaluation["folder"])
    curve = evaluation["curves"][0]["curve"]
    returns = [
        f"{point['mean']:8.1f}  [{point['low']:.1f}, {point['high']:.1f}]" for point in curve
    ]
    lines = [
        "",
        "Mean return, with 95 % intervals",
        f"  before adaptation     {returns[0]}",
        f"  after {len(curve) - 1} inner steps   {returns[-1]}",
        "Where everything is",
        f"  run                   {folder.parent.parent}",
        f"  adaptation curve      {folder / 'curve.png'}",
        f"  video                 {video}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
