"""Meta-World's benchmarks as families, and its own evaluator on a trained run."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

metaworld: Any = pytest.importorskip("metaworld", reason="has its own: make metaworld-test")

from warprl.envs import UnknownFamily, make_family, meta_world  # noqa: E402
from warprl.envs.meta_world import SEED, MetaWorld, Variation, to_meta_world  # noqa: E402
from warprl.launch.cli import main  # noqa: E402
from warprl.seeding import generator  # noqa: E402
from warprl.types import Task  # noqa: E402

REACH = "ml1-reach-v3"
TINY = ("tasks=2", "adaptation.episodes=1", "adaptation.steps=1", "policy.hidden=[8]")


def family(name: str) -> MetaWorld:
    made = make_family(name)
    assert isinstance(made, MetaWorld)
    return made


def generators(number: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(number)]


def content(task: Any) -> tuple[Any, ...]:
    """A task in Meta-World's own form, for comparison."""
    values = pickle.loads(task.data)
    return (task.env_name, *values.pop("rand_vec").tolist(), *sorted(map(str, values.items())))


def converted(tasks: list[Task]) -> list[tuple[Any, ...]]:
    return [content(to_meta_world(task)) for task in tasks if isinstance(task, Variation)]


def test_the_tasks_of_one_environment_are_meta_worlds_own_and_held_out_ones_are_others() -> None:
    benchmark = metaworld.ML1("reach-v3", seed=SEED)
    train, test = family(REACH).distribution.all_tasks(), family(REACH).held_out_tasks()
    assert converted(train) == [content(task) for task in benchmark.train_tasks]
    assert converted(test) == [content(task) for task in benchmark.test_tasks]
    assert len(set(train)) == len(set(test)) == 50 and not set(train) & set(test)
    assert set(family(REACH).sample_tasks(generator(0, "tasks"), 50)) == set(train)


def test_the_environments_of_ml10_are_ten_to_train_on_and_five_others() -> None:
    drawn = family("ml10").sample_tasks(generator(0, "tasks"), 20)
    names = [to_meta_world(task).env_name for task in drawn if isinstance(task, Variation)]
    assert {name: names.count(name) for name in names} == dict.fromkeys(
        metaworld.env_dict.ML10_V3["train"], 2
    )
    assert len(set(drawn)) == 20
    test = family("ml10").held_out_tasks()
    assert {name for name, *_ in converted(test)} == set(metaworld.env_dict.ML10_V3["test"])
    assert len(set(test)) == 250
    sizes = {len(np.hstack(list(asdict(task).values()))) for task in test}
    assert sizes == {4, 7} and family("ml10").distribution.size == 7
    card = make_family("ml45").definition()
    assert card.tasks.count("-v3") == 45 and card.held_out.count("-v3") == 5


def test_tasks_survive_pickle_and_yaml() -> None:
    task = family(REACH).held_out_tasks()[7]
    assert pickle.loads(pickle.dumps(task)) == task
    assert family(REACH).parse_task(yaml.safe_load(yaml.safe_dump(asdict(task)))) == task
    assert family(REACH).distribution.size == len(np.hstack(list(asdict(task).values())))
    for values, message in (
        ({"env": 43, "vector": [0.0, 0.6]}, "is not one of Meta-World's tasks under seed"),
        ({"env": "reach", "vector": [0.0]}, "task field 'env' must be a finite number"),
        ({"env": 43, "vector": 1.0}, "task field 'vector' must be a list of finite numbers"),
    ):
        with pytest.raises(ValueError, match=f"^ml1-reach-v3: .*{message}"):
            family(REACH).parse_task(values)


def test_a_batch_of_several_environments_does_what_meta_world_does() -> None:
    tasks = family("ml10").sample_tasks(generator(1, "tasks"), 5)
    batch = family("ml10").make_batch(5)
    actions = np.random.default_rng(5).normal(0, 1, (40, 5, 4)).astype(np.float32)
    for order in (tasks, tasks[::-1]):  # nothing is left of the first episodes in the second
        observation = batch.reset(order, generators(5))
        singles = []
        for i, task in enumerate(order):
            assert isinstance(task, Variation)
            theirs = to_meta_world(task)
            singles.append(metaworld.env_dict.ALL_V3_ENVIRONMENTS[theirs.env_name]())
            singles[i].set_task(theirs)
            assert np.array_equal(observation[i], singles[i].reset()[0])
        for action in actions:
            observation, reward, terminated = batch.step(action)
            assert not terminated.any()
            assert np.array_equal(observation[:, -3:], np.zeros((5, 3))), "the goal is hidden"
            for i, single in enumerate(singles):
                by_hand = single.step(np.clip(action[i], -1, 1))
                assert np.array_equal(observation[i], by_hand[0])
                assert reward[i] == by_hand[1]
    assert not batch.faults().any()


WORKER = """
import pickle, sys
import metaworld, numpy as np
from warprl.envs import make_family

metaworld.ML1 = metaworld.ML10 = None
tasks = pickle.loads(bytes.fromhex(sys.argv[1]))
batch = make_family("ml10").make_batch(len(tasks))
batch.reset(tasks, [np.random.default_rng(0) for _ in tasks])
print(batch.step(np.zeros((len(tasks), 4), np.float32))[0].shape)
"""


def test_a_worker_that_is_sent_tasks_builds_no_benchmark() -> None:
    tasks = family("ml10").sample_tasks(generator(2, "tasks"), 2)
    command = [sys.executable, "-c", WORKER, pickle.dumps(tasks).hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(2, 39)\n", "")


@pytest.mark.ray
def test_a_run_is_trained_resumed_and_evaluated_by_meta_worlds_own_evaluator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for setting in TINY for word in ("--set", setting)]
    run = tmp_path / "run"
    start = ["train", REACH, "--iterations", "1", "--workers", "2", "--run", str(run), *settings]
    assert main(start) == 0
    assert main(["resume", str(run), "--iterations", "1"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    monkeypatch.setattr(meta_world, "GOALS", 2)
    tiny = ["--protocol", "metaworld", "--episodes", "1", "--json"]
    found = []
    for _ in range(2):
        assert main(["evaluate", str(run), *tiny]) == 0
        found.append(json.loads(capsys.readouterr().out))
    first, second = found
    assert list(first["success_rates"]) == ["reach-v3"]
    assert 0 <= first["success_rate"] == first["success_rates"]["reach-v3"] <= 1
    assert 0 < first["return"] <= 10 * 500
    assert "v2" in first["card"]["reward"]
    assert first["protocol"]["adaptation_episodes"] == 1
    written = Path(first.pop("folder")) / "metaworld.json"
    assert json.loads(written.read_text())["return"] == first["return"]
    assert second.pop("folder") and second == first, "all that is random follows from the seed"


def test_a_task_that_meta_world_does_not_have_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "ml1-reech-v3"]) == 2
    assert capsys.readouterr().err.startswith(
        "warprl: Meta-World has no task 'reech-v3'; did you mean 'ml1-reach-v3'?"
    )
    for name in ("ml1-zzz", "ml1-ml10"):
        with pytest.raises(UnknownFamily, match="^Meta-World has no task"):
            make_family(name)
