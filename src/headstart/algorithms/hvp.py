"""Hessian-vector products of `losses` in the adapters: how the gradient at phi turns when phi moves.

Three ways to the same `(H w)_t = d/ds grad losses_t(phi_t + s w_t)` at s = 0. A direction `w` holds only the tensors that
adapt; the product covers all of phi, as mixed second derivatives reach the tensors that do not.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from headstart.algorithms.inner import gradients
from headstart.algorithms.rules import per_task
from headstart.algorithms.types import Losses, Tensors

RELATIVE_STEPS: Mapping[torch.dtype, float] = {torch.float64: 4e-6, torch.float32: 1e-4, torch.bfloat16: 3e-3, torch.float16: 1e-3}
"""How far finite differences move, as a share of the adapters' norm, by the type that the losses are computed in.

Measured on SmolLM2-135M with its shipped adapter against exact products in float32: relative errors of 3e-4 in float32, 5e-2 in
float16 and 0.12 to 0.15 in bfloat16 (exact products computed in bfloat16: 0.09 to 0.13); three times as far, curvature makes it
2e-3, 0.12 and 0.3 to 0.6. Shallow networks bear steps ten times as long.
"""


def forward_over_reverse(losses: Losses, phi: Tensors, rows: Any, w: Tensors) -> dict[str, Tensor]:
    """A gradient of first order computed on dual numbers, phi + s w; its tangent is the product.

    Nothing is differentiated twice, so memory is about twice a gradient's (arXiv 2505.00793, section 3). All that the losses
    compute must support forward mode.
    """
    with forward_ad.dual_level():
        # a tangent needs memory of its own, which an expanded initialisation has not
        leaves = {name: tensor.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for name, tensor in phi.items()}
        # zero tangents too are carried along: on the way back all layers meet one, and are to know of it on the way there
        duals = {name: _dual(leaf, w.get(name)) for name, leaf in leaves.items()}
        found = torch.autograd.grad(losses(duals, rows).sum(), list(leaves.values()), materialize_grads=True)
        turns = [_tangent(each) for each in found]
        return {name: torch.zeros_like(phi[name]) if turn is None else turn.detach() for name, turn in zip(leaves, turns, strict=True)}


def double_backward(losses: Losses, phi: Tensors, rows: Any, w: Tensors) -> dict[str, Tensor]:
    """The gradient of `<gradient, w>` (Pearlmutter 1994); all that the losses compute must support double backward."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in phi.items()}
    found = torch.autograd.grad(losses(leaves, rows).sum(), [leaves[name] for name in w], create_graph=True, materialize_grads=True)
    product = torch.stack([(each * w[name]).sum() for name, each in zip(w, found, strict=True)]).sum()
    if not product.requires_grad:
        # losses linear in phi: their gradient depends on nothing
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    return dict(zip(leaves, torch.autograd.grad(product, list(leaves.values()), materialize_grads=True), strict=True))


def finite_difference(losses: Losses, phi: Tensors, rows: Any, w: Tensors, relative_step: float | None = None) -> dict[str, Tensor]:
    """The central difference of two gradients of first order; whatever computes those serves.

    Each task moves by a step of its own, `relative_step` of its adapters' norm along its `w`, so that tasks never mix and
    neither the size of phi nor that of w matters. The product is zero where w is.

    Args:
        losses, phi, rows, w: as in `HVP`.
        relative_step: where None, that of phi's type in `RELATIVE_STEPS`. Losses that are computed in fewer bits than phi
            has need a larger one.
    """
    relative_step = relative_step or RELATIVE_STEPS[next(iter(phi.values())).dtype]
    size = _norms({name: phi[name] for name in w})
    length = _norms(w)
    # an adapter that is all zero has no scale of its own
    size = torch.where(size > 0, size, torch.ones_like(size))
    step = torch.where(length > 0, relative_step * size / length, torch.zeros_like(size))
    ahead, behind = (
        gradients(losses, {**phi, **{name: phi[name] + sign * per_task(step, each) * each for name, each in w.items()}}, rows)[1]
        for sign in (1, -1)
    )
    over = torch.where(step > 0, 0.5 / step, torch.zeros_like(step))
    return {name: (ahead[name] - behind[name]) * per_task(over, ahead[name]) for name in phi}


def _dual(leaf: Tensor, tangent: Tensor | None) -> Tensor:
    dual: Tensor = forward_ad.make_dual(leaf, torch.zeros_like(leaf) if tangent is None else tangent)  # type: ignore[no-untyped-call]
    return dual


def _tangent(dual: Tensor) -> Tensor | None:
    tangent: Tensor | None = forward_ad.unpack_dual(dual).tangent  # type: ignore[no-untyped-call]
    return tangent


def _norms(tensors: Tensors) -> Tensor:
    """`(T,)`: each task's norm over all its tensors."""
    return torch.stack([tensor.flatten(1).square().sum(1) for tensor in tensors.values()]).sum(0).sqrt()
