"""Products with frozen weights, dense or in 4 bit, in every direction that a derivative takes.

A frozen product is linear in its one variable, so its derivatives are products again: backward is itself with the other
orientation, so is the backward of that, and forward mode is itself on the tangent. Each takes the weights anew, dequantised where
need be, and none keeps them. PyTorch's own would do for dense weights, were it not for forward mode, where it multiplies the
weights' tangent too, which is zero.
"""

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from headstart.model.four_bit import dense_weight, is_four_bit, leave_as_they_are
from headstart.model.twins import in_forward_mode


def use_own_products(model: nn.Module) -> None:
    """Make the linear layers of a frozen model compute by `product`, in place: those in 4 bit always, dense ones in forward mode."""
    for module in model.modules():
        if is_four_bit(module):
            leave_as_they_are(module)
            module.forward = MethodType(product, module)
        elif type(module) in (nn.Linear, Conv1D):
            module.forward = MethodType(_dense, module)


def weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """A linear layer's weights `(d_out, d_in)`, for use at once."""
    if is_four_bit(module):
        return dense_weight(module, dtype)
    own = cast(Tensor, module.weight)
    return own.t() if isinstance(module, Conv1D) else own


def product(module: nn.Module, x: Tensor) -> Tensor:
    """`x W^T` and the bias, if any, of a frozen linear layer; differentiable in x `(..., d_in)` any number of times, in both modes."""
    found = _product(x, module, False)
    return found if module.bias is None else found + cast(Tensor, module.bias).to(found.dtype)


def _dense(module: nn.Module, x: Tensor) -> Tensor:
    if in_forward_mode(x):
        return product(module, x)
    found: Tensor = type(module).forward(module, x)
    return found


def _product(x: Tensor, module: nn.Module, transposed: bool) -> Tensor:
    return cast(Tensor, _Product.apply(x, module, transposed))  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """`x W^T`, or `x W` where `transposed`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: nn.Module, transposed: bool) -> Tensor:
        ctx.module, ctx.transposed = module, transposed
        return x @ weight(module, x.dtype) if transposed else F.linear(x, weight(module, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _product(grads[0], ctx.module, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _product(tangents[0], ctx.module, ctx.transposed)
