"""One contract for every algorithm, on quadratic tasks whose derivatives are known."""

from dataclasses import replace

import pytest
import torch

from headstart.algorithms import ALGORITHMS
from headstart.algorithms.hvp import double_backward
from headstart.algorithms.inner import expand, gradients, walk
from headstart.algorithms.rules import Adam, Sgd
from headstart.algorithms.types import Batch, InnerLoop

TASKS, STEPS = 3, 2


def quadratic(phi, rows):
    """Task t: half the curvature-weighted square distance to its own targets; rows are (curvature, targets for A and B)."""
    curvature, targets = rows
    return sum((curvature * (phi[name] - targets[name]).square()).flatten(1).sum(1) for name in phi) / 2


def linear(phi, rows):
    _, slopes = rows
    return sum((phi[name] * slopes[name]).flatten(1).sum(1) for name in phi)


def draw(seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = [(0.5 + torch.rand(TASKS, 1, 1, generator=generator, dtype=torch.float64), {"a": normal(TASKS, 2, 3), "b": normal(TASKS, 3, 2)})]
    rows += [(rows[0][0], {"a": normal(TASKS, 2, 3), "b": normal(TASKS, 3, 2)}) for _ in range(STEPS)]
    return {"a": normal(2, 3), "b": normal(3, 2)}, rows


def batch_of(rows, tasks=TASKS):
    return Batch(rows[1:], rows[0], tasks)


def inner(rule, steps=STEPS, rate=0.1):
    rates = {name: torch.full((steps,), rate, dtype=torch.float64) for name in ("a", "b")}
    return InnerLoop(rule, steps, rates, hvp=double_backward)


def of_task(rows, task):
    return [(curvature[task : task + 1], {name: t[task : task + 1] for name, t in targets.items()}) for curvature, targets in rows]


@pytest.fixture(params=[Adam(eps_root=1e-8), Sgd(1.0), Sgd(None)], ids=["adam", "clipped", "sgd"])
def rule(request):
    return request.param


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tasks_together_equal_their_mean_one_by_one(algorithm, rule):
    theta, rows = draw(0)
    together = ALGORITHMS[algorithm](quadratic, theta, batch_of(rows), inner(rule))
    alone = [ALGORITHMS[algorithm](quadratic, theta, batch_of(of_task(rows, task), 1), inner(rule)) for task in range(TASKS)]
    for name in theta:
        torch.testing.assert_close(together.theta[name], torch.stack([one.theta[name] for one in alone]).mean(0))
    for name in together.log_rates:
        torch.testing.assert_close(together.log_rates[name], torch.stack([one.log_rates[name] for one in alone]).mean(0))
    assert together.metrics["loss"] == pytest.approx(sum(one.metrics["loss"] for one in alone) / TASKS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_arguments_same_bits_and_arguments_untouched(algorithm, rule):
    theta, rows = draw(1)
    kept = {name: tensor.clone() for name, tensor in theta.items()}
    first, second = (ALGORITHMS[algorithm](quadratic, theta, batch_of(rows), inner(rule)) for _ in range(2))
    assert all(torch.equal(first.theta[name], second.theta[name]) for name in theta)
    assert all(torch.equal(theta[name], kept[name]) for name in theta)


@pytest.mark.parametrize("algorithm", ["fomaml", "maml"])
def test_maml_without_inner_steps_is_multitask_on_the_query(algorithm):
    theta, rows = draw(2)
    none = inner(Adam(), steps=0)
    first, second = (
        ALGORITHMS[algorithm](quadratic, theta, batch_of(rows), none),
        ALGORITHMS["multitask"](quadratic, theta, batch_of(rows), none),
    )
    assert all(torch.equal(first.theta[name], second.theta[name]) for name in theta)
    assert first.metrics == second.metrics


def test_reptile_without_inner_steps_is_zero():
    theta, rows = draw(2)
    found = ALGORITHMS["reptile"](quadratic, theta, batch_of(rows), inner(Adam(), steps=0))
    assert all(not tensor.any() for tensor in found.theta.values())


def test_multitask_is_the_gradient_of_the_mean_query_loss():
    theta, rows = draw(3)
    found = ALGORITHMS["multitask"](quadratic, theta, batch_of(rows), inner(Adam()))
    curvature, targets = rows[0]
    for name in theta:
        torch.testing.assert_close(found.theta[name], (curvature * (theta[name] - targets[name])).mean(0))


def test_reptile_descends_towards_where_training_ends(rule):
    """Algorithm 2 of arXiv 1803.02999: theta += eps (mean phi_K - theta); as a gradient, descended along, the other sign."""
    theta, rows = draw(4)
    found = ALGORITHMS["reptile"](quadratic, theta, batch_of(rows), inner(rule))
    last = list(walk(quadratic, expand(theta, TASKS), rows[1:], rule, inner(rule).rates, STEPS))[-1].phi
    for name in theta:
        torch.testing.assert_close(theta[name] - found.theta[name], last[name].mean(0))
        towards = rows[1][1][name].mean(0) + rows[2][1][name].mean(0) - 2 * theta[name]
        assert float((-found.theta[name] * towards).sum()) > 0


def adapted_query_loss(losses, theta, rows, rule, log_rates, steps):
    rates = {name: tensor.exp() for name, tensor in log_rates.items()}
    phi = list(walk(losses, expand(theta, TASKS), rows[1:], rule, rates, steps))[-1].phi
    return float(quadratic(phi, rows[0]).mean())


def finite_differences(losses, theta, rows, rule, log_rates, steps, h=1e-6):
    found = {name: torch.zeros_like(tensor) for name, tensor in log_rates.items()}
    for name, tensor in log_rates.items():
        for index in range(len(tensor)):
            values = []
            for sign in (1, -1):
                moved = {key: value.clone() for key, value in log_rates.items()}
                moved[name][index] += sign * h
                values.append(adapted_query_loss(losses, theta, rows, rule, moved, steps))
            found[name][index] = (values[0] - values[1]) / (2 * h)
    return found


class Either:
    """Linear on the support, quadratic on the query: then no step's gradient depends on the step before, and first order is exact."""

    def __init__(self, query):
        self.query = query

    def __call__(self, phi, rows):
        return quadratic(phi, rows) if rows is self.query else linear(phi, rows)


def test_learned_rate_gradients_are_exact_where_the_hessian_vanishes(rule):
    theta, rows = draw(5)
    loop = inner(rule)
    found = ALGORITHMS["fomaml"](Either(rows[0]), theta, batch_of(rows), loop).log_rates
    log_rates = {name: rate.log() for name, rate in loop.rates.items()}
    wanted = finite_differences(linear, theta, rows, rule, log_rates, STEPS)
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-8)


def test_learned_rate_gradient_of_the_last_step_is_exact(rule):
    """No step follows it, so first order leaves nothing out."""
    theta, rows = draw(6)
    loop = inner(rule)
    found = ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), loop).log_rates
    log_rates = {name: rate.log() for name, rate in loop.rates.items()}
    wanted = finite_differences(quadratic, theta, rows, rule, log_rates, STEPS)
    for name in found:
        torch.testing.assert_close(found[name][-1], wanted[name][-1], rtol=1e-6, atol=1e-8)
        assert not torch.allclose(found[name][0], wanted[name][0]), "the first step's would be second order's to get right"


