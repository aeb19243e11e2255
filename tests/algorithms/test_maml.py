"""Exact second order: against finite differences through the whole inner loop, against one graph, and against first order."""

from dataclasses import replace

import pytest
import torch
from toys import NAMES, TASKS, constant_rates, distance, episode, mixing, network

from headstart.algorithms.adjoint import adjoint
from headstart.algorithms.fomaml import fomaml
from headstart.algorithms.hvp import double_backward, finite_difference, forward_over_reverse
from headstart.algorithms.inner import expand, walk
from headstart.algorithms.maml import maml
from headstart.algorithms.multitask import multitask
from headstart.algorithms.rates import as_matrices, joined, parted
from headstart.algorithms.rules import FRESH_EPS_ROOT, Adam, RoughRuleError, Sgd
from headstart.algorithms.types import Batch, InnerLoop
from headstart.algorithms.unrolled import unrolled

RULES = {"sgd": (Sgd(None), 0.5), "clipped": (Sgd(0.05), 2.0), "adam": (Adam(eps_root=1e-4), 0.05)}
LOSSES = network()

HVPS = {each.__name__: each for each in (forward_over_reverse, double_backward, finite_difference)}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def loop(rule, theta, steps=3, names=None, **options):
    return InnerLoop(rule[0], steps, constant_rates(theta, steps, rule[1], names), hvp=double_backward, **options)


def case(batches=1, seed=0):
    theta, support, query = episode(seed, batches)
    return theta, Batch(support, query, TASKS)


def weighted_loss(theta, batch, inner):
    """What is minimised, by nothing but the inner loop."""
    start = expand(theta, batch.tasks)
    steps = list(walk(LOSSES, start, batch.support, inner.rule, inner.rates, inner.steps))
    values = [LOSSES(phi, batch.query).mean() for phi in (start, *(step.phi for step in steps))]
    own = [step.losses.mean() for step in steps]
    return float(sum(weight * value for weight, value in zip((*inner.weights, *inner.path_weights), (*values, *own), strict=True)))


def slopes(function, tensors, h):
    """The gradient by central differences of fourth order."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = torch.zeros_like(tensor)
        for index in range(tensor.numel()):
            values = []
            for offset in (-2, -1, 1, 2):
                moved = tensor.clone()
                moved.view(-1)[index] += offset * h
                values.append(function({**tensors, name: moved}))
            found[name].view(-1)[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return found


def assert_exact(theta, batch, inner, h, relative):
    found = maml(LOSSES, theta, batch, inner)
    wanted = slopes(lambda moved: weighted_loss(moved, batch, inner), theta, h)
    assert distance(found.theta, wanted) < relative
    logs = {name: rate.log() for name, rate in inner.rates.items()}
    rates = slopes(
        lambda moved: weighted_loss(theta, batch, replace(inner, rates={name: log.exp() for name, log in moved.items()})), logs, h
    )
    assert distance(found.log_rates, rates) < relative


@pytest.mark.parametrize("names", [None, ("one.lora_B", "two.lora_A")], ids=["all", "some"])
def test_gradients_in_theta_and_rates_are_finite_differences(rule, names):
    """Also in the tensors that do not adapt (ANIL), which the others' inner gradients depend on."""
    theta, batch = case()
    assert_exact(theta, batch, loop(rule, theta, names=names), 3e-4, 1e-8)


def preconditioned(inner):
    return replace(inner, rates=mixing(inner.rates))


