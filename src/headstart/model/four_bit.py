"""4-bit weights; the only importer of bitsandbytes.

bitsandbytes' own forward is never called. On CPUs with AVX512-BF16 its first pass without gradients repacks the weights in
place for a kernel that has no backward, and LoRA gradients are silently wrong from then on. Its autograd function also saves
a whole dequantised weight wherever a second derivative is asked for. `headstart.model.frozen` has our own products.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""Arguments of transformers' `BitsAndBytesConfig`, beside the type to compute in: the quantisation of QLoRA (arXiv 2305.14314).

Its own defaults are FP4 and a float32 compute type, so both are set.
"""

BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a scale, and scales that share one, in NF4 with double quantisation."""


def nf4_config(dtype: torch.dtype) -> Any:
    """NF4 with double quantisation, computing in `dtype`."""
    return BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=dtype)


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


def leave_as_they_are(module: Any) -> None:
    """Tell a 4-bit layer's own forward, in case it is called, not to repack the weights in place."""
    module.support_avx512bf16_for_cpu = False


def dense_weight(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weights of a 4-bit layer, dequantised: `(d_out, d_in)`; for use at once, and never to be kept."""
    weight: Any = module.weight
    dense: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return dense.to(dtype)
