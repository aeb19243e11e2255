"""What inner states take is what is predicted, wherever they wait."""

import gc
from dataclasses import replace

import pytest
import torch
from toys import TASKS, constant_rates, episode, network

from headstart.algorithms.adjoint import adjoint
from headstart.algorithms.hvp import double_backward
from headstart.algorithms.inner import expand
from headstart.algorithms.rules import Adam, Sgd
from headstart.algorithms.trail import StateBytes, Trail, state_bytes, stretches
from headstart.algorithms.types import Batch, InnerLoop

LOSSES = network()
RULES = {"sgd": Sgd(None), "clipped": Sgd(1.0), "adam": Adam(eps_root=1e-8)}


def case(rule, steps, inner_states="keep", names=None, **options):
    theta, support, query = episode(batches=2)
    rates = constant_rates(theta, steps, 0.01, names)
    return (
        theta,
        Batch(support, query, TASKS),
        InnerLoop(RULES[rule], steps, rates, inner_states=inner_states, hvp=double_backward, **options),
    )


def predicted(theta, inner):
    shapes = {name: theta[name].shape for name in inner.rates}
    return state_bytes(shapes, TASKS, inner.steps, inner.rule, inner.inner_states, torch.float64)


def taken(tensors, without):
    """Bytes of all memory behind some tensors, once each, but for that behind others."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for place, size in storages.items() if place not in {tensor.untyped_storage().data_ptr() for tensor in without})


def fullest(theta, batch, inner):
    """The most that a trail holds, looked at before it is gone back and at every step of that."""
    trail = Trail(LOSSES, expand(theta, TASKS), batch.support, inner)
    trail.there()
    return max([taken(trail.held(), theta.values()), *(taken(trail.held(), theta.values()) for _ in trail.back())])


@pytest.mark.parametrize("names", [None, ("one.lora_B",)], ids=["all", "some"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 9, 16])
@pytest.mark.parametrize("inner_states", ["keep", "recompute", "offload"])
@pytest.mark.parametrize("rule", RULES)
def test_bytes_are_those_predicted(rule, inner_states, steps, names):
    """On the CPU what is offloaded has nowhere else to go."""
    theta, batch, inner = case(rule, steps, inner_states, names)
    wanted = predicted(theta, inner)
    assert fullest(theta, batch, inner) == (wanted.host if inner_states == "offload" else wanted.device)
    # a way back of first order holds no more
    assert fullest(theta, batch, replace(inner, second_order=0.0)) <= (wanted.host or wanted.device)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_else_stays(rule):
    """All float64 memory of the process at the fullest moment of the way back: twice the steps add what is predicted, and no more."""

    def peak(steps):
        theta, batch, inner = case(rule, steps)
        seen = []

        def watched(losses, phi, rows, w):
            alive = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor) and thing.dtype == torch.float64]
            seen.append(taken(alive, ()))
            return double_backward(losses, phi, rows, w)

        gc.collect()
        adjoint(LOSSES, theta, batch, replace(inner, hvp=watched))
        return max(seen), predicted(theta, inner).device

    (small, small_predicted), (large, large_predicted) = peak(4), peak(8)
    rates = 4 * 4 * 8 * 2  # four more rates of four tensors, and their gradients
    assert 0 <= large - small - (large_predicted - small_predicted) <= rates


def test_recomputing_grows_with_the_root():
    theta, _, inner = case("adam", 64, "recompute")
    assert predicted(theta, inner).device < predicted(theta, replace(inner, inner_states="keep")).device / 3


def test_offloaded_one_record_is_on_the_device_at_a_time():
    theta, _, inner = case("adam", 5, "offload")
    size = 8 * TASKS * sum(tensor.numel() for tensor in theta.values())
    assert predicted(theta, inner) == StateBytes(device=4 * size, host=5 * size + 4 * 3 * size)
    assert predicted(theta, replace(inner, steps=1)) == StateBytes(device=size, host=size)
    assert predicted(theta, replace(inner, steps=0)) == StateBytes(0, 0)


@pytest.mark.parametrize("steps", range(20))
def test_stretches_are_all_steps_in_order(steps):
    for choice in ("keep", "offload", "recompute"):
        found = stretches(steps, choice)
        assert [index for stretch in found for index in stretch] == list(range(steps))
    assert all(len(stretch) == -(-(steps**0.5) // 1) for stretch in stretches(steps, "recompute")[:-1])
    assert len(stretches(steps, "keep")) == min(steps, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("inner_states", ["keep", "offload", "recompute"])
def test_on_a_gpu(inner_states):
    theta, batch, inner = case("adam", 9, inner_states)
    theta = {name: tensor.cuda() for name, tensor in theta.items()}
    batch = Batch([tuple(each.cuda() for each in rows) for rows in batch.support], tuple(each.cuda() for each in batch.query), TASKS)
    inner = replace(inner, rates={name: rate.cuda() for name, rate in inner.rates.items()})
    trail = Trail(LOSSES, expand(theta, TASKS), batch.support, inner)
    trail.there()
    wanted = predicted(theta, inner)
    assert all(tensor.is_cuda == (inner_states != "offload") for tensor in trail.held())
    assert max(taken(trail.held(), theta.values()) for _ in trail.back()) == (wanted.host or wanted.device)
    found, kept = (adjoint(LOSSES, theta, batch, replace(inner, inner_states=choice)) for choice in (inner_states, "keep"))
    for name in theta:
        torch.testing.assert_close(found.theta[name], kept.theta[name])
