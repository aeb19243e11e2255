"""The adjoint of an inner loop: how the losses along it depend on where it started and on its rates.

A step is `s_{k+1} = rule(s_k, g_k, rate_k)`, with `s` the adapters phi and what the rule remembers, and g_k the gradient of the
support losses at phi_k. What is minimised is the mean over tasks of `sum_k v_k query(phi_k) + sum_k u_k support_k(phi_k)`,
commonly with v_K = 1 alone. Walking back from `lambda_K = v_K grad query(phi_K)`,

    lambda_k = (d rule / d s_k)^T lambda_{k+1} + c H_k w_k + v_k grad query(phi_k) + u_k g_k,   w_k = (d rule / d g_k)^T lambda_{k+1},
    d / d log rate_k = -rate_k <lambda_{k+1}, direction_k>.

A matrix for a rate (`rates`) has a gradient in itself too, -lambda_{k+1} direction_k^T for an A and -direction_k^T lambda_{k+1} for a B.

The rule is differentiated by itself; the losses enter through one Hessian-vector product a step, so that no step's activations
are held while another's are needed. With c = 1 this is exact (MAML, arXiv 1703.03400). With c = 0 the Hessian term is left out
(section 5.2 there), and with it all that the rule's memory passes on, since that comes from gradients alone: what is left of
the first two terms is lambda_{k+1}. The support losses' gradients u_k g_k were taken on the way there and cost no further pass: u_0
blends the multi-task gradient in, and with u_k = 1 for every k and no query the first order is Reptile's for plain SGD (arXiv
1803.02999, equation 2). Between, the derivative of every g_k in phi_k is taken c times (arXiv 1810.09502,
section 4, anneals it from 0 to 1).
"""

import torch
from torch import Tensor

from headstart.algorithms.inner import expand, gradients
from headstart.algorithms.rates import is_matrix, rate_at, rate_gradient, scaled_back
from headstart.algorithms.rules import Moments, Pull, pull_back
from headstart.algorithms.trail import Record, Trail
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def adjoint(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The gradient of the mean over tasks of the weighted query losses, in theta, in the logarithms of the rates, and in matrix rates.

    Args:
        losses: `(phi, rows) -> (T,)`.
        theta: tensor name -> tensor without task axis.
        batch: the rows.
        inner: the loop; `second_order` is c, `weights` are v, `path_weights` u.

    Raises:
        ValueError: c is positive and there is no `hvp`, or the weights are not K + 1 and K.
        RoughRuleError: c is positive and the rule has no usable derivative.
    """
    weights, path_weights, hvp = inner.weights, inner.path_weights, inner.hvp
    if inner.second_order and hvp is None:
        raise ValueError("second order needs a Hessian-vector product; give InnerLoop one as hvp")
    trail = Trail(losses, expand(theta, batch.tasks), batch.support, inner)
    values, query = gradients(losses, trail.there(), batch.query)
    cotangent, memory = _plus({}, query, weights[-1]), None
    log_rates = {name: rate.new_zeros(len(rate)) for name, rate in inner.rates.items()}
    matrix_rates = {name: torch.zeros_like(rate) for name, rate in inner.rates.items() if is_matrix(rate)}
    for index, record in trail.back():
        pull = _pull(inner, index, record, cotangent, memory)
        _add_rate_gradients(log_rates, matrix_rates, inner.rates, index, cotangent, pull.direction)
        if hvp and inner.second_order:
            product = hvp(losses, record.phi, batch.support[index % len(batch.support)], pull.gradients)
            cotangent, memory = _plus(cotangent, product, inner.second_order), pull.memory
        if weights[index]:
            cotangent = _plus(cotangent, gradients(losses, record.phi, batch.query)[1], weights[index])
        if path_weights[index]:
            cotangent = _plus(cotangent, record.gradient, path_weights[index])
        # let go before the trail brings what comes next
        del record, pull
    metrics = {"loss": float(values.mean())}
    if trail.first_losses is not None:
        metrics["support/loss_0"] = float(trail.first_losses.mean())
    return MetaGradient({name: tensor.mean(0) for name, tensor in cotangent.items()}, log_rates, metrics, matrix_rates)


def _pull(inner: InnerLoop, index: int, record: Record, cotangent: Tensors, memory: Moments | None) -> Pull:
    """What a step passes back through its rule; nothing of it is asked for in first order, where the direction was kept."""
    if not inner.second_order:
        return Pull(record.direction, {}, None)
    towards = {name: -scaled_back(name, rate_at(rate, index), cotangent[name]) for name, rate in inner.rates.items()}
    return pull_back(inner.rule, {name: record.gradient[name] for name in inner.rates}, record.memory, towards, memory)


def _add_rate_gradients(
    log_rates: Tensors, matrix_rates: Tensors, rates: Tensors, index: int, cotangent: Tensors, direction: Tensors
) -> None:
    """Add a step's share, in place, to the gradients in the rate it was taken with and in its logarithm, as a mean over tasks."""
    for name, rates_of in rates.items():
        rate = rate_at(rates_of, index)
        if is_matrix(rate):
            own = rate_gradient(name, cotangent[name], direction[name])
            rate_at(matrix_rates[name], index).sub_(own)
            share = (rate * own).sum()
        else:
            share = rate * (cotangent[name] * direction[name]).flatten(1).sum(1).mean()
        rate_at(log_rates[name], index).sub_(share)


def _plus(tensors: Tensors, others: Tensors, weight: float) -> dict[str, Tensor]:
    """`tensors + weight * others`; the others as they are where they are all and weigh 1."""
    if not tensors:
        return dict(others) if weight == 1 else {name: weight * other for name, other in others.items()}
    return {name: tensor.add(others[name], alpha=weight) for name, tensor in tensors.items()}
