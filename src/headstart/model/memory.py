"""What a base's weights take in memory, counted from its configuration before anything is loaded."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from headstart.files import in_words
from headstart.model.base import DTYPES, BaseSpec, base_folder, naming
from headstart.model.four_bit import four_bit_bytes, is_four_bit, replace_linears
from headstart.model.targets import expert_weights


@dataclass(frozen=True)
class Footprint:
    """The weights of a base as they will lie in memory; a nominal "4-bit" base keeps part of them dense.

    Args:
        four_bit: number of weights in 4 bit.
        four_bit_bytes: what they take, with the scales of their blocks.
        dense: number of weights in the base's dtype: embeddings, norms, the output layer, experts.
        dense_bytes: what they take.
        experts: how many of the dense weights are experts', which bitsandbytes does not quantise.
    """

    four_bit: int
    four_bit_bytes: int
    dense: int
    dense_bytes: int
    experts: int

    def __str__(self) -> str:
        parts = [f"{self.four_bit / 1e6:.1f} million in 4 bit ({in_words(self.four_bit_bytes)} with their scales)"] if self.four_bit else []
        of_experts = f", {self.experts / 1e6:.1f} million of them experts'" if self.experts else ""
        parts.append(f"{self.dense / 1e6:.1f} million dense ({in_words(self.dense_bytes)}{of_experts})")
        return f"weights take {in_words(self.four_bit_bytes + self.dense_bytes)}: {', '.join(parts)}"


def skeleton(spec: BaseSpec) -> Any:
    """The base's modules with their shapes and no memory, for looking at its layers before it is loaded."""
    folder = base_folder(spec, weights=False)
    with naming(spec, "the model"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=DTYPES[spec.dtype])


def footprint(spec: BaseSpec) -> Footprint:
    """Count a base's weights as `load_base` will lay them out."""
    model = skeleton(spec)
    model.tie_weights()
    if spec.quantization == "nf4":
        replace_linears(model, DTYPES[spec.dtype])
    packed = [module for module in model.modules() if is_four_bit(module)]
    inside = {id(module.weight) for module in packed}
    dense = [weight for weight in model.parameters() if id(weight) not in inside]
    counts = [module.in_features * module.out_features for module in packed]
    count = sum(weight.numel() for weight in dense)
    experts = sum(torch.Size(shape).numel() for shape in expert_weights(model).values())
    return Footprint(sum(counts), sum(map(four_bit_bytes, counts)), count, count * DTYPES[spec.dtype].itemsize, experts)
