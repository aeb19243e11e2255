"""Multi-task training: no inner step, the gradient at the initialisation itself. Baseline and warm start."""

from headstart.algorithms.inner import expand, gradients
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def multitask(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The gradient of the mean query loss at theta."""
    values, found = gradients(losses, expand(theta, batch.tasks), batch.query)
    return MetaGradient(theta={name: tensor.mean(0) for name, tensor in found.items()}, metrics={"loss": float(values.mean())})
