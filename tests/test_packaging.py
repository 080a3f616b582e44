"""What is shipped: one importable name, every file of it, and layers that import downwards only."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("agents", "envs", "launch")

IMPORT_EVERYTHING = """
import importlib, importlib.util, pkgutil, sys
import warprl
names = ["warprl", *(m.name for m in pkgutil.walk_packages(warprl.__path__, "warprl."))]
for name in names:
    try:
        print(name, importlib.import_module(name).__file__)
    except ModuleNotFoundError as error:  # an extra, with an environment of its own
        assert (name, error.name) == ("warprl.envs.meta_world", "metaworld")
        print(name, importlib.util.find_spec(name).origin)
for bare in ("agents", "envs", "launch"):
    assert importlib.util.find_spec(bare) is None, bare
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without this process's Python settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files() -> set[str]:
    """Every file of the package as the wheel must name it, symlinks followed."""
    return {
        (Path(folder) / name).relative_to(ROOT).as_posix()
        for folder, _, names in os.walk(ROOT / "warprl", followlinks=True)
        for name in names
        if not folder.endswith("__pycache__")
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("warprl", *LINKED):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--no-isolation", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment that holds the wheel and borrows this one's dependencies."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    # Only now: a .pth adds the folders without running *their* .pth files, so that the editable
    # install of the project stays out of sight.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(borrowed)))
    return home


def test_the_wheel_holds_every_file_and_nothing_but_warprl(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    assert {f"warprl/{name}/__init__.py" for name in LINKED} | {"warprl/py.typed"} <= held
    assert package_files() - held == set()
    assert {PurePosixPath(name).parts[0] for name in held} == {"warprl", "warprl-0.1.0.dist-info"}


def test_the_source_distribution_holds_files_where_the_tree_has_links(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym()]
    held = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert package_files() - held == set()
    assert {"LICENSE", "README.md", "pyproject.toml"} <= held


def test_every_module_imports_from_the_wheel_in_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    python = installed / "bin" / "python"
    lines = run(python, "-W", "error", "-c", IMPORT_EVERYTHING, cwd=tmp_path).splitlines()
    imported = dict(line.split(" ", 1) for line in lines)
    expected = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in package_files()
        if name.endswith(".py")
    }
    assert set(imported) == expected
    assert all(Path(file).is_relative_to(installed) for file in imported.values()), imported


def test_the_installed_command_runs_in_another_folder(installed: Path, tmp_path: Path) -> None:
    assert "train" in run(installed / "bin" / "warprl", "--help", cwd=tmp_path)


def test_importing_the_package_is_cheap(tmp_path: Path) -> None:
    code = "import sys, warprl; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = set(run(sys.executable, "-c", code, cwd=tmp_path).split())
    assert "warprl" in loaded
    assert loaded.isdisjoint({"torch", "ray", "numpy", "gymnasium", "mujoco", "pydantic"})


def imported_names(source: str) -> Iterator[str]:
    """Full names that a module imports, wherever in its text: ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def is_inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


ROOMS = {  # of launch/, and what each of them may not import of it
    "launch/runs": ("training", "evaluation", "cluster"),
    "launch/cluster": ("training", "evaluation"),
    "launch/training": ("evaluation",),
    "launch/evaluation": ("training", "cluster"),
}
THIRD_PARTY = {"warprl": {"torch", "numpy", "annotated_types", "safetensors"}}


def forbidden(layer: str, name: str) -> bool:
    """Whether a module of this layer may not import that name."""
    if is_inside(name, *LINKED) or name.startswith("."):
        return True
    if is_inside(name, "ray"):
        return layer not in {"launch/training", "launch/cluster", "tests", "benchmarks"}
    if not is_inside(name, "warprl"):
        top = name.partition(".")[0]
        known = sys.stdlib_module_names | THIRD_PARTY.get(layer, {top})
        return top not in known
    if layer in ROOMS:
        upwards = [f"warprl.launch.{room}" for room in ROOMS[layer]]
        return is_inside(name, "warprl.launch.cli", "warprl.launch.api", *upwards)
    match layer:
        case "envs":
            return not is_inside(name, "warprl.envs", "warprl.types", "warprl.seeding")
        case "agents":
            return is_inside(name, "warprl.envs", "warprl.launch")
        case "warprl":
            return is_inside(name, "warprl.envs", "warprl.agents", "warprl.launch")
        case _:
            return False


def layer_of(path: Path) -> str:
    """The layer that a file belongs to: a folder at the top, or a room of launch/."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "launch" and len(parts) > 2 else parts[0]


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("envs", "from warprl.learner import Learner"),
        ("envs", "def f():\n    import warprl.agents.policy"),
        ("envs", "from warprl import learner"),
        ("agents", "from warprl.envs import make_family"),
        ("agents", "from ray import tune"),
        ("warprl", "from warprl import agents"),
        ("warprl", "import ray.tune"),
        ("launch", "from envs.family import TaskFamily"),
        ("launch", "from . import config"),
        ("launch", "import ray"),
        ("launch/evaluation", "from ray import tune"),
        ("launch/runs", "from warprl.launch.training import loop"),
        ("launch/runs", "from warprl.launch.evaluation.evaluate import measure"),
        ("launch/evaluation", "from warprl.launch.training.loop import sampling"),
        ("launch/training", "from warprl.launch.cli import main"),
        ("launch/cluster", "from warprl.launch.training import loop"),
        ("warprl", "from gymnasium.spaces import Box"),
        ("warprl", "import pydantic"),
    ],
)
def test_a_forbidden_import_is_found(layer: str, source: str) -> None:
    assert any(forbidden(layer, name) for name in imported_names(source))


