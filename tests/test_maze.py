"""The grid mazes: their layout, moves, observations and rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from warprl.envs import make_family
from warprl.envs.maze import MazeBatch, layout
from warprl.envs.tasks import Cell
from warprl.seeding import generator

UP, DOWN, LEFT, RIGHT = range(4)
each_maze = pytest.mark.parametrize(("name", "width"), [("maze-v1", 13), ("maze-11-v1", 11)])


def started(name: str, *goals: Cell, episodes: int = 1, seed: int = 7) -> MazeBatch:
    batch = make_family(name).make_batch(len(goals) * episodes)
    assert isinstance(batch, MazeBatch)
    batch.reset(goals, [np.random.default_rng(seed + i) for i in range(len(goals))])
    return batch


def one_hot(*choices: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(choices)]


def beside_the_start(width: int) -> Cell:
    """One step to the right of the start."""
    return Cell(width // 2, width // 2 + 1)


def walk(batch: MazeBatch, choices: Sequence[int]) -> tuple[list[list[int]], list[float]]:
    """Where one agent is after each step, and what each step pays."""
    places, rewards = [], []
    for choice in choices:
        _, reward, terminated = batch.step(one_hot(choice))
        assert not terminated.any()
        places.append([int(x) for x in batch.render_state(0)])
        rewards.append(float(reward[0]))
    return places, rewards


# --- the grid -----------------------------------------------------------------------------------


def test_the_layout_by_hand() -> None:
    """A border, pillars at even rows and columns, and a free centre."""
    assert ["".join(".#"[int(wall)] for wall in row) for row in layout(7)] == [
        "#######",
        "#.....#",
        "#.#.#.#",
        "#.....#",
        "#.#.#.#",
        "#.....#",
        "#######",
    ]
    # In 5 x 5 cells the only pillar would stand in the centre.
    assert ["".join(".#"[int(wall)] for wall in row) for row in layout(5)] == [
        "#####",
        "#...#",
        "#...#",
        "#...#",
        "#####",
    ]


@pytest.mark.parametrize(
    # 11 x 11 cells within the border less 5 x 5 pillars, of which the centre is none; and 9 x 9
    # less 4 x 4, none of which is in the centre.
    ("name", "width", "free"),
    [("maze-v1", 13, 121 - 24), ("maze-11-v1", 11, 81 - 16)],
)
def test_every_free_cell_but_the_start_is_a_task(name: str, width: int, free: int) -> None:
    walls = layout(width)
    assert walls.shape == (width, width) and (~walls).sum() == free
    tasks = make_family(name).held_out_tasks()
    assert len(set(tasks)) == len(tasks) == free - 1
    for task in tasks:
        assert isinstance(task, Cell)
        assert not walls[task.row, task.col]
        assert (task.row, task.col) != (width // 2, width // 2)


@each_maze
def test_training_tasks_are_uniform_and_drawn_with_replacement(name: str, width: int) -> None:
    family = make_family(name)
    tasks = family.held_out_tasks()
    drawn = family.sample_tasks(generator(0, "tasks"), 1000 * len(tasks))
    counts = np.array([drawn.count(task) for task in tasks[:5]])
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert set(drawn) == set(tasks)


# --- moves and rewards --------------------------------------------------------------------------


def test_moves_bumps_and_the_goal_by_hand() -> None:
    """From the centre (6, 6): right to (6, 7); a pillar is at (6, 8); down to (7, 7), (8, 7)."""
    batch = started("maze-v1", Cell(7, 8))
    places, rewards = walk(batch, [RIGHT, RIGHT, DOWN, LEFT, UP, DOWN, RIGHT])
    assert places == [[6, 7], [6, 7], [7, 7], [7, 6], [6, 6], [7, 6], [7, 7]]
    assert rewards == [0.0] * 7
    (place,), (reward,) = walk(batch, [RIGHT])
    assert reward == 10.0
    assert place != [7, 8], "the goal sends the agent elsewhere in the same step"


def test_the_goal_pays_whenever_it_is_reached_and_stays_where_it_is() -> None:
    batch = started("maze-11-v1", Cell(5, 6))
    paid = 0
    for _ in range(400):  # along the corridor where it was sent, then to the column and the row
        row, col = (int(x) for x in batch.render_state(0))
        if col % 2 == 0 and row != 5:
            choice = LEFT
        elif row != 5:
            choice = DOWN if row < 5 else UP
        else:
            choice = RIGHT if col < 6 else LEFT
        _, reward, _ = batch.step(one_hot(choice))
        near = (row, col) in [(5, 5), (5, 7)]
        assert reward[0] == (10.0 if near else 0.0)
        paid += near
    assert paid > 20


def test_a_bump_costs_nothing_and_an_agent_in_a_corner_stays() -> None:
    batch = started("maze-11-v1", Cell(5, 6))
    places, rewards = walk(batch, [UP] * 6 + [LEFT] * 6)
    assert places == [[r, 5] for r in (4, 3, 2, 1, 1, 1)] + [[1, c] for c in (4, 3, 2, 1, 1, 1)]
    assert not any(rewards)


# --- observations -------------------------------------------------------------------------------


def test_observations_by_hand() -> None:
    batch = make_family("maze-v1").make_batch(1)
    first = batch.reset([Cell(7, 7)], [np.random.default_rng(0)])
    # The centre, a freed pillar: no walls near it; the next pillars are two cells away.
    assert first.tolist() == [[0] * 9 + [0, 1, 0, 0] + [0] * 4]
    # (6, 7), between the freed centre and the pillar at (6, 8).
    observation, _, _ = batch.step(one_hot(RIGHT))
    assert observation.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0.005, 0, 0, 0, 0, 1]]
    # A bump: as before, one step later.
    observation, _, _ = batch.step(one_hot(RIGHT))
    assert observation.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0.01, 0, 0, 0, 0, 1]]
    # The goal: the reward of this very step is the last one, and the walls are those of the cell
    # that the agent was sent to.
    observation, reward, _ = batch.step(one_hot(DOWN))
    assert reward.tolist() == [10.0]
    row, col = (int(x) for x in batch.render_state(0))
    around = layout(13)[row - 1 : row + 2, col - 1 : col + 2]
    assert observation[0, :9].tolist() == around.ravel().tolist()
    assert observation[0, 9:].tolist() == [0, 1, 0.015, 10, 0, 1, 0, 0]
    # The next one pays nothing.
    observation, reward, _ = batch.step(one_hot(UP))
    assert reward.tolist() == [0.0] and observation[0, 12] == 0.0


@each_maze
def test_observations_are_in_their_space_and_tell_the_walls_and_nothing_else(
    name: str, width: int
) -> None:
    family = make_family(name)
    goals = family.sample_tasks(generator(1, "tasks"), 10)
    batch = family.make_batch(40)
    observation = batch.reset(goals, [np.random.default_rng(i) for i in range(10)])
    walls = layout(width)
    actions = np.random.default_rng(3)
    for step in range(family.horizon):
        assert all(family.observation_space.contains(row) for row in observation)
        assert (observation[:, 11] == step / 200).all()
        for i in range(0, 40, 7):
            row, col = (int(x) for x in batch.render_state(i))
            patch = walls[row - 1 : row + 2, col - 1 : col + 2]
            assert observation[i, :9].tolist() == patch.ravel().tolist()
        choices = actions.integers(4, size=40)
        observation, reward, _ = batch.step(one_hot(*choices))
        assert np.array_equal(observation[:, 12], reward)
        assert observation[:, 13:].argmax(1).tolist() == choices.tolist()
    assert not batch.faults().any()


# --- teleports ----------------------------------------------------------------------------------


@each_maze
def test_the_goal_sends_to_every_free_cell_but_itself_alike(name: str, width: int) -> None:
    family = make_family(name)
    goal = beside_the_start(width)
    batch = family.make_batch(20_000)
    batch.reset([goal], [np.random.default_rng(0)])
    _, reward, _ = batch.step(one_hot(*[RIGHT] * batch.num_envs))
    assert (reward == 10.0).all()
    places = np.array([batch.render_state(i) for i in range(batch.num_envs)]).astype(int)
    counts = np.zeros((width, width))
    np.add.at(counts, tuple(places.T), 1)
    assert not counts[layout(width)].any(), "never into a wall"
    assert counts[goal.row, goal.col] == 0, "never to the goal"
    reachable = ~layout(width)
    reachable[goal.row, goal.col] = False
    expected = batch.num_envs / reachable.sum()
    assert np.abs(counts[reachable] - expected).max() < 5 * np.sqrt(expected)


@each_maze
def test_an_episode_depends_on_its_own_generator_and_actions_alone(name: str, width: int) -> None:
    """Neither on its neighbours in the batch nor on what was simulated before."""
    family = make_family(name)
    goals = family.sample_tasks(generator(2, "tasks"), 3)
    goals[1] = beside_the_start(width)
    crowd, alone = family.make_batch(6), family.make_batch(2)
    crowd.reset(goals[::-1], [np.random.default_rng(9 + i) for i in range(3)])
    for _ in range(30):
        crowd.step(one_hot(*[RIGHT] * 6))
    crowd.reset(goals, [np.random.default_rng(i) for i in range(3)])
    alone.reset(goals[1:2], [np.random.default_rng(1)])
    actions, paid = np.random.default_rng(5), 0.0
    for step in range(family.horizon):
        if step == 50:  # another begins anew
            crowd.restart(np.array([0, 5]), [goals[2]], [np.random.default_rng(77)])
        action = one_hot(*actions.integers(4, size=6))
        together, apart = crowd.step(action), alone.step(action[2:4])
        for mine, theirs in zip(together, apart, strict=True):
            assert np.array_equal(mine[2:4], theirs)
        assert np.array_equal(crowd.render_state(2), alone.render_state(0))
        paid += float(apart[1].sum())
    assert paid > 0.0


def test_episodes_are_sent_to_places_of_their_own() -> None:
    batch = started("maze-v1", Cell(6, 7), episodes=20)
    batch.step(one_hot(*[RIGHT] * 20))
    assert len({tuple(batch.render_state(i)) for i in range(20)}) > 10
    first = [tuple(batch.render_state(i)) for i in range(20)]
    again = started("maze-v1", Cell(6, 7), episodes=20)
    again.step(one_hot(*[RIGHT] * 20))
    assert [tuple(again.render_state(i)) for i in range(20)] == first


# --- pictures -----------------------------------------------------------------------------------


@each_maze
def test_a_picture_shows_walls_goal_and_agent_where_they_are(name: str, width: int) -> None:
    goal = Cell(1, width - 2)
    screen = make_family(name).screen(goal, 20 * width + 5)
    picture = screen.draw(np.array([3.0, 1.0]))
    assert picture.shape == (20 * width + 5, 20 * width + 5, 3) and picture.dtype == np.uint8
    middles = ((np.arange(width) + 0.5) * len(picture) / width).astype(int)
    cells = picture[middles[:, None], middles].astype(int)
    walls = layout(width)
    red, green, blue = np.moveaxis(cells, -1, 0)
    assert np.array_equal(cells.max(-1) < 100, walls)
    assert np.argwhere((red > 150) & (blue < 100)).tolist() == [[goal.row, goal.col]]
    assert np.argwhere((blue > 150) & (red < 100)).tolist() == [[3, 1]]
    assert (green[~walls] > 200).sum() == (~walls).sum() - 2
    assert (screen.draw(np.array([3.0, 2.0])) != picture).any()
    screen.close()
