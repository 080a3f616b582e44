"""What a run writes, and what it shows while it trains."""

from __future__ import annotations

import gc
import io
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from warprl.launch.errors import UserError
from warprl.launch.runs import files
from warprl.launch.runs.log import RunLog
from warprl.launch.runs.metrics import Metrics, read, restore
from warprl.launch.runs.writers import WRITERS, JsonLines


def metrics(iteration: int, **more: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "return_step_0": -40.0 - iteration,
        "return_step_1": -20.0,
        "steps_per_s": 12345.6,
        "physics_fraction": 0.625,
        "time.physics": 1.5,
        **more,
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder: Path, console: Console, first: int, last: int, total: int = 10) -> None:
    with RunLog(folder, console, first - 1, total) as log:
        for iteration in range(first, last + 1):
            log.write(metrics(iteration))


def plain() -> Console:
    return Console(file=io.StringIO(), width=60)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_every_iteration_is_one_line_of_json_on_disk_at_once(tmp_path: Path) -> None:
    with RunLog(tmp_path, plain(), 0, 2) as log:
        log.write(metrics(1))
        assert lines(tmp_path) == [metrics(1)]


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path) -> None:
    with RunLog(tmp_path, plain(), 0, 1) as log:
        log.write(metrics(1, kl=float("nan"), names=(1, float("inf"))))
    assert lines(tmp_path)[0]["kl"] is None
    assert lines(tmp_path)[0]["names"] == [1, None]


def test_a_resumed_log_has_each_iteration_once(tmp_path: Path) -> None:
    write(tmp_path, plain(), 1, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6, "retu')
    write(tmp_path, plain(), 4, 6)
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_half_written_last_line_is_dropped_on_resume(tmp_path: Path) -> None:
    write(tmp_path, plain(), 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3, "retu')
    write(tmp_path, plain(), 3, 3)
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3]


DAMAGE = [
    "\0\0\0",
    "",
    "[]",
    "{}",
    "7",
    '{"iteration": 1}',
    '{"iteration": true}',
    '{"iteration": 2, "kl": NaN}',
    '{"iteration": 2, "kl": 1e999}',
    '{"iteration": 2, "kl": "0.1"}',
    '{"iteration": 2, "env_steps": -1}',
    '{"iteration": 2, "wall_s": null}',
    '{"iteration": 99}',
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_named_to_who_reads(tmp_path: Path, damage: str) -> None:
    write(tmp_path, plain(), 1, 2)
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{damage}\n{second}\n")
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2, is damaged \(.*\): remove that"):
        read(path, 2)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_with_the_good_lines_and_the_damaged_file_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    write(tmp_path, plain(), 1, 2)
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    before = f"{first}\n{damage}\n{second}\n"
    path.write_text(before)
    write(tmp_path, plain(), 3, 3)
    assert lines(tmp_path) == [metrics(1), metrics(2), metrics(3)]
    assert (tmp_path / "metrics.jsonl.broken").read_text() == before
    (said,) = caplog.messages
    assert "lines are damaged; the 2 good ones up to iteration 2 are kept" in said
    write(tmp_path, plain(), 4, 4)
    assert caplog.messages == [said]


def test_null_is_read_back_as_nan(tmp_path: Path) -> None:
    with RunLog(tmp_path, plain(), 0, 1) as log:
        log.write(metrics(1, kl=float("nan")))
    (row,) = read(tmp_path / "metrics.jsonl", 1)
    assert math.isnan(row["kl"])


def test_what_a_checkpoint_knows_of_the_log_is_there_or_its_loss_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLog(tmp_path, plain(), 0, 9) as log:
        for iteration in (1, 2, 3):
            log.write(metrics(iteration))
        known = log.sync()
        log.write(metrics(4))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True)

    # What came after the checkpoint is dropped.
    restore(path, 3, known)
    assert path.read_text() == "".join(whole[:3])
    assert caplog.messages == []

    # A row is lost, doubled or changed; or all are gone.
    changed = whole[1].replace("-20.0", "-21.0")
    for found, kept in (
        ([whole[0], whole[2]], [1, 3]),
        ([*whole[:2], whole[1], whole[2]], [1, 2, 3]),
        ([whole[0], changed, whole[2]], [1, 2, 3]),
        ([], []),
    ):
        caplog.clear()
        path.write_text("".join(found))
        restore(path, 3, known)
        assert [row["iteration"] for row in lines(tmp_path)] == kept
        assert len(caplog.messages) == 1 and "iteration 3" in caplog.text
    caplog.clear()
    path.unlink()
    restore(path, 3, known)
    assert "is not there" in caplog.text


def test_metrics_are_read_back_up_to_an_iteration_and_nothing_is_written(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl", 9) == []
    write(tmp_path, plain(), 1, 3)
    path = tmp_path / "metrics.jsonl"
    before = path.read_text() + '{"iteration": 4, "retu'
    path.write_text(before)
    assert read(path, 2) == [metrics(1), metrics(2)]
    assert read(path, 9) == [metrics(1), metrics(2), metrics(3)]
    assert path.read_text() == before


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path, plain(), 1, 3)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in board.Scalars("return_step_0")] == [
        (1, -41.0), (2, -42.0), (3, -43.0)
    ]  # fmt: skip
    assert "time/physics" in board.Tags()["scalars"]


