"""What the documentation shows works: its Python, the programs in examples/, and every doctest."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import warprl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "warprl"
PROGRAMS = {  # and something that each prints
    "train_and_adapt": "return of the mean actions: ",
    "own_loop": "after 3 steps: mean return ",
    "own_family": "Motor(gear=-100.0): return ",
    "compare_agents": "untrained: mean returns after 0 to 3 inner steps: ",
    "tune_search": "returns on a held-out task: ",
    "add_warp_kind": "the warps bend by 0.",
    "add_outer_optimiser": "first action: [",
}
OPTIONS = {"compare_agents": ["--episodes=2"], "tune_search": ["--samples=2"]}
USES_RAY = {
    "rllib",
    "tune_search",
    "warprl.launch.training.rllib",
    "warprl.launch.training.workers",
}
RUN_NOTEBOOK = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3").execute()
outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
print(*(output.get("text", "") for output in outputs))
print("pictures:", sum("image/png" in output.get("data", {}) for output in outputs))
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WARPRL_RUNS", raising=False)


def marked(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.ray) if name in USES_RAY else name


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["python", "architecture", marked("rllib")])
def test_the_python_of_a_page_runs_from_top_to_bottom(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert blocks
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        code = compile("\n" * line + block[1], f"docs/{name}.md", "exec")
        exec(code, namespace)


# --- programs -------------------------------------------------------------------------------------


def test_every_program_is_tested_and_in_the_list_of_programs() -> None:
    files = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert files == set(PROGRAMS)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert files | {"tour"} == set(re.findall(r"\.\./examples/(\w+)\.", page))


@pytest.mark.parametrize("name", list(map(marked, PROGRAMS)))
def test_an_example_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.syspath_prepend(str(path.parent))  # as Python does for a program
    monkeypatch.setattr(sys, "argv", [str(path), "--iterations=1", *OPTIONS.get(name, [])])
    runpy.run_path(str(path), run_name="__main__")
    assert PROGRAMS[name] in capsys.readouterr().out


def test_the_notebook_runs() -> None:
    command = [sys.executable, "-c", RUN_NOTEBOOK, str(ROOT / "examples" / "tour.ipynb")]
    environment = os.environ | {
        "ITERATIONS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "after 3 inner steps: -" in done.stdout and "pictures: 3" in done.stdout


# --- doctests -------------------------------------------------------------------------------------


def modules_with_examples() -> Iterator[str]:
    """Of the package, part by part: its parts are links."""
    for part in ("", "agents", "envs", "launch"):
        folder = PACKAGE / part
        for path in sorted(folder.rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__init__")


@pytest.fixture
def example() -> None:
    """The run that the examples of the Python API speak of."""
    small = {"tasks": 2, "adaptation.episodes": 2, "policy.hidden": [8]}
    warprl.train("point-navigation-v1", iterations=2, run="example", set=small)


@pytest.mark.parametrize("name", list(map(marked, modules_with_examples())))
def test_the_examples_of_a_module_are_right(name: str, request: pytest.FixtureRequest) -> None:
    if name in ("warprl.launch.api", "warprl.launch.handle"):
        request.getfixturevalue("example")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_every_public_function_and_class_shows_how_it_is_used() -> None:
    finder = doctest.DocTestFinder(exclude_empty=False)
    for name in ("train", "load", "families", "presets", "Run", "AdaptedPolicy", "Adapter"):
        assert finder.find(getattr(warprl, name))[0].examples, name
