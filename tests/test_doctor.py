"""The doctor finds what is missing and says what to do."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from warprl.launch import doctor, machine
from warprl.launch.cli import main
from warprl.launch.doctor import Finding


@pytest.mark.ray
def test_every_check_passes_or_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "not" / "yet"))
    status = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert set(checks) == {"versions", "cores", "physics", "ray", "graphics", "ffmpeg", "disk"}
    assert "mujoco" in checks["versions"]["seen"]
    assert checks["ray"]["advice"] == ""
    assert checks["ray"]["seen"].startswith("runs a task; listens at 127.0.0.1:")
    assert checks["ray"]["seen"].endswith(" to this machine only, demands a token, no dashboard")
    assert checks["ffmpeg"]["advice"] == ""
    assert report["ok"] is (status == 0)
    assert status == any(check["needed"] and check["advice"] for check in checks.values())


def test_what_is_needed_and_missing_makes_the_status_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Finding("ray", "does not start: no room", "make room")
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_cores, lambda: broken))
    assert main(["doctor"]) == 1
    first, second, advice = capsys.readouterr().out.splitlines()
    assert first.startswith("OK    cores")
    assert second == "FAIL  ray    does not start: no room"
    assert advice.strip() == "to do: make room"


def test_a_machine_without_graphics_trains_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "works", lambda backend: False)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_graphics,))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("WARN  graphics")
    assert "apt-get install libegl1 libgl1-mesa-dri" in text


@pytest.mark.parametrize(("meta_world", "line"), [(True, "WARN"), (False, "FAIL")])
def test_without_the_native_batch_only_meta_worlds_environment_is_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    meta_world: bool, line: str,
) -> None:  # fmt: skip
    there = {"mujoco.batch": None, "metaworld": object() if meta_world else None}
    monkeypatch.setattr(importlib.util, "find_spec", there.get)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_physics,))
    assert main(["doctor"]) == (0 if meta_world else 1)
    seen, advice = capsys.readouterr().out.splitlines()
    assert seen.startswith(f"{line}  physics  no native batch: only points, mazes")
    assert advice.strip().startswith("to do: pip install 'mujoco>=3.17'")


def test_a_full_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    finding = doctor.check_disk()
    assert "0.0 GiB free" in finding.seen
    assert finding.advice.startswith("free 2 GiB in ")


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    finding = doctor.check_versions()
    assert "numpy" in finding.seen
    assert finding.advice == "install WarpRL again: no-such-package missing"


def test_why_ray_does_not_start_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "RAY_PROBE", "raise OSError('no room in /tmp')")
    assert doctor.check_ray().seen == "does not start: OSError: no room in /tmp"


def test_a_ray_that_anybody_can_use_is_pointed_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"address": "10.0.0.1:6379", "token": False, "dashboard": "10.0.0.1:8265"}
    monkeypatch.setattr(doctor, "RAY_PROBE", f"print({json.dumps(json.dumps(found))})")
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_ray,))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "WARN  ray  runs a task; listens at 10.0.0.1:6379 to its network, demands no token, "
        "dashboard at 10.0.0.1:8265",
        "           to do: unset RAY_AUTH_MODE where Ray starts, or set it to token",
    ]


def test_the_users_own_backend_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fails(backend: str) -> bool:
        tried.append(backend)
        return False

    monkeypatch.setattr(machine, "works", fails)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert machine.find_backend() is None
    monkeypatch.delenv("MUJOCO_GL")
    assert machine.find_backend() is None
    assert tried == ["glfw", "egl", "osmesa"]