@pytest.mark.parametrize("names", [None, ("one.lora_B", "two.lora_A")], ids=["all", "some"])
@pytest.mark.parametrize("steps", [3, 5], ids=["a rate a step", "past the last rate"])
def test_gradients_in_rates_and_what_mixes_their_ranks_are_finite_differences(rule, names, steps):
    """In theta, in the logarithms of each step's number, and in the one matrix that multiplies all of them."""
    theta, batch = case()
    inner = replace(preconditioned(loop(rule, theta, names=names)), steps=steps)
    parts = {name: parted(rate) for name, rate in inner.rates.items()}
    logs, matrices = ({name: part[which] for name, part in parts.items()} for which in (0, 1))
    logs = {name: numbers.log() for name, numbers in logs.items()}

    def loss(logs=logs, matrices=matrices, theta=theta):
        return weighted_loss(theta, batch, replace(inner, rates={name: joined(logs[name].exp(), matrices[name]) for name in logs}))

    found = maml(LOSSES, theta, batch, inner)
    assert distance(found.theta, slopes(lambda moved: loss(theta=moved), theta, 1e-4)) < 1e-8
    assert distance(found.log_rates, slopes(lambda moved: loss(logs=moved), logs, 1e-4)) < 1e-8
    chained = {name: torch.tensordot(logs[name].exp(), gradient, 1) for name, gradient in found.matrix_rates.items()}
    assert distance(chained, slopes(lambda moved: loss(matrices=moved), matrices, 1e-4)) < 1e-8


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_adjoint_is_one_unrolled_graph_where_rates_mix_ranks(rule, weight):
    theta, batch = case(batches=2)
    weights = {"query_weights": (0.0, 0.2, 0.0, 0.2, 0.3), "support_weights": (0.1, 0.0, 0.2, 0.0)}
    inner = preconditioned(loop(rule, theta, steps=4, second_order=weight, **weights))
    found, wanted = (compute(LOSSES, theta, batch, inner) for compute in (adjoint, unrolled))
    for part in ("theta", "log_rates", "matrix_rates"):
        assert distance(getattr(found, part), getattr(wanted, part)) < 1e-11, part


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_identity_mixes_nothing(rule, weight):
    theta, batch = case(batches=2)
    plain = loop(rule, theta, second_order=weight)
    same = replace(plain, rates={name: as_matrices(name, rate, theta[name]) for name, rate in plain.rates.items()})
    found, wanted = (adjoint(LOSSES, theta, batch, inner) for inner in (same, plain))
    assert distance(found.theta, wanted.theta) < 1e-12
    assert distance(found.log_rates, wanted.log_rates) < 1e-12
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-12)
    # the matrix's own gradient along itself is that of the rate
    traces = {name: (same.rates[name] * gradient).sum((1, 2)) for name, gradient in found.matrix_rates.items()}
    assert distance(traces, wanted.log_rates) < 1e-12
    assert not wanted.matrix_rates


@pytest.mark.parametrize("algorithm", [maml, fomaml])
def test_tasks_together_are_their_mean_one_by_one_where_rates_mix_ranks(rule, algorithm):
    theta, batch = case(batches=2)
    inner = preconditioned(loop(rule, theta))
    together = algorithm(LOSSES, theta, batch, inner)
    alone = []
    for task in range(TASKS):
        support = [tuple(each[task : task + 1] for each in rows) for rows in batch.support]
        alone.append(algorithm(LOSSES, theta, Batch(support, tuple(each[task : task + 1] for each in batch.query), 1), inner))
    for part in ("theta", "log_rates", "matrix_rates"):
        means = {name: torch.stack([getattr(one, part)[name] for one in alone]).mean(0) for name in theta}
        assert distance(getattr(together, part), means) < 1e-12, part


@pytest.mark.parametrize("inner_states", ["offload", "recompute"])
@pytest.mark.parametrize("algorithm", [maml, fomaml])
def test_inner_states_wait_to_the_same_bits_where_rates_mix_ranks(rule, algorithm, inner_states):
    theta, batch = case(batches=3)
    inner = preconditioned(loop((rule[0], 0.1 * rule[1]), theta, 5))
    kept, waited = (algorithm(LOSSES, theta, batch, replace(inner, inner_states=choice)) for choice in ("keep", inner_states))
    for part in ("theta", "log_rates", "matrix_rates"):
        assert all(torch.equal(getattr(kept, part)[name], getattr(waited, part)[name]) for name in NAMES), part


def test_through_a_nearly_sharp_adam_too():
    """With so little inside the root, the loss bends within 1e-5 or so, and the differences have to be smaller."""
    theta, batch = case()
    assert_exact(theta, batch, loop((Adam(eps_root=1e-8), 0.05), theta), 1e-6, 1e-7)


