"""Files from elsewhere: whatever is in them, they are read rightly or refused in one line."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import warprl
from warprl import checkpoint
from warprl.agents.adapted import AdaptedPolicy
from warprl.agents.adapter import Adapter
from warprl.agents.meta import InProcess
from warprl.checkpoint import MANIFEST, STATE, TENSORS
from warprl.envs import make_family
from warprl.launch.errors import UserError, printable
from warprl.launch.evaluation import compare, evaluate
from warprl.launch.evaluation.groups import Member
from warprl.launch.runs import config as configuration
from warprl.launch.runs import ledger, metrics, stored
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.lease import Holder
from warprl.launch.training import cells
from warprl.launch.training.loop import Progress, experiment_of, iterations

FAMILY = "point-navigation-v1"
TINY = {"tasks": 2, "adaptation.episodes": 1, "adaptation.steps": 1, "policy.hidden": [4]}
GRID = {
    "families": [FAMILY],
    "agents": ["warpgrad", "maml"],
    "variants": {"online": {"agent": "warpgrad", "settings": ["outer.epochs=1"]}},
    "vary": {"adaptation.inner_lr": [0.1, 0.2]},
    "seeds": [1, 2],
    "iterations": 2,
    "settings": ["tasks=2"],
}
FEW, MANY = 15, 10_000
SLOW = (pytest.mark.slow, pytest.mark.timeout(7200))
TWICE = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=SLOW)]


# --- what a stranger may write --------------------------------------------------------------------

TEXTS = st.sampled_from(["", "x" * 5000, "\x1b[2J\n\r\0", "é\u2028", "iteration", "theta.weight_0"])
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 0.5, 10**9, 2**63, 10**400, -(10**400)]),
    st.sampled_from([1e308, -1e308, 1e-320, -0.0, float("nan"), float("inf"), -float("inf")]),
    TEXTS,
    st.sampled_from([[], {}, [[]], [1, 2], {"a": 1}, [None] * 50]),
)


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """A document of which one to three values were replaced, removed, doubled or added."""
    root: dict[str, Any] = {"document": copy.deepcopy(document)}
    for _ in range(draw(st.integers(1, 3))):
        # Somewhere in it, more often deep inside.
        place: Any = root
        key: Any = "document"
        while isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 5)):
            place = place[key]
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(list(keys)))

        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace" or place is root:
            place[key] = copy.deepcopy(draw(ODD))
        elif kind == "remove":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        else:
            place[draw(TEXTS)] = copy.deepcopy(draw(ODD))
    return root["document"]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some were changed, cut off, removed or doubled."""
    first, last = sorted(draw(st.integers(0, len(content))) for _ in range(2))
    kind = draw(st.sampled_from(["change", "cut", "remove", "double", "insert"]))
    between = {
        "change": draw(st.binary(min_size=1, max_size=9)) + content[first + 9 :],
        "cut": b"",
        "remove": content[last:],
        "double": content[first:last] * 2 + content[last:],
        "insert": draw(st.binary(max_size=9)) + content[first:],
    }
    return content[:first] + between[kind]


def one_line(error: UserError) -> None:
    """What is promised of every message."""
    message = str(error)
    assert 0 < len(message) < 300
    assert message.isprintable()


def attempt(work: Callable[[], Any]) -> Any:
    """The result of work, or None if it is refused in one line; any other exception is a fault."""
    try:
        return work()
    except UserError as error:
        one_line(error)
        return None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations."""
    folder = tmp_path_factory.mktemp("doors") / "run"
    warprl.train(FAMILY, iterations=2, run=folder, set={**TINY, "output.checkpoint_every": 1})
    return folder


@pytest.fixture(scope="module")
def scratch(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, of which each example writes the files that it changes anew."""
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("doors") / "copy"))


@pytest.fixture(scope="module")
def run_config(run: Path) -> RunConfig:
    return configuration.load(run / "config.yaml")


