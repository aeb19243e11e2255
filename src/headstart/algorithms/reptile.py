"""Reptile (arXiv 1803.02999): move the initialisation towards where each task's training ends."""

from headstart.algorithms.inner import expand, walk
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def reptile(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The pseudo-gradient theta - mean over tasks of phi_K (the paper's update, algorithm 2, descends along it)."""
    last: Tensors = expand(theta, batch.tasks)
    seen = []
    for step in walk(losses, last, batch.support, inner.rule, inner.rates, inner.steps):
        last = step.phi
        seen.append(step.losses.mean())
    metrics = {"loss": float(seen[-1]), "support/loss_0": float(seen[0])} if seen else {}
    return MetaGradient(theta={name: tensor.detach() - last[name].mean(0) for name, tensor in theta.items()}, metrics=metrics)
