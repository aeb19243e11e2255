"""What `adjoint` computes, by its plain definition: one graph through the whole inner loop, gone back once.

Its memory grows with every inner step by all activations of a pass that can be differentiated twice. It is there to be
compared with, in tests and benchmarks, and is none of `ALGORITHMS`.
"""

import torch
from torch import Tensor

from headstart.algorithms.rates import is_matrix, rate_at, scaled
from headstart.algorithms.rules import per_task
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def unrolled(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The meta-gradient that `adjoint` defines; all that the losses compute must support double backward.

    `inner.hvp` and `inner.inner_states` say how, and are not asked.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
    logs = {name: rate.new_zeros(len(rate)).requires_grad_() for name, rate in inner.rates.items()}
    matrices = {name: rate.detach().clone().requires_grad_() for name, rate in inner.rates.items() if is_matrix(rate)}
    rates = {name: matrices.get(name, rate) * per_task(logs[name].exp(), rate) for name, rate in inner.rates.items()}
    phi = {name: tensor.expand(batch.tasks, *tensor.shape) for name, tensor in leaves.items()}
    memory, weights, path_weights, weighted, first = None, inner.weights, inner.path_weights, [], None
    for index in range(inner.steps):
        if weights[index]:
            weighted.append(weights[index] * losses(phi, batch.query))
        rows = batch.support[index % len(batch.support)]
        seen = {name: _weighed(tensor, inner.second_order) for name, tensor in phi.items()}
        values = losses(seen, rows)
        first = values.detach() if first is None else first
        if path_weights[index]:
            weighted.append(path_weights[index] * losses(phi, rows))
        found = torch.autograd.grad(values.sum(), [seen[name] for name in rates], create_graph=True)
        direction, memory = inner.rule.direction(dict(zip(rates, found, strict=True)), memory)
        phi = {**phi, **{name: phi[name] - scaled(name, rate_at(rate, index), direction[name]) for name, rate in rates.items()}}
    last = losses(phi, batch.query)
    objective = torch.stack([*weighted, weights[-1] * last]).sum(0).mean()
    groups = (leaves, logs, matrices)
    inputs = [tensor for group in groups for tensor in group.values()]
    slopes = iter(torch.autograd.grad(objective, inputs, materialize_grads=True))
    of_theta, of_logs, of_matrices = ({name: next(slopes) for name in group} for group in groups)
    metrics = {"loss": float(last.detach().mean())} | ({} if first is None else {"support/loss_0": float(first.mean())})
    return MetaGradient(of_theta, of_logs, metrics, of_matrices)


def _weighed(tensor: Tensor, weight: float) -> Tensor:
    """The same values, whose derivative is taken `weight` times."""
    return tensor.detach() + weight * (tensor - tensor.detach())
