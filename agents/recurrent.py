"""Memory cells of recurrent policies, and the warp of Warp-RNN. Pure functions.

A cell stands in the place of a policy's first hidden layer. The input of a policy with memory,
``[..., I + 2]``, is that of the cell in the first I numbers, followed by two flags:

* ``alive``: 0 where the episode is over and its batch goes on; the memory is then held;
* ``start``: 1 at the first step of a sequence, where the memory begins at zero.

So stored inputs say by themselves how the network ran over them, and a loss can run it again.
Parameters of cells are stacked ``[S, ...]``; those of the warp, in phi, may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, assert_never

import numpy as np
import torch
from torch import Tensor

from warprl import params as P
from warprl.activation import tanh
from warprl.types import Params

MemoryKind = Literal["gru", "rnn"]
State: TypeAlias = "tuple[Tensor, ...]"
"""A memory: tensors ``[S, E, width]``, the first of which is the input of the layers above."""

PARAMETERS = ("weight_in", "weight_hidden", "bias")  # of a cell
FLAGS = 2  # alive and start, after the input of the cell
BLOCKS: Mapping[MemoryKind, int] = {"rnn": 1, "gru": 3}


def init_cell(kind: MemoryKind, inputs: int, width: int, rng: np.random.Generator) -> Params:
    """The parameters of a cell: Glorot-uniform from the input, orthogonal in the memory, no bias.

    Args:
        kind: ``rnn`` has one block; ``gru`` has three: update gate, reset gate and candidate.
        inputs: I, how many numbers the cell reads.
        width: W, how many it remembers.
        rng: draws the weights.

    Returns:
        ``weight_in [I, G W]``, ``weight_hidden [W, G W]`` and ``bias [G W]`` of G blocks side by
        side.
    """
    blocks = BLOCKS[kind]
    return {
        "weight_in": torch.cat([_glorot(inputs, width, rng) for _ in range(blocks)], 1),
        "weight_hidden": torch.cat([_orthogonal(width, rng) for _ in range(blocks)], 1),
        "bias": torch.zeros(blocks * width),
    }


def init_recurrent_warp(inputs: int, width: int, rng: np.random.Generator) -> Params:
    """The warp of an ``rnn`` cell, at the identity: an LSTM and the layer that makes the gates.

    The LSTM is as wide as the cell and initialised like it, except for its forget gate, whose bias
    is 1, so that it remembers at first (Jozefowicz et al., ICML 2015). Its blocks are input gate,
    forget gate, output gate and candidate.

    Args:
        inputs: I, how many numbers the cell reads.
        width: W, how many it remembers.
        rng: draws the weights.

    Returns:
        The LSTM's weights, and ``gate_weight`` and ``gate_bias``, which are zero.
    """
    one, zero = torch.ones(width), torch.zeros(width)
    gates = inputs + 4 * width
    return {
        "weight_in": torch.cat([_glorot(inputs + width, width, rng) for _ in range(4)], 1),
        "weight_hidden": torch.cat([_orthogonal(width, rng) for _ in range(4)], 1),
        "bias": torch.cat([zero, one, zero, zero]),
        "gate_weight": torch.zeros(width, gates),
        "gate_bias": torch.zeros(gates),
    }


def cell_size(kind: MemoryKind, inputs: int, width: int) -> int:
    """How many parameters a cell has, found without making them."""
    return BLOCKS[kind] * (inputs + width + 1) * width


def recurrent_warp_size(inputs: int, width: int) -> int:
    """How many parameters the warp of an ``rnn`` cell has, found without making them."""
    return 4 * (inputs + 2 * width + 1) * width + (width + 1) * (inputs + 4 * width)


def begin(cell: Params, warp: Params, sequences: int) -> State:
    """The memory before the first step, which is zero, for the LSTM of a warp too.

    Args:
        cell: stacked ``[S, ...]``.
        warp: ``[...]``, or stacked ``[S, ...]``; empty if there is none.
        sequences: E, how many sequences each of S tasks has.

    Returns:
        Tensors ``[S, E, W]``.
    """
    weight = cell["weight_hidden"]
    tensors = 3 if warp else 1
    return tuple(weight.new_zeros(len(weight), sequences, weight.shape[1]) for _ in range(tensors))


def advance(kind: MemoryKind, cell: Params, warp: Params, seen: Tensor, state: State) -> State:
    """The memory after one more step, which does not begin a sequence.

    Warped (Warp-RNN, Flennerhag et al., 2020, section 4.3), an ``rnn`` has its input, its previous
    memory, the projections of both and its bias multiplied by gates of their own:
    ``h' = tanh(g_i (g_x x) W_in + g_p (g_h h) W_hidden + g_b b)`` with ``g = 1 + tanh(m W + b)``
    of the output m of the LSTM, which reads x and h. At first it is the identity: W and b are zero.

    Args:
        kind: of the cell.
        cell: stacked ``[S, ...]``.
        warp: ``[...]``, or stacked ``[S, ...]``; empty if there is none.
        seen: the input of the step, ``[S, E, I + 2]``.
        state: the memory before it.

    Returns:
        The memory after it, of the same shapes.
    """
    x, alive = seen[..., :-FLAGS], seen[..., -FLAGS, None]
    stacked = _stacked(warp, len(seen))
    return _held(_step(kind, cell, stacked, _project(kind, cell, x), state), state, alive)


def run(kind: MemoryKind, cell: Params, warp: Params, seen: Tensor) -> Tensor:
    """The output of a cell along whole sequences, from the first step to the last.

    Args:
        kind: of the cell.
        cell: stacked ``[S, ...]``.
        warp: ``[...]``, or stacked ``[S, ...]``; empty if there is none.
        seen: inputs ``[S, N, I + 2]``; the N steps are sequences of equal length, one after the
            other.

    Returns:
        ``[S, N, W]``, the input of the layers above.
    """
    # Everything that does not depend on the memory, for all steps at once.
    sequences = int(seen[0, :, -1].sum())
    x = _project(kind, cell, seen[..., :-FLAGS])
    steps = _steps_first(x, sequences).unbind()
    alive = _steps_first(seen[..., -FLAGS, None], sequences)
    whole = alive.flatten(1).all(1).tolist()
    stacked = _stacked(warp, len(seen))

    # Step by step. Where all sequences go on, a view stands in the place of holding the memory:
    # gradients are then added up in the same order, whichever sequences are run together.
    state = begin(cell, warp, sequences)
    outputs = []
    for t, inputs in enumerate(steps):
        after = _step(kind, cell, stacked, inputs, state)
        state = tuple(map(_view, after)) if whole[t] else _held(after, state, alive[t])
        outputs.append(state[0])
    return torch.stack(outputs, 2).flatten(1, 2)


def _stacked(warp: Params, rows: int) -> Params:
    """The warp once for each row, unless it is stacked already."""
    return warp if warp and warp["bias"].dim() > 1 else P.broadcast(warp, rows)


def _project(kind: MemoryKind, cell: Params, x: Tensor) -> Tensor:
    """What of a step does not depend on the memory, for all steps at once."""
    if kind == "gru":
        return torch.baddbmm(cell["bias"].unsqueeze(1), x, cell["weight_in"])
    # A warp acts before the projection, and products with few rows may round otherwise than those
    # with many: so that the plain cell is the warped one's exact control, both take them singly.
    return x


def _step(kind: MemoryKind, cell: Params, warp: Params, x: Tensor, state: State) -> State:
    """The memory after a step, with :func:`_project` of the input and the warp stacked."""
    hidden = state[0]
    match kind:
        case "gru":
            return (_gru(cell, x, hidden),)
        case "rnn" if not warp:
            inputs, recurrent = torch.bmm(x, cell["weight_in"]), _recurrent(cell, hidden)
            return (tanh(inputs + recurrent + cell["bias"].unsqueeze(1)),)
        case "rnn":
            return _warped(cell, warp, x, state)
        case _:
            assert_never(kind)


def _gru(cell: Params, projected: Tensor, hidden: Tensor) -> Tensor:
    """``h' = (1 - z) n + z h``, ``n = tanh(x_n + r h W_n)`` (Cho et al., EMNLP 2014).

    z and r are the logistic functions of ``x + h W``; the reset acts after the product, as cuDNN's
    does.
    """
    width = hidden.shape[-1]
    recurrent = _recurrent(cell, hidden)
    split = [2 * width, width]
    (x_gates, x_candidate), (h_gates, h_candidate) = (
        torch.split(tensor, split, -1) for tensor in (projected, recurrent)
    )
    update, reset = _logistic(x_gates + h_gates).chunk(2, -1)
    candidate = tanh(torch.addcmul(x_candidate, reset, h_candidate))
    return torch.lerp(candidate, hidden, update)


def _warped(cell: Params, warp: Params, x: Tensor, state: State) -> State:
    hidden, output, content = state
    width = hidden.shape[-1]
    output, content = _lstm(warp, torch.cat([x, hidden], -1), output, content)
    gate = torch.baddbmm(warp["gate_bias"].unsqueeze(1), output, warp["gate_weight"])
    of_x, of_hidden, of_inputs, of_recurrent, of_bias = torch.split(
        1.0 + tanh(gate), [x.shape[-1], width, width, width, width], -1
    )
    inputs = torch.bmm(of_x * x, cell["weight_in"])
    recurrent = _recurrent(cell, of_hidden * hidden)
    bias = of_bias * cell["bias"].unsqueeze(1)
    return tanh(of_inputs * inputs + of_recurrent * recurrent + bias), output, content


def _lstm(warp: Params, x: Tensor, output: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    """``c' = f c + i tanh(c~)``, ``m' = o tanh(c')`` (Hochreiter & Schmidhuber, 1997)."""
    sums = torch.baddbmm(warp["bias"].unsqueeze(1), x, warp["weight_in"])
    sums = torch.baddbmm(sums, output, warp["weight_hidden"])
    width = content.shape[-1]
    gates, candidate = torch.split(sums, [3 * width, width], -1)
    take, keep, give = _logistic(gates).chunk(3, -1)
    content = keep * content + take * tanh(candidate)
    return give * tanh(content), content


def _recurrent(cell: Params, hidden: Tensor) -> Tensor:
    return torch.bmm(hidden, cell["weight_hidden"])


def _logistic(x: Tensor) -> Tensor:
    return 0.5 + 0.5 * tanh(0.5 * x)


def _held(after: State, before: State, alive: Tensor) -> State:
    """The new memory where ``alive [S, E, 1]``, the old one elsewhere."""
    on = alive > 0
    return tuple(torch.where(on, new, old) for new, old in zip(after, before, strict=True))


def _view(x: Tensor) -> Tensor:
    return x.view_as(x)


def _steps_first(x: Tensor, sequences: int) -> Tensor:
    """``[S, E L, W]`` to ``[L, S, E, W]``, in one piece."""
    return x.reshape(len(x), sequences, -1, x.shape[-1]).movedim(2, 0).contiguous()


def _glorot(inputs: int, outputs: int, rng: np.random.Generator) -> Tensor:
    bound = math.sqrt(6.0 / (inputs + outputs))
    return torch.from_numpy(rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32))


def _orthogonal(width: int, rng: np.random.Generator) -> Tensor:
    """Uniform over the rotations and reflections (Mezzadri, 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    return torch.from_numpy((q * np.sign(np.diag(r))).astype(np.float32))
