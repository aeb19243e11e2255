"""MAML (arXiv 1703.03400): the exact gradient through the inner loop, or part of the way to it (`InnerLoop.second_order`)."""

from headstart.algorithms.adjoint import adjoint
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def maml(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The gradient of the mean query loss at phi_K in theta and in the rates, as `adjoint` computes it."""
    return adjoint(losses, theta, batch, inner)
