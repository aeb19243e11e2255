"""The outer optimiser against torch's AdamW, its schedule, and what it refuses."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from headstart.algorithms.types import MetaGradient
from headstart.recipe import OuterSection
from headstart.training.outer import OuterOptimizer, averages, schedule

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


def test_schedules_by_hand():
    assert [schedule(9, share, 0, "linear") for share in (0.0, 0.25, 1.0, 1.1)] == [1.0, 0.75, 0.0, 0.0]
    assert [schedule(9, share, 0, "constant_with_warmup") for share in (0.0, 0.25, 1.0)] == [1.0, 1.0, 1.0]
    assert schedule(9, 0.25, 0, "cosine") == pytest.approx(0.8535534)
    assert [schedule(0, 0.5, 1, kind) for kind in ("linear", "constant_with_warmup")] == [0.25, 0.5]


@pytest.mark.parametrize("kind", get_args(OuterSection.model_fields["lr_scheduler_type"].annotation))
def test_schedules_are_those_of_transformers_by_their_names(kind):
    """Without warm-up, whose steps transformers takes off the decay, and which has no first step of rate zero here."""
    theirs = get_scheduler(kind, torch.optim.SGD([torch.zeros(1)], lr=1.0), num_warmup_steps=0, num_training_steps=20)
    for step in range(20):
        assert schedule(step, step / 20, 0, kind) == pytest.approx(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()


def test_a_step_goes_by_the_sections_schedule():
    section = OuterSection(learning_rate=0.1, warmup_steps=0, lr_scheduler_type="linear")
    own, full = OuterOptimizer(THETA, RATES, section), OuterOptimizer(THETA, RATES, section)
    assert own.step(gradient(), 0, 0.75)["learning_rate"] == pytest.approx(0.025)
    full.step(gradient(), 0, 0.0)
    for name in THETA:
        torch.testing.assert_close(4 * (own.theta[name] - THETA[name]), full.theta[name] - THETA[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(4 * (own.rates["a"] / RATES["a"]).log(), (full.rates["a"] / RATES["a"]).log(), rtol=1e-4, atol=1e-6)


def steps_of(optimizer, count, scale=lambda step: step + 1.0):
    """Takes so many steps, and gives the iterates after each."""
    iterates = []
    for step in range(count):
        optimizer.step(gradient(scale(step)), step, step / (2 * count))
        iterates.append([{name: tensor.clone() for name, tensor in part.items()} for part in (optimizer.theta, optimizer.log_rates)])
    return iterates


def test_averages_are_of_the_iterates_by_hand():
    """With decay 1/2 the last of three weighs 4 of 7, the first 1; rates are averaged by their logarithms."""
    own = OuterOptimizer(THETA, RATES, OuterSection(learning_rate=0.1, warmup_steps=0, ema_decay=0.5))
    one, two, three = steps_of(own, 3)
    theta, rates = averages(own.state())
    for name in THETA:
        torch.testing.assert_close(theta[name], (one[0][name] + 2 * two[0][name] + 4 * three[0][name]) / 7)
        assert not torch.allclose(theta[name], own.theta[name], rtol=1e-2)
    torch.testing.assert_close(rates["a"], ((one[1]["a"] + 2 * two[1]["a"] + 4 * three[1]["a"]) / 7).exp())


@pytest.mark.parametrize("decay", [0.3, 0.99, 0.99999])
def test_the_first_average_is_the_first_iterate(decay):
    """To the bit: the start, which no step has touched, weighs nothing."""
    own = OuterOptimizer(THETA, RATES, OuterSection(learning_rate=0.1, warmup_steps=0, ema_decay=decay))
    own.step(gradient(), 0, 0.0)
    theta, rates = averages(own.state())
    assert all(torch.equal(theta[name], own.theta[name]) for name in THETA)
    assert torch.equal(rates["a"], own.rates["a"])


def test_averaging_leaves_the_iterates_alone():
    plain, averaged = (OuterOptimizer(THETA, RATES, OuterSection(learning_rate=0.1, ema_decay=decay)) for decay in (0.0, 0.9))
    for mine, other in zip(steps_of(averaged, 4), steps_of(plain, 4), strict=True):
        for part, of_other in zip(mine, other, strict=True):
            assert all(torch.equal(part[name], of_other[name]) for name in part)
    assert averages(plain.state()) == ({}, {})


def test_a_frozen_initialisation_has_no_average_and_its_rates_have():
    own = OuterOptimizer(THETA, RATES, OuterSection(warmup_steps=0, ema_decay=0.5), frozen=True)
    for step in range(3):
        own.step(MetaGradient({}, {"a": torch.tensor([3.0, -4.0])}), step, 0.0)
    theta, rates = averages(own.state())
    assert not theta
    assert not torch.allclose(rates["a"], own.rates["a"], rtol=1e-3)


def test_the_pull_back_is_a_share_of_the_way_at_each_step():
    """No gradient, so that nothing else moves: lr 0.1 times proximal 2, half of it where the rate is half."""
    section = OuterSection(learning_rate=0.1, warmup_steps=0, proximal=2.0, lr_scheduler_type="linear")
    start = {name: torch.zeros_like(tensor) for name, tensor in THETA.items()}
    own = OuterOptimizer(THETA, RATES, section, start=start)
    nothing = MetaGradient({name: torch.zeros_like(tensor) for name, tensor in THETA.items()}, {"a": torch.zeros(2)})
    own.step(nothing, 0, 0.0)
    torch.testing.assert_close(own.theta["a"], torch.tensor([0.8, -1.6]))
    own.step(nothing, 1, 0.5)
    torch.testing.assert_close(own.theta["a"], torch.tensor([0.72, -1.44]))
    torch.testing.assert_close(own.rates["a"], RATES["a"])
    assert all(not tensor.any() for tensor in start.values())


def test_a_pull_back_to_zero_is_weight_decay():
    zero = {name: torch.zeros_like(tensor) for name, tensor in THETA.items()}
    pulled = OuterOptimizer(THETA, {}, OuterSection(learning_rate=0.1, proximal=0.7), start=zero)
    decayed = OuterOptimizer(THETA, {}, OuterSection(learning_rate=0.1, weight_decay=0.7))
    steps_of(pulled, 5)
    steps_of(decayed, 5)
    for name in THETA:
        torch.testing.assert_close(pulled.theta[name], decayed.theta[name])


def test_pulled_back_values_stay_about_one_by_proximal_from_their_start():
    section = OuterSection(learning_rate=0.05, warmup_steps=0, proximal=5.0, lr_scheduler_type="constant_with_warmup")
    own = OuterOptimizer(THETA, {}, section)
    steps_of(own, 200, lambda _: 1.0)
    for name in THETA:
        torch.testing.assert_close((own.theta[name] - THETA[name]).abs(), torch.full_like(THETA[name], 0.2), rtol=0.01, atol=0)


def test_a_frozen_initialisation_is_not_pulled():
    zero = {name: torch.zeros_like(tensor) for name, tensor in THETA.items()}
    own = OuterOptimizer(THETA, RATES, OuterSection(warmup_steps=0, proximal=5.0), frozen=True, start=zero)
    own.step(MetaGradient({}, {"a": torch.tensor([3.0, -4.0])}), 0, 0.0)
    assert all(torch.equal(own.theta[name], THETA[name]) for name in THETA)


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9, "proximal": 2.0}], ids=["plain", "averaged and pulled back"])
def test_restored_optimiser_goes_on_to_the_same_bits(more):
    section = OuterSection(learning_rate=0.1, warmup_steps=0, **more)
    whole = OuterOptimizer(THETA, RATES, section)
    for step in range(3):
        whole.step(gradient(step + 1.0), step, step / 6)
    halted = OuterOptimizer(whole.theta, whole.rates, section, start=THETA)
    halted.restore(whole.state())
    assert halted.state().keys() == whole.state().keys()
    for step in range(3, 6):
        for optimizer in (whole, halted):
            optimizer.step(gradient(step + 1.0), step, step / 6)
    for name, tensor in {**whole.theta, **whole.rates}.items():
        assert torch.equal({**halted.theta, **halted.rates}[name], tensor)
    assert all(torch.equal(halted.state()[name], tensor) for name, tensor in whole.state().items())


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_restoring_copies_what_it_is_given(decay):
    own = OuterOptimizer(THETA, RATES, OuterSection(ema_decay=decay))
    own.step(gradient(), 0, 0.0)
    given = {name: tensor.clone() for name, tensor in own.state().items()}
    other = OuterOptimizer(THETA, RATES, OuterSection(ema_decay=decay))
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


MIXED = {"a": torch.tensor([0.1, 0.2]), "b.lora_A": torch.tensor([0.2, 0.4])[:, None, None] * torch.tensor([[1.0, 0.5], [0.0, -1.0]])}
OF_STEPS = torch.tensor([[[1.0, 1.0], [1.0, 4.0]], [[-1.0, 1.0], [-0.25, -1.0]]])


def mixed_gradient(scale=1.0):
    log_rates = {"a": torch.tensor([1.0, -1.0]), "b.lora_A": torch.tensor([-1.0, 1.0])}
    return MetaGradient(gradient(scale).theta, log_rates, matrix_rates={"b.lora_A": OF_STEPS * scale})


def test_a_preconditioner_moves_by_itself_and_its_rates_in_log_space():
    """Steps weigh by their rates: 0.2 times the first step's gradient and 0.4 times the second's is [[-0.2, 0.6], [0.1, 0.4]]."""
    own = OuterOptimizer(THETA, MIXED, OuterSection(warmup_steps=0, rates_learning_rate=0.05))
    torch.testing.assert_close(own.rates, MIXED)
    own.step(mixed_gradient(), 0, 0.0)
    torch.testing.assert_close(own.preconditioners, {"b.lora_A": torch.tensor([[1.05, 0.45], [-0.05, -1.05]])})
    numbers = torch.tensor([0.2 * math.exp(0.05), 0.4 * math.exp(-0.05)])
    torch.testing.assert_close(own.rates["b.lora_A"], numbers[:, None, None] * own.preconditioners["b.lora_A"])
    torch.testing.assert_close(own.rates["a"], MIXED["a"] * torch.tensor([math.exp(-0.05), math.exp(0.05)]))
    assert torch.equal(MIXED["b.lora_A"][0], torch.tensor([[0.2, 0.1], [0.0, -0.2]])), "arguments stay as they were"


def test_a_preconditioner_is_adamws_parameter_without_decay():
    section = OuterSection(warmup_steps=0, rates_learning_rate=0.05, weight_decay=0.5, max_grad_norm=1e-3, ema_decay=0.5)
    own = OuterOptimizer(THETA, MIXED, section)
    matrix = own.preconditioners["b.lora_A"].clone().requires_grad_()
    theirs, seen = torch.optim.AdamW([matrix], lr=0.05, weight_decay=0.0), []
    for step in range(3):
        # at the rates of the step before, and neither clipped nor decayed with the initialisation
        matrix.grad = (own.log_rates["b.lora_A"].exp()[:, None, None] * OF_STEPS * (step + 1)).sum(0)
        theirs.step()
        own.step(mixed_gradient(step + 1.0), step, 0.0)
        seen.append(own.preconditioners["b.lora_A"].clone())
    torch.testing.assert_close(seen[-1], matrix.detach())
    assert own.state()["average/preconditioners/b.lora_A"].allclose((seen[0] + 2 * seen[1] + 4 * seen[2]) / 7)
    averaged = averages(own.state())[1]["b.lora_A"]
    numbers = own.state()["average/log_rates/b.lora_A"].exp()
    torch.testing.assert_close(averaged, numbers[:, None, None] * own.state()["average/preconditioners/b.lora_A"])


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9}], ids=["plain", "averaged"])
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "rates alone"])
def test_preconditioners_go_on_to_the_same_bits(more, frozen):
    section = OuterSection(learning_rate=0.1, warmup_steps=0, **more)
    whole = OuterOptimizer(THETA, MIXED, section, frozen)
    steps_taken = 3
    for step in range(steps_taken):
        whole.step(mixed_gradient(step + 1.0), step, step / 6)
    halted = OuterOptimizer(whole.theta, whole.rates, section, frozen, start=THETA)
    halted.restore(whole.state())
    for step in range(steps_taken, 6):
        for optimizer in (whole, halted):
            optimizer.step(mixed_gradient(step + 1.0), step, step / 6)
    assert halted.state().keys() == whole.state().keys()
    assert all(torch.equal(halted.state()[name], tensor) for name, tensor in whole.state().items())
    assert all(torch.equal(halted.rates[name], rate) for name, rate in whole.rates.items())
    assert all(torch.equal(whole.theta[name], THETA[name]) == frozen for name in THETA)


def test_of_rates_alone_the_norm_is_of_all_their_parts():
    """By hand: 4 of the rates' logarithms, and of the preconditioner 0.04 + 0.36 + 0.01 + 0.16."""
    own = OuterOptimizer(THETA, MIXED, OuterSection(warmup_steps=0), frozen=True)
    assert own.step(replace(mixed_gradient(), theta={}), 0, 0.0)["grad_norm"] == pytest.approx(4.57**0.5)
    with pytest.raises(FloatingPointError, match="not finite"):
        own.step(replace(mixed_gradient(float("nan")), theta={}), 1, 0.0)
