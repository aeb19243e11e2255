"""The adjoint of an inner loop: how the loss after its last step depends on where it started and on its rates.

Walking back from lambda_K, the gradient of the query losses at phi_K,

    lambda_k = (d rule / d s_k)^T lambda_{k+1} + H_k (d rule / d g_k)^T lambda_{k+1},
    d / d log rate_k = -rate_k <lambda_{k+1}, direction_k>.

First order drops the Hessian term H_k (arXiv 1703.03400, section 5.2). What is left is the identity, since a rule's
direction depends on gradients alone: lambda_k = lambda_K for every k.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from headstart.algorithms.inner import Step


def first_order_rate_gradients(adjoint: Mapping[str, Tensor], steps: Sequence[Step], rates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient in log rates `(K,)` of the mean over tasks of the query losses.

    Args:
        adjoint: tensor name -> `(T, ...)`, lambda_K.
        steps: the K inner steps that were taken.
        rates: tensor name -> `(K,)`.
    """
    return {name: -rates[name] * _alignment(adjoint[name], [step.direction[name] for step in steps]) for name in rates}


def _alignment(adjoint: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """`(K,)`: per step the mean over tasks of the inner product of adjoint and direction."""
    products = [(adjoint * direction).flatten(1).sum(1).mean() for direction in directions]
    return adjoint.new_tensor([float(product) for product in products]) if products else adjoint.new_zeros(0)
