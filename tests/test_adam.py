"""Our Adam as a value: the steps of torch's optimiser, bit for bit, and nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import same_bits

from warprl.adam import Adam, adam_init, adam_step
from warprl.types import Params

SHAPES = {"a": (3, 4), "b": (4,), "c": ()}


def numbers(seed: int, scale: float = 1.0) -> Params:
    rng = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def torch_steps(config: Adam, lr: float, start: Params, gradients: list[Params]) -> Params:
    """The same by torch, which changes parameters in place."""
    params = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimiser = torch.optim.AdamW(
        list(params.values()), lr, config.betas, weight_decay=config.weight_decay, foreach=False
    )
    for each in gradients:
        for name, parameter in params.items():
            parameter.grad = each[name].clone() if name in each else None
        torch.nn.utils.clip_grad_norm_(list(params.values()), config.max_grad_norm)
        optimiser.step()
    return {name: parameter.detach() for name, parameter in params.items()}


@pytest.mark.parametrize(
    "config",
    [
        Adam(),
        Adam(betas=(0.5, 0.9)),
        Adam(weight_decay=0.1),
        Adam(max_grad_norm=1e6),
        Adam(max_grad_norm=1e-3, weight_decay=0.01),
    ],
)
def test_steps_are_those_of_torch_bit_for_bit(config: Adam) -> None:
    gradients = [numbers(seed, scale) for seed, scale in ((1, 1.0), (2, 1e-3), (3, 5.0), (4, 1.0))]
    at = adam_init(numbers(0))
    for gradient in gradients:
        at = adam_step(at, gradient, 0.01, config)
    assert same_bits(at.params, torch_steps(config, 0.01, numbers(0), gradients))


def test_a_parameter_without_a_gradient_stays_and_keeps_its_moments() -> None:
    first = adam_step(adam_init(numbers(0)), numbers(1), 0.01, Adam())
    gradient = {name: value for name, value in numbers(2).items() if name != "b"}
    second = adam_step(first, gradient, 0.01, Adam(weight_decay=0.1))
    assert torch.equal(second.params["b"], first.params["b"])
    assert torch.equal(second.moments["b.exp_avg"], first.moments["b.exp_avg"])
    assert not torch.equal(second.params["a"], first.params["a"])
    assert adam_step(first, {}, 0.01, Adam()) == first


def test_a_step_changes_nothing_that_it_is_given() -> None:
    start, gradient = adam_init(numbers(0)), numbers(1)
    first = adam_step(start, gradient, 0.01, Adam())
    kept = {name: tensor.clone() for name, tensor in (first.params | first.moments).items()}
    adam_step(first, gradient, 0.01, Adam())
    assert same_bits(start.params, numbers(0)) and start.moments == {}
    assert same_bits(gradient, numbers(1))
    assert same_bits(first.params | first.moments, kept)


def test_decay_shrinks_what_has_no_slope() -> None:
    zero = {name: torch.zeros_like(value) for name, value in numbers(0).items()}
    found = adam_step(adam_init(numbers(0)), zero, 0.5, replace(Adam(), weight_decay=0.1))
    for name, value in numbers(0).items():
        torch.testing.assert_close(found.params[name], value * (1 - 0.5 * 0.1))