def examples(number: int) -> settings:
    return settings(
        max_examples=number,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


def try_all(number: int, check: Callable[[st.DataObject], None]) -> None:
    """Run a check on so many drawn examples."""

    @examples(number)
    @given(data=st.data())
    def run_checks(data: st.DataObject) -> None:
        check(data)

    run_checks()


def rewritten(data: st.DataObject, content: bytes, document: Any) -> bytes:
    """A JSON file whose document was edited, or whose bytes were damaged."""
    if data.draw(st.booleans()):
        return data.draw(damaged(content))
    return json.dumps(data.draw(edited(document))).encode()


# --- metrics.jsonl --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TWICE)
def test_any_log_is_read_rightly_or_refused_in_one_line_and_can_be_restored(
    number: int, run: Path, scratch: Path
) -> None:
    original, path = (run / "metrics.jsonl").read_bytes(), scratch / "metrics.jsonl"
    rows = [json.loads(line) for line in original.splitlines()]

    def check(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            path.write_bytes(data.draw(damaged(original)))
        else:
            changed = data.draw(edited(rows))
            found = changed if isinstance(changed, list) else [changed]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in found))
        found = attempt(lambda: metrics.read(path, 2))
        if found is not None:
            require_rows(found)
        metrics.restore(path, 2)
        require_rows(metrics.read(path, 2))
        for aside in scratch.glob("*.broken"):
            aside.unlink()

    def require_rows(found: list[metrics.Metrics]) -> None:
        numbers = [row["iteration"] for row in found]
        assert numbers == sorted(set(numbers)) and set(numbers) <= {1, 2}
        for row in found:
            metrics.returns_text(row)
            assert all(isinstance(value, int | float) for value in row.values())

    try_all(number, check)


# --- config.yaml and sweep files ------------------------------------------------------------------


@pytest.mark.parametrize("number", TWICE)
def test_any_configuration_is_read_rightly_or_refused_in_one_line(
    number: int, run: Path, tmp_path: Path
) -> None:
    original, path = (run / "config.yaml").read_bytes(), tmp_path / "config.yaml"
    document = yaml.safe_load(original)

    def check(data: st.DataObject) -> None:
        path.write_bytes(rewritten(data, original, document))
        found = attempt(lambda: configuration.load(path))
        if found is not None:
            path.write_text(configuration.dump(found))
            assert configuration.load(path) == found

    try_all(number, check)