def test_fomaml_is_the_query_gradient_where_the_inner_loop_ends(rule):
    theta, rows = draw(7)
    loop = inner(rule)
    found = ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), loop)
    phi = list(walk(quadratic, expand(theta, TASKS), rows[1:], rule, loop.rates, STEPS))[-1].phi
    values, wanted = gradients(quadratic, phi, rows[0])
    assert found.metrics["loss"] == float(values.mean())
    assert all(torch.equal(found.theta[name], wanted[name].mean(0)) for name in theta)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_descending_lowers_the_adapted_loss(algorithm):
    theta, rows = draw(8)
    rows = [rows[0], *[rows[0]] * STEPS]
    loop = inner(Sgd(None))
    before = ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), loop).metrics["loss"]
    for _ in range(50):
        found = ALGORITHMS[algorithm](quadratic, theta, batch_of(rows), loop)
        theta = {name: tensor - 0.1 * found.theta[name] for name, tensor in theta.items()}
    assert ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), loop).metrics["loss"] < before


@pytest.mark.parametrize("algorithm", ["reptile", "fomaml", "maml"])
def test_a_tensor_without_a_rate_does_not_adapt(algorithm, rule):
    """ANIL: as if it were a constant of the losses in the inner loop; its own meta-gradient is that of the query loss.

    Exact second order adds nothing to it here, as the quadratic tasks do not mix their tensors.
    """
    theta, rows = draw(1)
    only_b = InnerLoop(rule, STEPS, {"b": torch.full((STEPS,), 0.1, dtype=torch.float64)}, hvp=double_backward)
    steps = list(walk(quadratic, expand(theta, TASKS), rows[1:], rule, only_b.rates, STEPS))
    assert torch.equal(steps[-1].phi["a"], theta["a"].expand(TASKS, -1, -1))
    assert not torch.equal(steps[-1].phi["b"], theta["b"].expand(TASKS, -1, -1))
    constant = theta["a"].expand(TASKS, -1, -1)
    alone = walk(
        lambda phi, part: quadratic({"a": constant, **phi}, part), expand({"b": theta["b"]}, TASKS), rows[1:], rule, only_b.rates, STEPS
    )
    torch.testing.assert_close(steps[-1].phi["b"], list(alone)[-1].phi["b"])
    found = ALGORITHMS[algorithm](quadratic, theta, batch_of(rows), only_b)
    assert found.log_rates.keys() <= {"b"}
    wanted = torch.zeros_like(theta["a"]) if algorithm == "reptile" else gradients(quadratic, steps[-1].phi, rows[0])[1]["a"].mean(0)
    torch.testing.assert_close(found.theta["a"], wanted)


