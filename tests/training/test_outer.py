"""The outer optimiser against torch's AdamW, its schedule, and what it refuses."""

import math

import pytest
import torch

from headstart.algorithms.types import MetaGradient
from headstart.recipe import OuterSection
from headstart.training.outer import OuterOptimizer, schedule

THETA = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])}
RATES = {"a": torch.tensor([0.1, 0.2])}


def gradient(scale=1.0):
    theta = {"a": torch.tensor([0.3, 0.4]) * scale, "b": torch.tensor([[1.2]]) * scale}
    return MetaGradient(theta, {"a": torch.tensor([1.0, -1.0])})


def test_step_is_adamws_on_the_clipped_gradient():
    section = OuterSection(learning_rate=0.1, warmup_steps=0, max_grad_norm=0.5, weight_decay=0.01)
    own = OuterOptimizer(THETA, {}, section)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in THETA.items()}
    theirs = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.01)
    for name, tensor in parameters.items():
        tensor.grad = gradient().theta[name].clone()
    torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
    theirs.step()
    scalars = own.step(gradient(), 0, 0.0)
    assert scalars["grad_norm"] == pytest.approx(1.3)
    for name in THETA:
        torch.testing.assert_close(own.theta[name], parameters[name].detach(), rtol=1e-6, atol=1e-6)


def test_rates_start_where_they_are_told_and_move_in_log_space():
    own = OuterOptimizer(THETA, RATES, OuterSection(warmup_steps=0, rates_learning_rate=0.05))
    torch.testing.assert_close(own.rates["a"], RATES["a"])
    own.step(gradient(), 0, 0.0)
    torch.testing.assert_close(own.rates["a"], RATES["a"] * torch.tensor([math.exp(-0.05), math.exp(0.05)]), rtol=1e-4, atol=0)


def test_arguments_stay_as_they_were():
    theta = {name: tensor.clone() for name, tensor in THETA.items()}
    OuterOptimizer(theta, {}, OuterSection()).step(gradient(), 0, 0.0)
    assert all(torch.equal(theta[name], THETA[name]) for name in THETA)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    own = OuterOptimizer(THETA, RATES, OuterSection())
    with pytest.raises(FloatingPointError, match="not finite"):
        own.step(gradient(bad), 0, 0.0)
    assert all(torch.equal(own.theta[name], THETA[name]) for name in THETA)


def test_schedule_warms_up_and_ends_at_zero():
    assert [schedule(step, 0.0, 3) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule(99, 0.5, 3) == pytest.approx(0.5)
    assert schedule(99, 1.0, 3) == pytest.approx(0.0)


def test_restored_optimiser_goes_on_to_the_same_bits():
    section = OuterSection(learning_rate=0.1, warmup_steps=0)
    whole = OuterOptimizer(THETA, RATES, section)
    for step in range(3):
        whole.step(gradient(step + 1.0), step, step / 6)
    halted = OuterOptimizer(whole.theta, whole.rates, section)
    halted.restore(whole.state())
    assert halted.state().keys() == whole.state().keys()
    for step in range(3, 6):
        for optimizer in (whole, halted):
            optimizer.step(gradient(step + 1.0), step, step / 6)
    for name, tensor in {**whole.theta, **whole.rates}.items():
        assert torch.equal({**halted.theta, **halted.rates}[name], tensor)
    assert all(torch.equal(halted.state()[name], tensor) for name, tensor in whole.state().items())


def test_restoring_copies_what_it_is_given():
    own = OuterOptimizer(THETA, RATES, OuterSection())
    own.step(gradient(), 0, 0.0)
    given = {name: tensor.clone() for name, tensor in own.state().items()}
    other = OuterOptimizer(THETA, RATES, OuterSection())
    other.restore(given)
    other.step(gradient(), 1, 0.1)
    assert all(torch.equal(given[name], tensor) for name, tensor in own.state().items())


def test_nothing_to_restore_before_the_first_step():
    own = OuterOptimizer(THETA, RATES, OuterSection())
    own.restore({})
    assert own.state().keys() == {"log_rates/a"}
    torch.testing.assert_close(own.rates["a"], RATES["a"])


def test_a_frozen_initialisation_stays_and_its_gradient_is_not_asked_for():
    own = OuterOptimizer(THETA, RATES, OuterSection(warmup_steps=0, rates_learning_rate=0.05, weight_decay=0.5), frozen=True)
    scalars = own.step(MetaGradient({}, {"a": torch.tensor([3.0, -4.0])}), 0, 0.0)
    assert all(torch.equal(own.theta[name], THETA[name]) for name in THETA)
    torch.testing.assert_close(own.rates["a"], RATES["a"] * torch.tensor([math.exp(-0.05), math.exp(0.05)]), rtol=1e-4, atol=0)
    assert (scalars["grad_norm"], scalars["learning_rate"]) == (5.0, 0.05)
    with pytest.raises(FloatingPointError, match="not finite"):
        own.step(MetaGradient({}, {"a": torch.tensor([float("nan"), 0.0])}), 1, 0.0)