@pytest.mark.parametrize("number", TWICE)
def test_any_sweep_file_is_read_rightly_or_refused_in_one_line(number: int, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"

    def check(data: st.DataObject) -> None:
        path.write_bytes(rewritten(data, yaml.safe_dump(GRID).encode(), GRID))
        grid = attempt(lambda: cells.read(path, str(tmp_path / "runs")))
        if grid is not None:
            attempt(lambda: cells.plan(grid, path))

    try_all(number, check)


# --- checkpoints ----------------------------------------------------------------------------------


def seal(folder: Path, manifest: Any) -> None:
    """Make the checksums of a checkpoint right again, as whoever forges one would."""
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        for name in (TENSORS, STATE):
            content = (folder / name).read_bytes()
            if isinstance(manifest["files"].get(name), dict):
                manifest["files"][name] |= {
                    "size": len(content),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
    if isinstance(manifest, dict):
        manifest.pop("sha256", None)
        (folder / MANIFEST).write_bytes(checkpoint._seal(manifest))
    else:
        (folder / MANIFEST).write_text(json.dumps(manifest))


def odd_tensors(data: st.DataObject, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of which one has other numbers, another shape or type, another name, or is gone."""
    name = data.draw(st.sampled_from(sorted(found)))
    tensor = found.pop(name)
    changes: list[Callable[[], dict[str, torch.Tensor]]] = [
        dict,
        lambda: {f"{name}x": tensor},
        lambda: {name: tensor, data.draw(TEXTS): tensor.clone()},
        lambda: {name: tensor.double()},
        lambda: {name: tensor.bool()},
        lambda: {name: tensor.flatten()[:0]},
        lambda: {name: tensor.unsqueeze(0)},
        lambda: {name: tensor * float("nan")},
        lambda: {name: tensor + float("inf")},
        lambda: {name: tensor - 2.0},
        lambda: {name: torch.full_like(tensor, 1e38)},
    ]
    return found | data.draw(st.sampled_from(changes))()


def forge(data: st.DataObject, original: Path, folder: Path) -> None:
    """Write a checkpoint that is not quite the original one, with right checksums."""
    state = json.loads((original / STATE).read_bytes())
    manifest = json.loads((original / MANIFEST).read_bytes())
    content = (original / TENSORS).read_bytes()
    match data.draw(st.sampled_from(["state", "state", "tensors", "bytes", "manifest"])):
        case "state":
            state = data.draw(edited(state))
        case "tensors":
            found = odd_tensors(data, load_tensors(content))
            content = save_tensors(found)
            order = [*(name for name in state["order"] if name in found), *found]
            state["order"] = list(dict.fromkeys(order))
        case "bytes":
            content = data.draw(damaged(content))
        case _:
            manifest = data.draw(edited(manifest))
    (folder / STATE).write_text(json.dumps(state))
    (folder / TENSORS).write_bytes(content)
    seal(folder, manifest)


@pytest.mark.parametrize("number", TWICE)
def test_any_checkpoint_with_right_checksums_is_used_rightly_or_refused_in_one_line(
    number: int, run: Path, scratch: Path, run_config: RunConfig
) -> None:
    original, folder = run / "checkpoints" / "2", scratch / "checkpoints" / "2"
    expected = checkpoint.load(run / "checkpoints", 2)
    experiment = experiment_of(run_config)
    sampler = InProcess(experiment)

    def check(data: st.DataObject) -> None:
        forge(data, original, folder)
        saved = attempt(lambda: stored.load_checkpoint(scratch, run_config, 2))
        if saved is None:
            return

        # It is a state of this run, from which it can be trained on.
        assert {n: t.shape for n, t in saved.tensors.items()} == {
            n: t.shape for n, t in expected.tensors.items()
        } or set(saved.tensors) < set(expected.tensors)
        attempt(lambda: stored.require_unchanged(saved, run_config))
        stored.logged(saved)
        progress = Progress.load(saved)
        assert progress.learner.iteration == 2
        after, row = next(iterations(experiment, sampler, progress))
        assert after.learner.iteration == row["iteration"] == 3
        json.dumps(dict(after.counters), allow_nan=False)

    try_all(number, check)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "NaN scale": (lambda d, t: d["learner"].update(step_scale=float("nan")), "step_scale = NaN"),
    "scale": (lambda d, t: d["learner"].update(step_scale=1.5), "step_scale = 1.5"),
    "iteration": (lambda d, t: d["learner"].update(iteration=10**9), "is at iteration 1000000000"),
    "counter": (lambda d, t: d["counters"].update(env_steps=-1), "counters.env_steps = -1"),
    "true": (lambda d, t: d["counters"].update(env_steps=True), "counters.env_steps = true"),
    "no counters": (lambda d, t: d.pop("counters"), "key 'counters' is missing"),
    "surplus key": (lambda d, t: d.update(extra=1), "unknown key 'extra'"),
    "policy": (lambda d, t: d["policy"].update(extra=1), "unknown key 'extra'"),
    "missing": (lambda d, t: t.pop("theta.bias_0"), "theta.bias_0 is missing"),
    "surplus": (lambda d, t: t.update({"phi.x": torch.zeros(1)}), "'phi.x' does not belong"),
    "group": (lambda d, t: t.update({"x.y": torch.zeros(1)}), "'x.y' does not belong there"),
    "type": (
        lambda d, t: t.update({"theta.bias_0": t["theta.bias_0"].double()}),
        "theta.bias_0 is of torch.float64 and should be of torch.float32",
    ),
    "shape": (
        lambda d, t: t.update({"phi.warp_0.bias": torch.zeros(3)}),
        "phi.warp_0.bias is of shape [3] and should be of [4]",
    ),
    "not finite": (
        lambda d, t: t["theta.bias_0"].fill_(float("inf")),
        "theta.bias_0 has a number that is not finite",
    ),
    "moment": (
        lambda d, t: t.pop("moments.theta.bias_0.exp_avg"),
        "theta.bias_0.exp_avg is missing",
    ),
    "negative moment": (
        lambda d, t: t["moments.theta.bias_0.exp_avg_sq"].fill_(-1.0),
        "theta.bias_0.exp_avg_sq has a number below 0",
    ),
    "step": (
        lambda d, t: t["moments.theta.bias_0.step"].fill_(0.5),
        "theta.bias_0.step is 0.5 and should be a whole number",
    ),
    "gathered": (
        lambda d, t: t.update({"gathered.warp_0.bias": torch.zeros(4)}),
        "'gathered.warp_0.bias' does not belong there",
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_checkpoint_is_refused_by_what_is_wrong_with_it(
    kind: str, run: Path, run_config: RunConfig, tmp_path: Path
) -> None:
    saved = checkpoint.load(run / "checkpoints", 2)
    document = copy.deepcopy(saved.document)
    tensors = {name: tensor.clone() for name, tensor in saved.tensors.items()}
    forge, message = FORGERIES[kind]
    forge(document, tensors)
    path = checkpoint.save(tmp_path / "checkpoints", 2, tensors, document)
    with pytest.raises(UserError) as error:
        stored.load_checkpoint(tmp_path, run_config, 2)
    one_line(error.value)
    assert str(path) in str(error.value) and message in str(error.value)


def test_a_trust_region_has_no_moments_and_parameters_have_an_order(
    run: Path, tmp_path: Path
) -> None:
    config = configuration.resolve(
        FAMILY, "warpgrad", {}, [f"{k}={v}" for k, v in TINY.items()] + ["outer.type=trpo"]
    )
    saved = checkpoint.load(run / "checkpoints", 2)
    checkpoint.save(tmp_path / "checkpoints", 2, saved.tensors, saved.document)
    with pytest.raises(UserError, match=r"'theta.*' does not belong there"):
        stored.load_checkpoint(tmp_path, config, 2)
    turned = dict(reversed(saved.tensors.items()))
    checkpoint.save(tmp_path / "turned" / "checkpoints", 2, turned, saved.document)
    with pytest.raises(UserError, match="theta should be in the order weight_0, bias_0"):
        stored.load_checkpoint(tmp_path / "turned", configuration.load(run / "config.yaml"), 2)


def test_an_imported_initialisation_is_checked_as_well(
    run: Path, run_config: RunConfig, tmp_path: Path
) -> None:
    theta, _ = stored.fresh(run_config)
    for forged, message in (
        ({**theta, "x": torch.zeros(1)}, "'x' does not belong there"),
        ({n: t.double() for n, t in theta.items()}, "is of torch.float64"),
        ({n: t * float("nan") for n, t in theta.items()}, "is not finite"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        stored.save_imported(folder, stored.Imported(forged, {"sha256": "é"}))
        with pytest.raises(UserError, match=message):
            stored.initial(folder, run_config)
        with pytest.raises(UserError, match="sha256 = .*: should be a checksum"):
            stored.imported_from(folder)


# --- saved policies and adaptations ---------------------------------------------------------------


@pytest.mark.parametrize("number", TWICE)
@pytest.mark.parametrize("kind", [AdaptedPolicy, Adapter])
@pytest.mark.parametrize("agent", ["warpgrad", "rl2"])
def test_any_saved_policy_acts_or_is_refused_in_one_line(
    agent: str, kind: type[AdaptedPolicy] | type[Adapter], number: int, tmp_path: Path
) -> None:
    config = configuration.of_preset(FAMILY, agent)
    shape = replace(config.policy, hidden=(3,))
    policy = AdaptedPolicy.fresh(make_family(FAMILY).spaces, shape)
    adapter = Adapter(policy, config.adaptation)
    for reward in (0.5, -0.5):
        adapter.act([0.0, 0.0])
        adapter.observe(reward, terminated=False, truncated=reward < 0)
    (policy if kind is AdaptedPolicy else adapter).save(tmp_path / "saved")
    (original,) = (tmp_path / "saved").iterdir()
    folder = Path(shutil.copytree(original, tmp_path / "forged" / original.name))
    loaded = kind.load(tmp_path / "forged")
    loaded.act([0.0, 0.0]) if isinstance(loaded, Adapter) else loaded.predict([[0.0, 0.0]])

    def check(data: st.DataObject) -> None:
        forge(data, original, folder)
        try:
            found = kind.load(tmp_path / "forged")
        except checkpoint.CheckpointError as error:
            assert str(error).isprintable()
            return
        assert isinstance(found, AdaptedPolicy | Adapter)
        if isinstance(found, AdaptedPolicy):
            found.predict([[0.0, 0.0]] if found.spaces.obs_size == 2 else [])
            return
        found.act([0.0, 0.0])
        found.observe(0.0, terminated=True)
        found.update()

    try_all(number, check)


# --- evaluations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TWICE)
def test_any_stored_evaluation_is_used_rightly_or_measured_anew(
    number: int, scratch: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "knows", lambda kind, text: True)
    shutil.copytree(run / "checkpoints", scratch / "checkpoints", dirs_exist_ok=True)
    shutil.copy(run / "metrics.jsonl", scratch)
    member = Member.open(scratch)
    protocol = evaluate.make_protocol(FAMILY, 1, 1, 0)
    found = evaluate.record(member.run, protocol, Console(quiet=True))
    path = Path(found.folder) / "summary.json"
    original = path.read_bytes()

    def check(data: st.DataObject) -> None:
        path.write_bytes(rewritten(data, original, json.loads(original)))
        known = evaluate.recall(member.run, protocol)
        if known is not None:
            measured = compare.measure(member, protocol, known, Console(quiet=True))
            row = compare.summarise("group", [measured, measured], protocol)
            json.dumps(row.to_json())
            assert len(row.curve) == 2

    assert evaluate.recall(member.run, protocol) == found, "unless it is changed"
    try_all(number, check)


# --- leases and messages --------------------------------------------------------------------------


@pytest.mark.parametrize("number", TWICE)
def test_any_lease_names_a_holder(number: int) -> None:
    original = Holder.of_this_process().to_bytes()

    def check(data: st.DataObject) -> None:
        holder = Holder.parse(rewritten(data, original, json.loads(original)))
        str(holder), holder.local, holder.alive, holder.expired

    try_all(number, check)


@given(text=st.text(max_size=2000))
def test_every_message_is_one_short_line_that_is_safe_to_print(text: str) -> None:
    message = str(UserError(text))
    assert len(message) < 300 and (message.isprintable() or not message)
    assert printable(message) == message


def test_a_long_message_keeps_its_beginning_and_its_advice() -> None:
    message = str(UserError(f"what: {'x' * 5000}: give --changed"))
    assert message.startswith("what: x") and message.endswith("x: give --changed")
