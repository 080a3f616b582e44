"""The video shows the episodes that a policy adapted on, before and after, side by side."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg  # type: ignore[import-untyped]
import mujoco
import numpy as np
import pytest
from helpers_launch import fabricate
from numpy.typing import NDArray

from warprl.agents.distributions import Gaussian
from warprl.agents.inner import GradientAdaptation, MemoryAdaptation, Shard, adapt
from warprl.agents.policy import Policy, PolicyConfig
from warprl.envs import make_family
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.errors import RunFailedError
from warprl.launch.evaluation import render
from warprl.launch.runs import stored

FAMILY = make_family("half-cheetah-dir-v1")


@pytest.fixture(scope="module")
def graphics() -> None:
    if machine.find_backend() is None:
        pytest.skip(f"this machine cannot draw: {machine.advice()}")


def pictures(count: int) -> Iterator[render.Image]:
    for number in range(count):
        yield np.full((48, 64, 3), 20 * number, dtype=np.uint8)


def decode(path: Path, shape: tuple[int, int, int]) -> tuple[int, NDArray[np.uint8]]:
    """Pictures a second, and the pictures of a video, which must be of this shape."""
    # Not through imageio's reader, which may leave the pipes of its ffmpeg open: a warning here.
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-i", str(path), *"-f rawvideo -pix_fmt rgb24 -".split()]
    done = subprocess.run(command, capture_output=True, check=True)
    said = done.stderr.decode()
    assert f" {shape[1]}x{shape[0]}" in said
    fps = re.findall(r" (\d+) fps", said)[0]  # of the input; that of the output follows
    return int(fps), np.frombuffer(done.stdout, np.uint8).reshape(-1, *shape)


def test_a_recorded_adaptation_is_the_unrecorded_one_and_shows_its_first_episodes() -> None:
    policy = Policy(17, Gaussian(6), PolicyConfig(hidden=(8,)))
    theta, phi = policy.init(np.random.default_rng(0))
    tasks = FAMILY.held_out_tasks()[:1]
    config, shard = GradientAdaptation(steps=2, episodes=1), Shard(tasks, [0], 3, 0)
    recorder = render.Recorder(FAMILY.make_batch(1))
    recorded, _ = adapt(recorder, policy, theta, phi, shard, config)
    plain, _ = adapt(FAMILY.make_batch(1), policy, theta, phi, shard, config)
    assert recorded.returns.tolist() == plain.returns.tolist()
    assert len(recorder.episodes) == 3
    for episode, mean in zip(recorder.episodes, recorded.returns[0].tolist(), strict=True):
        assert sum(episode.reward) == pytest.approx(mean, rel=1e-5)
        assert len(episode.states) == len(episode.reward) + 1 == FAMILY.horizon + 1
        assert not np.array_equal(episode.states[0], episode.states[-1])


def test_recording_ends_with_the_episode() -> None:
    family = make_family("point-navigation-v1")
    batch = family.make_batch(1)
    recorder = render.Recorder(batch)
    (task,) = [family.parse_task({"x": 0.0, "y": 0.0})]
    recorder.reset([task], [np.random.default_rng(0)])
    for _ in range(3):
        recorder.step(np.zeros((1, 2), dtype=np.float32))
    assert len(recorder.episodes[0].reward) == 1


def test_captions_name_step_and_return() -> None:
    episode = render.Episode([], [1.0, 2.25])
    plain, memory = GradientAdaptation(episodes=20), MemoryAdaptation()
    expected = ("before adaptation", "return 3.2 (mean of 20: 4.0)")
    assert render.caption(0, episode, 4.0, plain) == expected
    assert render.caption(1, episode, 4.0, plain)[0] == "after 1 inner step"
    assert render.caption(2, episode, 4.0, plain)[0] == "after 2 inner steps"
    assert render.caption(2, episode, 4.0, memory)[0] == "after 2 episodes"


@pytest.mark.parametrize(("panels", "shape"), [(2, (400, 640, 3)), (6, (768, 1280, 3))])
def test_panels_fill_rows_of_four_and_have_their_text(
    panels: int, shape: tuple[int, int, int]
) -> None:
    blank = render.draw_text([("", "")] * panels, "")
    assert blank.shape == shape
    assert (blank == render.PAPER).all()
    text = render.draw_text([("", "")] * (panels - 1) + [("after", "return 1")], "title")
    left, top = render.corner(panels - 1)
    written = (text != blank).any(axis=2)
    assert written[: render.TITLE].any()
    assert written[top : top + render.CAPTION, left:].any()
    written[: render.TITLE] = False
    written[top : top + render.CAPTION, left:] = False
    assert not written.any(), "nothing runs out of its place"


def test_a_video_has_every_picture_at_its_size_and_speed(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "film.mp4"
    render.write(path, pictures(10), 20)
    fps, frames = decode(path, (48, 64, 3))
    assert fps == 20
    assert len(frames) == 10
    for number, frame in enumerate(frames):
        assert abs(float(frame.mean()) - 20 * number) < 4
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_a_video_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("warprl.launch.evaluation.render.os.replace", full)
    with pytest.raises(RunFailedError, match="cannot write .*film.mp4: No space left on device"):
        render.write(tmp_path / "film.mp4", pictures(2), 20)
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_the_encoder_did_not_finish_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = imageio_ffmpeg.write_frames

    def cut_off(path: str, *arguments: Any, **options: Any) -> Iterator[None]:
        # A full disk: ffmpeg fails at the very end, and only its exit status would tell.
        sink = encode(path, *arguments, **options)
        sink.send(None)
        try:
            while True:
                sink.send((yield))
        finally:
            sink.close()
            os.truncate(path, os.path.getsize(path) // 2)

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", cut_off)
    with pytest.raises(RunFailedError, match="film.mp4: ffmpeg failed after 10 pictures"):
        render.write(tmp_path / "film.mp4", pictures(10), 20)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_drawn_with_the_cheap_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renderer:
        """Draws nothing, and checks how it is called."""

        def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
            assert model.vis.quality.offsamples == 0
            self.scene = SimpleNamespace(flags=np.ones(mujoco.mjtRndFlag.mjNRNDFLAG))
            self.shape = (height, width, 3)

        def update_scene(self, data: mujoco.MjData, camera: str) -> None:
            assert camera == "track"
            self.scene.flags[:] = 1

        def render(self) -> render.Image:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                assert self.scene.flags[flag] == 0
            return np.zeros(self.shape, np.uint8)

    monkeypatch.setattr(mujoco, "Renderer", Renderer)
    screen = FAMILY.screen(FAMILY.held_out_tasks()[0], render.PANEL)
    panels = [render.Panel(("", ""), [np.zeros(9)] * 2)] * 2
    assert len(list(render.film(screen, panels, "title"))) == 2


def command(run: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``warprl render`` in a process of its own, which has not chosen a GL backend yet."""
    return subprocess.run(
        [sys.executable, "-m", "warprl.launch.cli", "render", str(run), "--json", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("graphics")
@pytest.mark.parametrize(
    ("family", "arguments", "shape", "frames", "fps"),
    [
        ("half-cheetah-dir-v1", ("--task", "1"), (400, 640, 3), 101, 20),
        ("half-cheetah-vel-maml2017-v1", (), (400, 640, 3), 201, 100),
        ("point-navigation-v1", ("--steps", "4"), (768, 1280, 3), None, 10),
        ("point-sparse-v1", (), (400, 640, 3), 21, 10),
        ("maze-11-v1", (), (400, 640, 3), 201, 10),
    ],
)
def test_a_run_is_filmed_before_and_after_adaptation(
    tmp_path: Path,
    family: str,
    arguments: tuple[str, ...],
    shape: tuple[int, int, int],
    frames: int | None,
    fps: int,
) -> None:
    fabricate(tmp_path / "run", family)
    done = command(tmp_path / "run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    path = Path(answer["video"])
    assert [path] == list((tmp_path / "run" / "videos").iterdir())
    found, film = decode(path, shape)
    assert found == fps
    assert frames is None or len(film) == frames
    for number in range(len(answer["returns"])):
        left, top = render.corner(number)
        top += render.CAPTION
        first, last = (
            picture[top : top + render.PANEL, left : left + render.PANEL].astype(int)
            for picture in (film[0], film[-1])
        )
        assert first.std() > 10, "the panel shows something"
        assert np.abs(first - last).max() > 50, "and it moves"


def test_without_graphics_there_is_one_line_of_advice_and_status_3_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path / "run", "point-navigation-v1")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(machine, "works", lambda backend: False)
    monkeypatch.setattr(render, "record", None)
    assert main(["render", str(tmp_path / "run")]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "warprl: cannot render: no OpenGL on this machine; "
        "install it with 'apt-get install libegl1 libgl1-mesa-dri' and set MUJOCO_GL=egl\n"
    )
    assert not (tmp_path / "run" / "videos").exists()


def test_a_backend_that_the_user_chose_and_that_fails_is_named(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", "point-navigation-v1")
    done = command(tmp_path / "run", MUJOCO_GL="off")
    answer = json.loads(done.stdout)
    assert done.returncode == answer["status"] == 3
    assert answer["error"].startswith("cannot render: MUJOCO_GL=off does not work on this machine")
    assert done.stderr.startswith("warprl: cannot render: MUJOCO_GL=off does not work on this")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "2"), "task = 2: half-cheetah-dir-v1 has held-out tasks 0 to 1"),
        (("--task", "-1"), "task = -1: half-cheetah-dir-v1 has held-out tasks 0 to 1"),
        (("--steps", "0"), "steps = 0: a film shows 1 to 63"),
        (("--steps", "64"), "steps = 64: a film shows 1 to 63"),
        (("--checkpoint", "8"), "there are checkpoints of iterations 1"),
    ],
)
def test_what_cannot_be_filmed_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    fabricate(tmp_path / "run", "half-cheetah-dir-v1")
    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    assert main(["render", str(tmp_path / "run"), *arguments]) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert not (tmp_path / "run" / "videos").exists()


def test_a_diverged_adaptation_is_not_filmed_as_if_it_had_worked(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", "point-navigation-v1", "adaptation.inner_lr=1e38")
    run = stored.open_run(tmp_path / "run", None)
    with pytest.raises(RunFailedError, match="cannot render: the adaptation to task 3 diverged"):
        render.record(run, run.family.held_out_tasks()[3], 3, 1)