def test_tensorboard_of_a_resumed_run_has_each_iteration_once(tmp_path: Path) -> None:
    write(tmp_path, plain(), 1, 5)
    write(tmp_path, plain(), 4, 6)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("return_step_0")] == [1, 2, 3, 4, 5, 6]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_tensorboard_notices_a_full_disk_at_once(tmp_path: Path) -> None:
    """Otherwise the run would continue without a copy and without a warning."""
    board = WRITERS["tensorboard"](tmp_path, 0)
    board.write(metrics(1))
    (events,) = (tmp_path / "tensorboard").iterdir()
    with full_disk(events.stat().st_size):
        with pytest.raises(OSError, match="File too large"):
            board.write(metrics(2))
    board.close()


def test_a_disk_without_room_for_the_metrics_ends_the_run(tmp_path: Path) -> None:
    with RunLog(tmp_path, plain(), 0, 3, writers=()) as log:
        log.write(metrics(1))
        with full_disk((tmp_path / "metrics.jsonl").stat().st_size):
            with pytest.raises(OSError):
                log.write(metrics(2))


def test_a_disk_that_is_full_at_once_costs_the_copy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is left in a buffer that would fail again when the program ends."""
    append = files.append

    def full(file: Any, content: bytes) -> None:
        if "tfevents" in str(file.name):
            raise OSError(28, "No space left on device")
        append(file, content)

    monkeypatch.setattr(files, "append", full)
    write(tmp_path, plain(), 1, 2)
    gc.collect()
    assert caplog.messages == [
        "metrics are no longer written to tensorboard: [Errno 28] No space left on device"
    ]
    assert [row["iteration"] for row in lines(tmp_path)] == [1, 2]


def test_what_is_appended_is_appended_whole(tmp_path: Path) -> None:
    class Slow(FileIO):
        """Takes three bytes at a time, as a disk that is nearly full may do."""

        def write(self, content: Any) -> int:
            return super().write(bytes(content[:3]))

    with Slow(str(tmp_path / "file"), "w") as file:
        files.append(file, b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


class Elsewhere(JsonLines):
    """A writer that somebody adds: the same lines in another folder."""

    def __init__(self, folder: Path, iteration: int) -> None:
        (folder / "elsewhere").mkdir()
        super().__init__(folder / "elsewhere", iteration)


class Unreachable:
    """A writer of a service that does not answer at one moment of a run."""

    moment = "open"
    error: Exception = ConnectionError("no answer")

    def __init__(self, folder: Path, iteration: int) -> None:
        self._fails("open")

    def write(self, metrics: Metrics) -> None:
        self._fails("write")

    def close(self) -> None:
        self._fails("close")

    def _fails(self, moment: str) -> None:
        if moment == self.moment:
            raise self.error


def test_a_writer_is_added_by_one_entry_and_chosen_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITERS, "elsewhere", Elsewhere)
    with RunLog(tmp_path, plain(), 0, 2, writers=("elsewhere",)) as log:
        log.write(metrics(1))
    assert lines(tmp_path / "elsewhere") == lines(tmp_path) == [metrics(1)]
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("moment", ["open", "write", "close"])
@pytest.mark.parametrize(
    ("error", "said"),
    [(ConnectionError("no answer"), "no answer"), (KeyError("run"), "KeyError: 'run'")],
)
def test_a_writer_that_fails_is_given_up_with_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    moment: str,
    error: Exception,
    said: str,
) -> None:
    monkeypatch.setattr(Unreachable, "moment", moment)
    monkeypatch.setattr(Unreachable, "error", error)
    monkeypatch.setitem(WRITERS, "service", Unreachable)
    with RunLog(tmp_path, plain(), 0, 2, writers=("service", "tensorboard")) as log:
        log.write(metrics(1))
        log.write(metrics(2))
    assert lines(tmp_path) == [metrics(1), metrics(2)]
    assert caplog.messages == [f"metrics are no longer written to service: {said}"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("return_step_0")] == [1, 2]


def test_an_unknown_writer_is_refused_before_a_file_is_touched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown log writer 'tensorbored': did you mean 'tensor"):
        RunLog(tmp_path, plain(), 0, 2, writers=("tensorbored",))
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_one_plain_line_an_iteration(tmp_path: Path) -> None:
    console = plain()
    write(tmp_path, console, 1, 2)
    first, second = shown(console).splitlines()
    assert first.startswith(
        "iteration 1/10  return -41.0 > -20.0  12,346 steps/s  physics 62%  left "
    )
    assert second.startswith("iteration 2/10  return -42.0 > -20.0")
    assert "\x1b" not in shown(console)


def test_a_terminal_gets_a_live_bar(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    write(tmp_path, console, 1, 2)
    for part in ("2/10", "-42.0 > -20.0", "12,346 steps/s", "physics 62%", "left 0:"):
        assert part in shown(console)
