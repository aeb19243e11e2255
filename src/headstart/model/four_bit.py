"""4-bit weights; the only importer of bitsandbytes.

bitsandbytes' own forward is never called. On CPUs with AVX512-BF16 its first pass without gradients repacks the weights in
place for a kernel that has no backward, and LoRA gradients are silently wrong from then on. Its autograd function also saves
a whole dequantised weight wherever a second derivative is asked for. Ours dequantises again in each direction and saves none.
"""

from typing import Any, cast

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor, nn
from transformers import BitsAndBytesConfig


def nf4_config(dtype: torch.dtype) -> Any:
    """The quantisation of QLoRA (arXiv 2305.14314): NF4 with double quantisation, computing in `dtype`.

    transformers' defaults are FP4 and a float32 compute type, so both are set.
    """
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)


def is_four_bit(module: nn.Module) -> bool:
    """Whether a module holds 4-bit weights."""
    return isinstance(module, bnb.nn.Linear4bit)


def forbid_repacking(model: nn.Module) -> None:
    """Keep every 4-bit layer's weights as they are, also under code that does call bitsandbytes' forward, such as stock PEFT."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


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