def test_losses_on_several_steps(rule):
    theta, batch = case()
    assert_exact(theta, batch, loop(rule, theta, query_weights=(0.1, 0.0, 0.3, 0.6)), 3e-4, 1e-8)


@pytest.mark.parametrize("names", [None, ("one.lora_B", "two.lora_A")], ids=["all", "some"])
def test_support_losses_on_the_way(rule, names):
    """Also in the tensors that do not adapt."""
    theta, batch = case(batches=2)
    weights = {"query_weights": (0.1, 0.0, 0.0, 0.4), "support_weights": (0.3, 0.0, 0.2)}
    assert_exact(theta, batch, loop(rule, theta, names=names, **weights), 3e-4, 1e-8)


def test_support_minibatches_gone_through_again(rule):
    theta, batch = case(batches=2)
    assert_exact(theta, batch, loop(rule, theta, steps=5), 3e-4, 1e-8)


def test_past_the_last_rate_gradients_add_up_on_it(rule):
    theta, batch = case()
    assert_exact(theta, batch, replace(loop(rule, theta, steps=2), steps=5), 3e-4, 1e-8)


@pytest.mark.parametrize("kind", HVPS)
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_adjoint_is_one_unrolled_graph(rule, kind, weight):
    theta, batch = case(batches=2)
    weights = {"query_weights": (0.0, 0.2, 0.0, 0.2, 0.3), "support_weights": (0.1, 0.0, 0.2, 0.0)}
    inner = loop(rule, theta, steps=4, second_order=weight, **weights)
    found, wanted = adjoint(LOSSES, theta, batch, replace(inner, hvp=HVPS[kind])), unrolled(LOSSES, theta, batch, inner)
    close = 1e-6 if kind == "finite_difference" and weight else 1e-11
    assert distance(found.theta, wanted.theta) < close
    assert distance(found.log_rates, wanted.log_rates) < close
    assert found.metrics == pytest.approx(wanted.metrics)


def test_without_inner_steps_it_is_multitask_on_the_query(rule):
    theta, batch = case()
    none = loop(rule, theta, steps=0)
    found, wanted = maml(LOSSES, theta, batch, none), multitask(LOSSES, theta, batch, none)
    assert all(torch.equal(found.theta[name], wanted.theta[name]) for name in theta)
    assert found.metrics == wanted.metrics
    assert distance(found.theta, unrolled(LOSSES, theta, batch, none).theta) < 1e-12


def test_without_second_order_it_is_fomaml_to_the_bit(rule):
    theta, batch = case(batches=2)
    for options in ({}, {"query_weights": (0.0, 0.5, 0.0, 0.3), "support_weights": (0.2, 0.0, 0.0)}):
        inner = loop(rule, theta, **options)
        found = maml(LOSSES, theta, batch, replace(inner, second_order=0.0, hvp=None))
        wanted = fomaml(LOSSES, theta, batch, inner)
        assert all(torch.equal(found.theta[name], wanted.theta[name]) for name in theta)
        assert all(torch.equal(found.log_rates[name], wanted.log_rates[name]) for name in theta)
        assert found.metrics == wanted.metrics


def test_second_order_changes_the_gradient(rule):
    theta, batch = case()
    inner = loop(rule, theta)
    assert distance(fomaml(LOSSES, theta, batch, inner).theta, maml(LOSSES, theta, batch, inner).theta) > 0.01


def test_fomaml_of_several_losses_is_the_sum_of_their_gradients(rule):
    theta, batch = case()
    inner = loop(rule, theta, steps=2)
    whole = fomaml(LOSSES, theta, batch, replace(inner, query_weights=(0.0, 0.25, 0.75)))
    parts = [fomaml(LOSSES, theta, batch, replace(inner, steps=steps)) for steps in (1, 2)]
    assert distance(whole.theta, {name: 0.25 * parts[0].theta[name] + 0.75 * parts[1].theta[name] for name in theta}) < 1e-12
    rates = {name: 0.25 * parts[0].log_rates[name] + 0.75 * parts[1].log_rates[name] for name in theta}
    assert distance(whole.log_rates, rates) < 1e-12


