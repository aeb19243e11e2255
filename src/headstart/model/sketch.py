"""A base of a given shape with random weights: for measuring what the shape costs, without the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import AutoModelForCausalLM

from headstart.model.base import DTYPES, Base, BaseSpec, Dtype, Quantization, prepare
from headstart.model.four_bit import is_four_bit, replace_linears
from headstart.model.probe import computes


def sketched(config: Any, device: torch.device, quantization: Quantization, dtype: Dtype, seed: int = 0) -> Base:
    """A base with random weights, drawn and quantised one by one, so that a dense model is never there where it is 4-bit.

    It is prepared as a loaded one is.

    Args:
        config: of a causal language model.
        device: where it goes.
        quantization: as in `BaseSpec`.
        dtype: as in `BaseSpec`.
        seed: of the weights.
    """
    of = DTYPES[dtype]
    with _without_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=of)
    if quantization == "nf4":
        replace_linears(model, of)
    generator = torch.Generator(device).manual_seed(seed)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _drawn(module, parameter, of, generator, config.initializer_range))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    prepare(model)
    return Base(BaseSpec("random/base", "random", quantization, dtype), "random", model, None, computes(model, "packed"))


@contextmanager
def _without_weights() -> Iterator[None]:
    """Modules made inside have parameters without memory; their buffers, which are computed from the shape, are real."""
    handle = register_module_parameter_registration_hook(_on_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)


def _drawn(module: nn.Module, like: nn.Parameter, dtype: torch.dtype, generator: torch.Generator, deviation: float) -> nn.Parameter:
    """Norms are ones, all else is normal."""
    if like.dim() == 1:
        return nn.Parameter(torch.ones(like.shape, dtype=dtype, device=generator.device), requires_grad=False)
    dense = torch.randn(like.shape, dtype=dtype, device=generator.device, generator=generator).mul_(deviation)
    if not is_four_bit(module):
        return nn.Parameter(dense, requires_grad=False)
    # the class of bitsandbytes quantises when it is moved, onto the device where it is too
    four_bit: Any = type(like)
    packed = four_bit(dense, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module)
    moved: nn.Parameter = packed.to(generator.device)
    return moved
