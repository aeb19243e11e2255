"""Bytes counted from a configuration are those of the loaded base."""

import pytest
import torch

from headstart.model.four_bit import is_four_bit
from headstart.model.memory import footprint


def held(tensor):
    return tensor.numel() * tensor.element_size()


def loaded_bytes(model):
    """Of every weight, and of what bitsandbytes keeps beside the 4-bit ones."""
    packed = dense = 0
    for module in model.modules():
        if is_four_bit(module):
            state = module.weight.quant_state
            parts = (module.weight.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            packed += sum(map(held, parts))
    dense = sum(held(weight) for weight in model.parameters() if type(weight) is torch.nn.Parameter)
    return packed, dense


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_counted_bytes_are_those_that_are_loaded(architecture, name, quantization):
    """Experts stay dense, so a "4-bit" mixture of experts is not."""
    base = architecture(name, quantization, "bfloat16")
    counted = footprint(base.spec)
    assert (counted.four_bit_bytes, counted.dense_bytes) == loaded_bytes(base.model)
    assert bool(counted.four_bit) == (quantization == "nf4")
    assert bool(counted.experts) == (name == "mixtral")


def test_experts_are_named_in_words(architecture):
    assert "million of them experts'" in str(footprint(architecture("mixtral", "nf4", "bfloat16").spec))