def test_support_losses_alone_are_reptile_in_first_order():
    """With plain SGD, theta - phi_K is the sum of the rates times the gradients on the way (arXiv 1803.02999, equation 2)."""
    theta, rows = draw(5)
    loop = inner(Sgd(None), rate=0.1)
    wanted = ALGORITHMS["reptile"](quadratic, theta, batch_of(rows), loop).theta
    path = replace(loop, query_weights=(0.0,) * (STEPS + 1), support_weights=(0.1,) * STEPS)
    found = ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), path).theta
    for name in theta:
        torch.testing.assert_close(found[name], wanted[name])


@pytest.mark.parametrize("names", [("a", "b"), ("b",)], ids=["all adapt", "one adapts"])
def test_the_first_support_loss_is_multitask_on_the_support(names):
    theta, rows = draw(6)
    loop = inner(Adam(), rate=0.1)
    first = replace(
        loop,
        rates={name: loop.rates[name] for name in names},
        query_weights=(0.0,) * (STEPS + 1),
        support_weights=(1.0, *(0.0,) * (STEPS - 1)),
    )
    found = ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), first).theta
    wanted = ALGORITHMS["multitask"](quadratic, theta, Batch([], rows[1], TASKS), loop).theta
    for name in theta:
        torch.testing.assert_close(found[name], wanted[name])


def test_weights_are_refused_unless_there_is_one_for_each():
    theta, rows = draw(7)
    for weights in ({"query_weights": (1.0,)}, {"support_weights": (1.0,) * (STEPS + 1)}):
        with pytest.raises(ValueError, match="weights for 2 inner steps"):
            ALGORITHMS["fomaml"](quadratic, theta, batch_of(rows), replace(inner(Sgd(None)), **weights))
