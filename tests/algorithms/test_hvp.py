"""Hessian-vector products: three ways to the same, for every tensor, each task's own."""

from functools import partial

import pytest
import torch
from toys import TASKS, distance, episode, network, normal

from headstart.algorithms.hvp import double_backward, finite_difference, forward_over_reverse
from headstart.algorithms.inner import expand

CLOSE = {"forward_over_reverse": 1e-12, "double_backward": 1e-12, "finite_difference": 1e-7}

HVPS = {each.__name__: each for each in (forward_over_reverse, double_backward, finite_difference)}


def case(names=None, seed=0):
    """Adapters that are all different, rows, and a direction in the tensors named."""
    theta, (rows,), _ = episode(seed)
    draw = normal(50 + seed)
    phi = {name: tensor + 0.1 * draw(TASKS, *tensor.shape) for name, tensor in theta.items()}
    return phi, rows, {name: draw(*phi[name].shape) for name in names or phi}


def dense(losses, phi, rows, w):
    """The product by the whole Hessian of one task after another."""
    found = {name: [] for name in phi}
    for task in range(TASKS):
        own = {name: tensor[task] for name, tensor in phi.items()}
        part = tuple(tensor[task : task + 1] for tensor in rows)
        flat = torch.cat([tensor.flatten() for tensor in own.values()])
        sizes = [tensor.numel() for tensor in own.values()]

        def one(flat, part=part, own=own, sizes=sizes):
            pieces = zip(own.items(), flat.split(sizes), strict=True)
            return losses({name: piece.view(1, *tensor.shape) for (name, tensor), piece in pieces}, part).sum()

        direction = torch.cat([(w[name][task] if name in w else torch.zeros_like(own[name])).flatten() for name in own])
        product = torch.autograd.functional.hessian(one, flat) @ direction
        for (name, tensor), piece in zip(own.items(), product.split(sizes), strict=True):
            found[name].append(piece.view_as(tensor))
    return {name: torch.stack(each) for name, each in found.items()}


@pytest.mark.parametrize("names", [None, ("one.lora_B", "two.lora_A")], ids=["all", "some"])
@pytest.mark.parametrize("kind", HVPS)
def test_products_are_the_whole_hessians(kind, names):
    """Also in the tensors that the direction has not."""
    phi, rows, w = case(names)
    assert distance(HVPS[kind](network(), phi, rows, w), dense(network(), phi, rows, w)) < CLOSE[kind]


@pytest.mark.parametrize("kind", HVPS)
def test_an_expanded_initialisation_will_do(kind):
    theta, (rows,), _ = episode()
    _, _, w = case()
    phi = expand(theta, TASKS)
    assert distance(HVPS[kind](network(), phi, rows, w), double_backward(network(), phi, rows, w)) < CLOSE[kind]


@pytest.mark.parametrize("kind", HVPS)
def test_tasks_together_are_tasks_one_by_one(kind):
    phi, rows, w = case()
    together = HVPS[kind](network(), phi, rows, w)
    for task in range(TASKS):
        of_task = [{name: tensor[task : task + 1] for name, tensor in each.items()} for each in (phi, w)]
        alone = HVPS[kind](network(), of_task[0], tuple(tensor[task : task + 1] for tensor in rows), of_task[1])
        assert distance(alone, {name: tensor[task : task + 1] for name, tensor in together.items()}) < CLOSE[kind]


@pytest.mark.parametrize("kind", HVPS)
def test_arguments_stay_and_nothing_hangs_on_the_product(kind):
    phi, rows, w = case()
    kept = {name: tensor.clone() for name, tensor in phi.items()}
    product = HVPS[kind](network(), phi, rows, w)
    assert all(torch.equal(phi[name], kept[name]) for name in phi)
    assert not any(tensor.requires_grad for tensor in (*product.values(), *phi.values()))


@pytest.mark.parametrize("kind", HVPS)
def test_losses_without_curvature_have_none(kind):
    phi, rows, w = case()
    found = HVPS[kind](lambda phi, rows: sum(tensor.flatten(1).sum(1) for tensor in phi.values()), phi, rows, w)
    assert found.keys() == phi.keys()
    assert all(float(tensor.abs().max()) < 1e-9 for tensor in found.values())


def test_finite_differences_move_by_a_step_of_each_tasks_own():
    """Neither the size of a task's direction nor another task's adapters change anything."""
    phi, rows, w = case()
    scale = torch.tensor([1e-12, 1.0, 1e9], dtype=torch.float64).view(-1, 1, 1)
    found = finite_difference(network(), phi, rows, {name: scale * tensor for name, tensor in w.items()})
    wanted = double_backward(network(), phi, rows, w)
    assert distance({name: tensor / scale for name, tensor in found.items()}, wanted) < CLOSE["finite_difference"]


def test_finite_differences_of_nothing_are_nothing():
    """A task whose direction is zero, and one whose adapters are."""
    phi, rows, w = case()
    still = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64).view(-1, 1, 1)
    gone = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(-1, 1, 1)
    phi, w = ({name: factor * tensor for name, tensor in each.items()} for each, factor in ((phi, gone), (w, still)))
    found = finite_difference(network(), phi, rows, w)
    assert all(not tensor[0].any() and torch.isfinite(tensor).all() for tensor in found.values())
    wanted = double_backward(network(), phi, rows, w)
    assert distance({name: tensor[1:] for name, tensor in found.items()}, {name: tensor[1:] for name, tensor in wanted.items()}) < 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_finite_differences_in_float32(seed):
    """A step much shorter is lost in rounding."""
    phi, rows, w = case(seed=seed)
    wanted = double_backward(network(), phi, rows, w)
    single = [{name: tensor.float() for name, tensor in each.items()} for each in (phi, w)]
    rows = tuple(tensor.float() for tensor in rows)
    errors = [
        distance(partial(finite_difference, relative_step=step)(network(), single[0], rows, single[1]), wanted) for step in (None, 1e-6)
    ]
    assert errors[0] < 2e-3
    assert errors[0] < errors[1] / 10
