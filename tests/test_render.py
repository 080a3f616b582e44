"""The video shows the episodes that a policy adapted on, before and after, side by side."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
import pytest

from warprl.agents.inner import AdaptationConfig, adapt
from warprl.agents.policy import GaussianPolicy, PolicyConfig
from warprl.envs import make_family
from warprl.launch import render
from warprl.launch.errors import RunFailedError

FAMILY = make_family("half-cheetah-dir-v1")


def pictures(count: int) -> Iterator[render.Image]:
    for number in range(count):
        yield np.full((48, 64, 3), 20 * number, dtype=np.uint8)


def test_a_recorded_adaptation_is_the_unrecorded_one_and_shows_its_first_episodes() -> None:
    policy = GaussianPolicy(17, 6, PolicyConfig(hidden=(8,)))
    theta, phi = policy.init(np.random.default_rng(0))
    tasks = FAMILY.held_out_tasks()[:1]
    config = AdaptationConfig(steps=2, episodes=1)
    recorder = render.Recorder(FAMILY.make_batch(1))
    recorded, _ = adapt(recorder, policy, theta, phi, tasks, [0], config, 3, 0)
    plain, _ = adapt(FAMILY.make_batch(1), policy, theta, phi, tasks, [0], config, 3, 0)
    assert recorded.returns.tolist() == plain.returns.tolist()
    assert len(recorder.episodes) == 3
    for episode, mean in zip(recorder.episodes, recorded.returns[0].tolist(), strict=True):
        assert sum(episode.reward) == pytest.approx(mean, rel=1e-5)
        assert len(episode.qpos) == len(episode.reward) + 1 == FAMILY.horizon + 1
        assert not np.array_equal(episode.qpos[0], episode.qpos[-1])


def test_recording_ends_with_the_episode() -> None:
    family = make_family("point-navigation-v1")
    batch = family.make_batch(1)
    recorder = render.Recorder(batch)
    (task,) = [family.parse_task({"x": 0.05, "y": 0.0})]
    recorder.reset([task], [np.random.default_rng(0)])
    for _ in range(3):
        recorder.step(np.array([[0.05, 0.0]], dtype=np.float32))
    assert len(recorder.episodes[0].reward) == 1


def test_captions_name_step_and_return() -> None:
    episode = render.Episode([], [1.0, 2.25])
    assert render.caption(0, episode, 4.0, 20) == (
        "before adaptation", "return 3.2 (mean of 20: 4.0)"
    )  # fmt: skip
    assert render.caption(1, episode, 4.0, 20)[0] == "after 1 inner step"
    assert render.caption(2, episode, 4.0, 20)[0] == "after 2 inner steps"


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
    # Not through imageio's reader, which may leave the pipes of its ffmpeg open: a warning here.
    decode = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-i",
        str(path),
        *"-f rawvideo -pix_fmt rgb24 -".split(),
    ]
    done = subprocess.run(decode, capture_output=True, check=True)
    assert b" 64x48" in done.stderr and b" 20 fps" in done.stderr
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 48, 64, 3)
    assert len(frames) == 10
    for number, frame in enumerate(frames):
        assert abs(float(frame.mean()) - 20 * number) < 4
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_a_video_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("warprl.launch.render.os.replace", full)
    with pytest.raises(RunFailedError, match="cannot write .*film.mp4: No space left on device"):
        render.write(tmp_path / "film.mp4", pictures(2), 20)
    assert list(tmp_path.iterdir()) == []
