"""First-order MAML (arXiv 1703.03400, section 5.2): an inner gradient is taken not to depend on where it was taken."""

from dataclasses import replace

from headstart.algorithms.adjoint import adjoint
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def fomaml(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The mean query gradient at phi_K, and the rates' gradients that come with it at no further pass."""
    return adjoint(losses, theta, batch, replace(inner, second_order=0.0))
