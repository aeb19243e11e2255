"""What `adjoint` computes, by its plain definition: one graph through the whole inner loop, gone back once.

Its memory grows with every inner step by all activations of a pass that can be differentiated twice. It is there to be
compared with, in tests and benchmarks, and is none of `ALGORITHMS`.
"""

import torch
from torch import Tensor

from headstart.algorithms.inner import rate_at
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def unrolled(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The meta-gradient that `adjoint` defines; all that the losses compute must support double backward.

    `inner.hvp` and `inner.inner_states` say how, and are not asked.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
    logs = {name: torch.zeros_like(rate).requires_grad_() for name, rate in inner.rates.items()}
    rates = {name: rate * logs[name].exp() for name, rate in inner.rates.items()}
    phi = {name: tensor.expand(batch.tasks, *tensor.shape) for name, tensor in leaves.items()}
    memory, weights, weighted, first = None, inner.weights, [], None
    for index in range(inner.steps):
        if weights[index]:
            weighted.append(weights[index] * losses(phi, batch.query))
        rows = batch.support[index % len(batch.support)]
        seen = {name: _weighed(tensor, inner.second_order) for name, tensor in phi.items()}
        values = losses(seen, rows)
        first = values.detach() if first is None else first
        found = torch.autograd.grad(values.sum(), [seen[name] for name in rates], create_graph=True)
        direction, memory = inner.rule.direction(dict(zip(rates, found, strict=True)), memory)
        phi = {**phi, **{name: phi[name] - rate_at(rate, index) * direction[name] for name, rate in rates.items()}}
    last = losses(phi, batch.query)
    objective = torch.stack([*weighted, weights[-1] * last]).sum(0).mean()
    inputs = [*leaves.values(), *logs.values()]
    found = torch.autograd.grad(objective, inputs, materialize_grads=True)
    metrics = {"loss": float(last.detach().mean())} | ({} if first is None else {"support/loss_0": float(first.mean())})
    return MetaGradient(dict(zip(leaves, found, strict=False)), dict(zip(logs, found[len(leaves) :], strict=True)), metrics)


def _weighed(tensor: Tensor, weight: float) -> Tensor:
    """The same values, whose derivative is taken `weight` times."""
    return tensor.detach() + weight * (tensor - tensor.detach())
