"""First-order MAML (arXiv 1703.03400, section 5.2): the query gradient where the inner loop ends."""

from headstart.algorithms.adjoint import first_order_rate_gradients
from headstart.algorithms.inner import expand, gradients, walk
from headstart.algorithms.types import Batch, InnerLoop, Losses, MetaGradient, Tensors


def fomaml(losses: Losses, theta: Tensors, batch: Batch, inner: InnerLoop) -> MetaGradient:
    """The mean query gradient at phi_K, and the rates' gradients that come with it at no further pass."""
    start = expand(theta, batch.tasks)
    steps = list(walk(losses, start, batch.support, inner.rule, inner.rates, inner.steps))
    values, adjoint = gradients(losses, steps[-1].phi if steps else start, batch.query)
    metrics = {"loss": float(values.mean())}
    if steps:
        metrics["support/loss_0"] = float(steps[0].losses.mean())
    return MetaGradient(
        theta={name: tensor.mean(0) for name, tensor in adjoint.items()},
        log_rates=first_order_rate_gradients(adjoint, steps, inner.rates),
        metrics=metrics,
    )
