"""Inner rules against torch's optimisers, and how the loop uses rates and support batches."""

import torch

from headstart.algorithms.inner import expand, walk
from headstart.algorithms.rules import Adam, Sgd

RATE = 0.05


def bowl(phi, target):
    return sum((tensor - target).pow(4).flatten(1).sum(1) for tensor in phi.values())


def start():
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(3, 4, generator=generator), "b": torch.randn(2, generator=generator)}


def own(rule, steps, tasks=2, support=(0.3,), rates=None):
    theta = start()
    rates = rates or {name: torch.full((1,), RATE) for name in theta}
    return list(walk(bowl, expand(theta, tasks), list(support), rule, rates, steps))


def torchs(optimizer, steps, clip=None):
    parameters = {name: tensor.requires_grad_() for name, tensor in start().items()}
    stepper = optimizer(list(parameters.values()), lr=RATE)
    for _ in range(steps):
        stepper.zero_grad()
        bowl({name: tensor[None] for name, tensor in parameters.items()}, 0.3).sum().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip)
        stepper.step()
    return parameters


def test_adam_is_torchs():
    mine, theirs = own(Adam(), 7)[-1].phi, torchs(torch.optim.Adam, 7)
    for name in mine:
        torch.testing.assert_close(mine[name][0], theirs[name])
        assert torch.equal(mine[name][0], mine[name][1])


def test_clipped_sgd_is_torchs():
    mine, theirs = own(Sgd(1.0), 5)[-1].phi, torchs(torch.optim.SGD, 5, clip=1.0)
    for name in mine:
        torch.testing.assert_close(mine[name][0], theirs[name], rtol=1e-5, atol=1e-5)


def test_every_task_is_clipped_by_its_own_norm():
    gradients = {"a": torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])}
    direction, _ = Sgd(1.0).direction(gradients, None)
    torch.testing.assert_close(direction["a"], torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_past_the_last_rate_that_rate_goes_on():
    rates = {"a": torch.tensor([0.1, 0.01]), "b": torch.tensor([0.1, 0.01])}
    longer = {name: torch.tensor([0.1, 0.01, 0.01, 0.01]) for name in rates}
    first, second = own(Adam(), 4, rates=rates)[-1].phi, own(Adam(), 4, rates=longer)[-1].phi
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_support_batches_are_gone_through_again():
    twice, spelled_out = own(Adam(), 4, support=(0.3, -0.2)), own(Adam(), 4, support=(0.3, -0.2, 0.3, -0.2))
    assert all(torch.equal(first.losses, second.losses) for first, second in zip(twice, spelled_out, strict=True))
    assert not torch.equal(twice[0].losses, twice[1].losses)


def test_losses_of_a_step_are_those_before_it():
    steps = own(Sgd(None), 2)
    torch.testing.assert_close(steps[0].losses, bowl(expand(start(), 2), 0.3))
    torch.testing.assert_close(steps[1].losses, bowl(steps[0].phi, 0.3))
