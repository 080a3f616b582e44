"""One video of one task: the policy before adaptation and after 1..K inner steps, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from warprl.agents.inner import AdaptationConfig, Shard, adapt
from warprl.launch import machine
from warprl.launch.errors import RunFailedError, UserError
from warprl.launch.outcome import Document, Outcome, parameters
from warprl.launch.runs import copies, files, folders
from warprl.launch.runs.trust import OURS, Trust
from warprl.threads import one_thread
from warprl.types import EnvStep, Floats, Generators

if TYPE_CHECKING:
    from warprl.envs.family import RenderableBatch, TaskFamily
    from warprl.envs.screen import Screen
    from warprl.launch.runs.stored import StoredRun
    from warprl.types import Task

# Pixels; all but the gap are multiples of 16, the block of the video format.
PANEL = 320
CAPTION = 48
TITLE = 32
GAP = 2
COLUMNS = 4
MAX_STEPS = 63  # sixteen rows; the encoder refuses pictures of more than 16,384 pixels
MIN_FPS = 10  # a world with steps of a second would look like a slide show
INK, PAPER = (20, 20, 20), (245, 245, 245)

Image = NDArray[np.uint8]  # [height, width, 3]
State = Floats  # the state from which a family draws a simulation


class Episode(NamedTuple):
    """One recorded episode up to its end: states before each step and after the last; rewards."""

    states: list[State]
    reward: list[float]


class Panel(NamedTuple):
    """One part of the picture: two lines of text above the states of one episode."""

    caption: tuple[str, str]
    states: Sequence[State]


class Recorder:
    """A :class:`warprl.types.BatchEnv` of a family that also records its simulation 0.

    Adaptation runs on it unchanged, so that the film shows the episodes that were adapted to.
    """

    def __init__(self, batch: RenderableBatch) -> None:
        """Record ``batch``."""
        self._batch = batch
        self._running = False
        self.num_envs = batch.num_envs
        self.horizon = batch.horizon
        self.faults = batch.faults
        self.skip = batch.skip
        self.episodes: list[Episode] = []

    def reset(self, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Reset the batch and begin to record an episode."""
        observation = self._batch.reset(tasks, generators)
        self.episodes.append(Episode([self._batch.render_state(0)], []))
        self._running = True
        return observation

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Step the batch; record simulation 0 until it terminates."""
        observation, reward, terminated = self._batch.step(action)
        if self._running:
            self.episodes[-1].states.append(self._batch.render_state(0))
            self.episodes[-1].reward.append(float(reward[0]))
            self._running = not terminated[0]
        return observation, reward, terminated


@dataclass(frozen=True, kw_only=True)
class RenderSummary(Document):
    """A film, with the returns that it shows and the mean returns behind them."""

    video: str
    family: str
    task: int
    checkpoint: int
    returns: Sequence[float]
    mean_returns: Sequence[float]


def render(
    folder: Path,
    task: int,
    steps: int | None,
    checkpoint: int | None,
    console: Console,
    trust: Trust = OURS,
) -> Outcome[RenderSummary]:
    """Film held-out task number ``task`` before and after 1..``steps`` inner steps.

    Raises MissingGraphicsError, before any work, if this machine cannot draw, and UserError for a
    family that cannot be drawn and for a task, number of steps or checkpoint that does not exist.
    Call it in a process that has not imported mujoco yet: the import chooses the GL backend.
    """
    os.environ["MUJOCO_GL"] = machine.require_backend()
    from warprl.launch.runs import stored

    # Refuse what cannot be filmed before any work.
    run = stored.open_run(folder, checkpoint, trust)
    steps = max(run.config.adaptation.steps, 1) if steps is None else steps
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps = {steps}: a film shows 1 to {MAX_STEPS}")
    held_out = run.held_out_task(task)
    folders.require_writable(folder, "videos")

    # Adapt, and draw what was recorded.
    title = (
        f"{run.config.family}   task {task}: {parameters(asdict(held_out))}   "
        f"{run.config.agent}, iteration {run.iteration}"
    )
    path = folder / "videos" / f"task{task}-iteration{run.iteration}-{folders.stamp()}.mp4"
    with closing(_screen(run.family, held_out)) as screen:
        with console.status("adapting"):
            episodes, means = record(run, held_out, task, steps)
        panels = [
            Panel(caption(k, episode, mean, run.config.adaptation), episode.states)
            for k, (episode, mean) in enumerate(zip(episodes, means, strict=True))
        ]
        with console.status("drawing"):
            frames = film(screen, panels, title)
            write(path, frames, max(round(1.0 / run.family.dt), MIN_FPS))
    copies.publish(path)

    summary = RenderSummary(
        video=copies.address(path),
        family=run.config.family,
        task=task,
        checkpoint=run.iteration,
        returns=[sum(episode.reward) for episode in episodes],
        mean_returns=means,
    )
    lines = [f"{' '.join(panel.caption)}" for panel in panels]
    return Outcome(summary, "\n".join([*lines, copies.address(path)]))


def record(
    run: StoredRun, task: Task, number: int, steps: int
) -> tuple[list[Episode], list[float]]:
    """The first episode and the mean return after each of 0..``steps`` inner steps."""
    recorder = Recorder(run.family.make_batch(run.config.adaptation.episodes))
    shard = Shard([task], [number], run.config.seed, 0)
    config = replace(run.config.adaptation, steps=steps)
    with one_thread():
        trajectory, _ = adapt(recorder, run.policy, run.theta, run.phi, shard, config)
    if not trajectory.finite.all():
        raise RunFailedError(f"cannot render: the adaptation to task {number} diverged")
    return recorder.episodes, trajectory.returns[0].tolist()


def film(screen: Screen, panels: Sequence[Panel], title: str) -> Iterator[Image]:
    """Pictures of all panels step by step. An episode that has ended shows its last state."""
    canvas = draw_text([panel.caption for panel in panels], title)
    for step in range(max(len(panel.states) for panel in panels)):
        for number, panel in enumerate(panels):
            state = panel.states[min(step, len(panel.states) - 1)]
            left, top = corner(number)
            top += CAPTION
            picture = screen.draw(state, number)
            canvas[top : top + PANEL, left : left + PANEL - GAP] = picture[:, GAP:]
        yield canvas.copy()


def write(path: Path, frames: Iterator[Image], fps: int) -> None:
    """Encode pictures as an mp4. The file gets its name only when it is complete.

    Raises RunFailedError if it cannot be written.
    """
    import imageio_ffmpeg  # type: ignore[import-untyped]

    sent = 0
    try:
        # The first picture tells the encoder the size.
        path.parent.mkdir(exist_ok=True)
        first = next(frames)
        size = first.shape[1::-1]
        with files.whole(path) as partial:
            with closing(imageio_ffmpeg.write_frames(str(partial), size, fps=fps)) as sink:
                sink.send(None)
                for frame in chain([first], frames):
                    sink.send(frame)
                    sent += 1

            # A video that was cut short gets no name.
            _require_whole(partial, sent)
    except OSError as error:
        reason = error.strerror or f"ffmpeg failed after {sent} pictures; is the disk full?"
        raise RunFailedError(f"cannot write {path}: {reason}") from error


def _require_whole(video: Path, pictures: int) -> None:
    """Raise OSError unless a video can be read and has so many pictures.

    On a full disk the encoder fails only at the very end, and we cannot get its exit status.
    """
    import imageio_ffmpeg

    try:
        found, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except RuntimeError as error:
        raise OSError(str(error)) from error
    if found != pictures:
        raise OSError(f"only {found} of {pictures} pictures were written")


def caption(
    step: int, episode: Episode, mean: float, adaptation: AdaptationConfig
) -> tuple[str, str]:
    """The two lines above a panel: the point of the adaptation, and the returns there."""
    one = "episode" if adaptation.type == "memory" else "inner step"
    when = f"after {step} {one}{'s' * (step > 1)}" if step else "before adaptation"
    return when, f"return {sum(episode.reward):.1f} (mean of {adaptation.episodes}: {mean:.1f})"


def corner(panel: int) -> tuple[int, int]:
    """Left and top pixel of a panel, its caption included."""
    row, column = divmod(panel, COLUMNS)
    return column * PANEL, TITLE + row * (CAPTION + PANEL)


def draw_text(captions: Sequence[tuple[str, str]], title: str) -> Image:
    """The picture with all its text and with room for the panels."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    rows, columns = -(-len(captions) // COLUMNS), min(len(captions), COLUMNS)
    size = (columns * PANEL, TITLE + rows * (CAPTION + PANEL))
    picture = Pillow.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=15)
    draw.text((8, 8), title, INK, font)
    for number, lines in enumerate(captions):
        left, top = corner(number)
        draw.multiline_text((left + 8, top + 4), "\n".join(lines), INK, font)
    return np.array(picture)


def _screen(family: TaskFamily, task: Task) -> Screen:
    try:
        return family.screen(task, PANEL)
    except ValueError as error:
        raise UserError(f"cannot render: {error}") from error