@pytest.mark.parametrize("inner_states", ["offload", "recompute"])
@pytest.mark.parametrize("algorithm", [maml, fomaml])
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 16])
def test_inner_states_wait_anywhere_to_the_same_bits(rule, algorithm, inner_states, steps):
    theta, batch = case(batches=3)
    inner = loop((rule[0], 0.1 * rule[1]), theta, steps)
    kept, waited = (algorithm(LOSSES, theta, batch, replace(inner, inner_states=choice)) for choice in ("keep", inner_states))
    assert all(torch.equal(kept.theta[name], waited.theta[name]) for name in NAMES)
    assert all(torch.equal(kept.log_rates[name], waited.log_rates[name]) for name in NAMES)


class Counted:
    """Counts the passes over losses."""

    def __init__(self):
        self.passes = 0

    def __call__(self, phi, rows):
        self.passes += 1
        return LOSSES(phi, rows)


@pytest.mark.parametrize(
    ("algorithm", "hvp", "inner_states", "passes"),
    [
        (fomaml, None, "keep", 10),
        (maml, forward_over_reverse, "keep", 19),
        (maml, finite_difference, "keep", 28),
        # three states are kept: all stretches but the last, of three steps each, are taken again
        (maml, forward_over_reverse, "recompute", 25),
        (fomaml, None, "recompute", 16),
    ],
)
def test_passes_are_counted(algorithm, hvp, inner_states, passes):
    """K for the steps, one for the query, one or two for each product."""
    theta, batch = case()
    losses = Counted()
    algorithm(losses, theta, batch, replace(loop(RULES["sgd"], theta, 9), hvp=hvp, inner_states=inner_states))
    assert losses.passes == passes


def test_a_rule_without_a_derivative_is_refused():
    theta, batch = case()
    with pytest.raises(RoughRuleError, match="positive eps_root"):
        maml(LOSSES, theta, batch, loop((Adam(), 0.05), theta))


@pytest.mark.parametrize("steps", [1, 3])
def test_adam_from_a_fresh_adapter_is_refused_or_tame(steps):
    """B = 0: the gradient of A is exactly zero, where Adam's derivative is 1 / sqrt(eps_root)."""
    theta, batch = case()
    theta = {name: torch.zeros_like(tensor) if name.endswith("B") else tensor for name, tensor in theta.items()}
    with pytest.raises(RoughRuleError, match=r"first inner gradient of one\.lora_A \(2 such\) is exactly zero.*raise eps_root to 0\.0001"):
        maml(LOSSES, theta, batch, loop((Adam(eps_root=1e-8), 0.01), theta, steps))
    fine = loop((Adam(eps_root=FRESH_EPS_ROOT), 0.01), theta, steps)
    found, first = maml(LOSSES, theta, batch, fine), fomaml(LOSSES, theta, batch, fine)
    assert distance(found.theta, unrolled(LOSSES, theta, batch, fine).theta) < 1e-10
    sizes = [sum(float(each.theta[name].square().sum()) for name in NAMES if name.endswith("B")) ** 0.5 for each in (found, first)]
    assert sizes[0] < 3 * sizes[1]


def test_the_norm_of_a_zero_gradient_has_a_derivative():
    theta, batch = case()
    at_rest = Batch([(torch.zeros_like(batch.query[0]), torch.zeros_like(batch.query[1]))], batch.query, TASKS)
    found = maml(LOSSES, theta, at_rest, loop(RULES["clipped"], theta))
    assert all(torch.isfinite(tensor).all() for tensor in (*found.theta.values(), *found.log_rates.values()))


def test_what_is_missing_is_said():
    theta, batch = case()
    with pytest.raises(ValueError, match="needs a Hessian-vector product"):
        maml(LOSSES, theta, batch, replace(loop(RULES["sgd"], theta), hvp=None))
    with pytest.raises(ValueError, match="2 query weights for 3 inner steps; give 4"):
        maml(LOSSES, theta, batch, loop(RULES["sgd"], theta, query_weights=(0.5, 0.5)))
