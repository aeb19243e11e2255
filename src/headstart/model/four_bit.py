"""4-bit weights; the only importer of bitsandbytes.

bitsandbytes' own forward is never called. On CPUs with AVX512-BF16 its first pass without gradients repacks the weights in
place for a kernel that has no backward, and LoRA gradients are silently wrong from then on. Its autograd function also saves
a whole dequantised weight wherever a second derivative is asked for. Ours dequantises again in each direction and saves none.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def _without_kernels() -> Iterator[None]:
    """Hide the package `kernels`: with it, bitsandbytes fetches a binary from the model hub when it is imported, and runs it.

    Without it, bitsandbytes warns that a kernel is missing which is never called here.
    """
    hidden = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    warner = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = warner.level
    warner.setLevel(logging.ERROR)
    try:
        yield
    finally:
        warner.setLevel(level)
        del sys.modules["kernels"]
        if hidden is not None:
            sys.modules["kernels"] = hidden


with _without_kernels():
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit

# these import bitsandbytes too, and find it there
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one, in NF4 with double quantisation."""


def nf4_config(dtype: torch.dtype) -> Any:
    """The quantisation of QLoRA (arXiv 2305.14314): NF4 with double quantisation, computing in `dtype`.

    transformers' defaults are FP4 and a float32 compute type, so both are set.
    """
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def is_four_bit(module: nn.Module) -> bool:
    """Whether a module holds 4-bit weights."""
    return isinstance(module, bnb.nn.Linear4bit)


def replace_linears(model: Any, dtype: torch.dtype) -> None:
    """Replace the layers of a model without memory that loading it in 4 bit would replace, in place."""
    replace_with_bnb_linear(model, get_keys_to_not_convert(model), nf4_config(dtype))


def four_bit_bytes(weights: int) -> int:
    """What a layer of so many weights takes: two a byte, a byte a block of 64, a float a block of 256 of those, and the tables."""
    blocks = -(-weights // BLOCK)
    return -(-weights // 2) + blocks + 4 * -(-blocks // NESTED_BLOCK) + 4 * (1 + 16 + 256)


def use_own_products(model: nn.Module) -> None:
    """Make every 4-bit layer compute by `linear_4bit`, those without a LoRA site and those under stock PEFT too.

    The flag says the same to bitsandbytes' own forward, in case it is put back: leave the weights as they are.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.forward = MethodType(linear_4bit, module)


class _FrozenProduct(torch.autograd.Function):
    """`x W^T`, or `x W` where `transposed`, for a frozen 4-bit W; its backward is itself with the other orientation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: bnb.nn.Params4bit, transposed: bool) -> Tensor:
        ctx.weight, ctx.transposed = weight, transposed
        dense: Tensor = dequantize_4bit(weight.data, weight.quant_state).to(x.dtype)
        return x @ (dense if transposed else dense.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _product(grads[0], ctx.weight, not ctx.transposed), None, None


def _product(x: Tensor, weight: Any, transposed: bool) -> Tensor:
    return cast(Tensor, _FrozenProduct.apply(x, weight, transposed))  # type: ignore[no-untyped-call]


def linear_4bit(module: nn.Module, x: Tensor) -> Tensor:
    """The product of a frozen 4-bit linear layer, differentiable in x any number of times; `x` is `(..., d_in)`."""
    product = _product(x, module.weight, False)
    return product if module.bias is None else product + cast(Tensor, module.bias).to(product.dtype)
