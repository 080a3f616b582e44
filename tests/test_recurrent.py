"""Memory cells and the recurrent warp, as pure functions."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from helpers import perturbed
from torch import Tensor, nn

from warprl import params as P
from warprl.agents.recurrent import (
    MemoryKind,
    advance,
    begin,
    init_cell,
    init_recurrent_warp,
    run,
)
from warprl.types import Params

T, E, L, I, W = 3, 4, 5, 2, 3  # noqa: E741 - tasks, sequences, steps, input and memory
CELLS: list[tuple[MemoryKind, bool]] = [("gru", False), ("rnn", False), ("rnn", True)]

each_kind = pytest.mark.parametrize("kind", get_args(MemoryKind))
each_cell = pytest.mark.parametrize(("kind", "warped"), CELLS)


def parameters(kind: MemoryKind, warped: bool) -> tuple[Params, Params]:
    """Another cell for each task, and a warp off the identity, in float64."""
    rng = np.random.default_rng(1)
    cells = [perturbed(init_cell(kind, I, W, rng), rng, 0.3) for _ in range(T)]
    warp = perturbed(init_recurrent_warp(I, W, rng), rng, 0.3) if warped else {}
    return P.stack(cells), warp


def sequences(dead: tuple[int, ...] = ()) -> Tensor:
    """``[T, E, L, I + 2]``: random inputs, alive but in the steps ``dead`` of sequence 1."""
    rng = np.random.default_rng(2)
    seen = torch.as_tensor(rng.standard_normal((T, E, L, I + 2)))
    seen[..., I], seen[..., I + 1] = 1.0, 0.0
    seen[:, :, 0, I + 1] = 1.0
    seen[:, 1, list(dead), I] = 0.0
    return seen


def outputs(kind: MemoryKind, cell: Params, warp: Params, seen: Tensor) -> Tensor:
    return run(kind, cell, warp, seen.flatten(1, 2)).view(*seen.shape[:3], W)


def step_by_step(kind: MemoryKind, cell: Params, warp: Params, seen: Tensor) -> Tensor:
    state, found = begin(cell, warp, E), []
    for t in range(L):
        state = advance(kind, cell, warp, seen[:, :, t], state)
        found.append(state[0])
    return torch.stack(found, 2)


def as_torch_s(kind: MemoryKind, cell: Params) -> nn.GRUCell | nn.RNNCell:
    """The module of torch with the parameters of one task; its GRU has the reset gate first."""
    made = nn.GRUCell if kind == "gru" else nn.RNNCell
    module = made(I, W, dtype=torch.float64)
    order = torch.arange(cell["bias"].numel())
    if kind == "gru":
        order = torch.cat([order[W : 2 * W], order[:W], order[2 * W :]])
    with torch.no_grad():
        module.weight_ih.copy_(cell["weight_in"].T[order])
        module.weight_hh.copy_(cell["weight_hidden"].T[order])
        module.bias_ih.copy_(cell["bias"][order])
        module.bias_hh.zero_()
    return module


@each_kind
def test_a_cell_is_that_of_torch(kind: MemoryKind) -> None:
    cell, _ = parameters(kind, False)
    seen = sequences()
    found = outputs(kind, cell, {}, seen)
    for t in range(T):
        module, hidden = as_torch_s(kind, P.select(cell, t)), torch.zeros(E, W).double()
        for step in range(L):
            hidden = module(seen[t, :, step, :I], hidden)
            torch.testing.assert_close(found[t, :, step], hidden, rtol=1e-10, atol=1e-12)


@each_cell
def test_running_over_stored_steps_is_advancing_through_them(
    kind: MemoryKind, warped: bool
) -> None:
    cell, warp = parameters(kind, warped)
    for seen in (sequences(), sequences(dead=(2, 4))):
        found = outputs(kind, cell, warp, seen)
        torch.testing.assert_close(
            found, step_by_step(kind, cell, warp, seen), rtol=1e-12, atol=1e-14
        )


def test_a_fresh_warp_changes_no_bit_of_what_the_memory_holds() -> None:
    rng = np.random.default_rng(0)
    cell = P.stack([init_cell("rnn", I, W, rng) for _ in range(T)])
    cell["bias"] = torch.randn(T, W)
    warp, seen = init_recurrent_warp(I, W, rng), sequences().float()
    assert torch.equal(outputs("rnn", cell, {}, seen), outputs("rnn", cell, warp, seen))
    assert torch.equal(step_by_step("rnn", cell, {}, seen), step_by_step("rnn", cell, warp, seen))


def test_every_gate_of_the_warp_acts_and_none_is_shared() -> None:
    # One gate opened from 1 to 1 + tanh(1) at a time: each changes the output in its own way.
    cell, warp = parameters("rnn", True)
    warp["gate_weight"] = torch.zeros_like(warp["gate_weight"])
    found = []
    for gate in range(I + 4 * W):
        warp["gate_bias"] = torch.zeros(I + 4 * W).double()
        warp["gate_bias"][gate] = 1.0
        found.append(outputs("rnn", cell, warp, sequences()))
    plain = outputs("rnn", cell, {}, sequences())
    for gate, output in enumerate(found):
        others = [plain, *found[:gate]]
        assert all((output - other).abs().max() > 1e-3 for other in others)


@each_cell
def test_the_memory_is_held_where_an_episode_is_over(kind: MemoryKind, warped: bool) -> None:
    cell, warp = parameters(kind, warped)
    dead = (2, 3)
    found = outputs(kind, cell, warp, sequences(dead))
    assert torch.equal(found[:, 1, 2], found[:, 1, 1])
    assert torch.equal(found[:, 1, 3], found[:, 1, 1])
    # It goes on as if those steps had not been: the sequence without them ends the same.
    without = outputs(kind, cell, warp, sequences()[:, :, [0, 1, 4]])
    torch.testing.assert_close(found[:, 1, 4], without[:, 1, 2], rtol=1e-12, atol=1e-14)
    # What was seen in them matters to nothing, and to no gradient.
    noisy = sequences(dead)
    noisy[:, 1, list(dead), :I] = 1e3
    leaves = P.leaves(cell)
    ends = [
        torch.autograd.grad(outputs(kind, leaves, warp, seen).sum(), list(leaves.values()))
        for seen in (sequences(dead), noisy)
    ]
    assert all(torch.equal(left, right) for left, right in zip(*ends, strict=True))


@each_cell
def test_a_sequence_begins_without_memory_of_the_one_before(kind: MemoryKind, warped: bool) -> None:
    cell, warp = parameters(kind, warped)
    together = outputs(kind, cell, warp, sequences())
    for e in range(E):
        alone = run(kind, cell, warp, sequences()[:, e])
        torch.testing.assert_close(together[:, e], alone, rtol=1e-12, atol=1e-14)
    assert (together[:, 0, 0] - together[:, 0, 1]).abs().max() > 1e-3


@each_cell
def test_a_stack_of_tasks_equals_a_loop_over_them_bit_for_bit(
    kind: MemoryKind, warped: bool
) -> None:
    cell, warp = (P.tree_map(Tensor.float, group) for group in parameters(kind, warped))
    seen = sequences(dead=(2,)).float()
    for function in (outputs, step_by_step):
        together = function(kind, cell, warp, seen)
        for t in range(T):
            alone = function(kind, P.select(cell, slice(t, t + 1)), warp, seen[t : t + 1])
            assert torch.equal(together[t : t + 1], alone)


@each_cell
def test_second_derivatives_of_a_task_have_the_same_bits_beside_any_other(
    kind: MemoryKind, warped: bool
) -> None:
    cell, warp = (P.tree_map(Tensor.float, group) for group in parameters(kind, warped))
    stacked = P.broadcast(warp, T)
    seen = sequences().float()
    seen[1, :, 3:, I] = 0.0  # the episodes of another task are over

    def curvature(rows: slice) -> list[Tensor]:
        leaves, gates = (P.leaves(P.select(group, rows)) for group in (cell, stacked))
        inputs = [*leaves.values(), *gates.values()]
        total = outputs(kind, leaves, gates, seen[rows]).square().sum()
        slopes = torch.autograd.grad(total, inputs, create_graph=True)
        size = torch.stack([slope.square().sum() for slope in slopes]).sum()
        return list(torch.autograd.grad(size, inputs))

    together = curvature(slice(0, T))
    for t in range(T):
        alone = curvature(slice(t, t + 1))
        assert all(torch.equal(x[t : t + 1], y) for x, y in zip(together, alone, strict=True))


def test_fresh_cells_are_orthogonal_in_the_memory_and_the_warp_remembers() -> None:
    rng = np.random.default_rng(0)
    cell, warp = init_cell("gru", I, 8, rng), init_recurrent_warp(I, 8, rng)
    for parameters, blocks in ((cell, 3), (warp, 4)):
        for block in parameters["weight_hidden"].chunk(blocks, 1):
            torch.testing.assert_close(block @ block.T, torch.eye(8), rtol=0.0, atol=1e-5)
    assert warp["bias"].tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    assert not cell["bias"].any() and not warp["gate_weight"].any()
