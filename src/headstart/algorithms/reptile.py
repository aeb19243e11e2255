"""Reptile (arXiv 1803.02999): move the initialisation towards where each task's training ends."""

from headstart.algorithms.inner import expand, walk
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def reptile(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The pseudo-gradient theta - mean over tasks of phi_K (the paper's update, algorithm 2, descends along it)."""
    steps = list(walk(losses, expand(theta, batch.tasks), batch.support, inner.rule, inner.rates, inner.steps))
    metrics = {"loss": float(steps[-1].losses.mean()), "support/loss_0": float(steps[0].losses.mean())} if steps else {}
    last = steps[-1].phi if steps else expand(theta, batch.tasks)
    return MetaGradient(theta={name: tensor.detach() - last[name].mean(0) for name, tensor in theta.items()}, metrics=metrics)