def modules(*folders: str) -> Iterator[Path]:
    """The Python files of folders at the top, each file once."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if folder != "warprl" or path.parent.resolve() == ROOT / "warprl":
                yield path


@pytest.mark.parametrize("folder", ["warprl", "agents", "envs", "launch", "tests", "benchmarks"])
def test_each_layer_imports_only_what_lies_below_it(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        if path != ROOT / "warprl" / "__init__.py"  # its names are loaded when they are used
        for name in imported_names(path.read_text())
        if forbidden(layer_of(path), name)
    ]
    assert wrong == []


def module_name(path: Path) -> str:
    """``warprl.envs.registry`` of ``envs/registry.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "warprl" else ("warprl", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of some modules import which of them, lazily or not."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        found = set(imported_names(source))
        found |= {part.rpartition(".")[0] for part in found}
        graph[name] = (found & sources.keys()) - {name}
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; none if there is no circle."""
    left = dict(graph)
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_no_import_runs_in_a_circle() -> None:
    sources = {module_name(path): path.read_text() for path in modules("warprl", *LINKED)}
    del sources["warprl"]  # its names are loaded when they are used
    assert circle(import_graph(sources)) == []


def test_a_circle_of_imports_is_found() -> None:
    sources = {
        "warprl.a": "from warprl.b import x",
        "warprl.b": "def f():\n    from warprl import c",
        "warprl.c": "import warprl.a",
        "warprl.d": "import warprl.a",
    }
    assert circle(import_graph(sources)) == ["warprl.a", "warprl.b", "warprl.c", "warprl.d"]
    assert circle(import_graph(sources | {"warprl.b": "import torch"})) == []


MOST_ARGUMENTS = 6


@pytest.mark.parametrize("folder", ["warprl", "agents", "envs"])
def test_no_function_takes_more_arguments_than_one_can_keep_in_mind(folder: str) -> None:
    long = []
    for path in modules(folder):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                own = names[:1] in (["self"], ["cls"])
                if len(names) + len(node.args.kwonlyargs) - own > MOST_ARGUMENTS:
                    long.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert long == []


def canonical(requirement: str) -> str:
    """The comparable name in a requirement such as ``ray[rllib]==2.60.*``."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_imported_is_declared_and_everything_declared_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonical(line) for line in project["dependencies"]}
    providers = packages_distributions()
    imported = {
        name.partition(".")[0]
        for layer in ("warprl", *LINKED)
        for path in (ROOT / layer).rglob("*.py")
        for name in imported_names(path.read_text())
    }
    # metaworld is an extra that cannot be installed here: its module checks that it is there.
    # pandas shows metrics as a table where it is there, and is not needed.
    third_party = imported - sys.stdlib_module_names - {"warprl", "metaworld", "pandas"}
    undeclared = {
        name
        for name in third_party
        if declared.isdisjoint(canonical(dist) for dist in providers.get(name, []))
    }
    assert undeclared == set()

    extras = project["optional-dependencies"]
    for name, wanted in (
        ("constraints.txt", extras["dev"]),
        ("constraints-metaworld.txt", [*extras["dev"], *extras["metaworld"]]),
    ):
        lock = (ROOT / name).read_text().splitlines()
        assert [
            line for line in lock if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)
        ] == []
        needed = declared | {canonical(line) for line in wanted}
        assert needed - {canonical(line) for line in lock} == set()
