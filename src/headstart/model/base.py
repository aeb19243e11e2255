"""Loading a frozen base and its tokenizer."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from headstart.bases import BUNDLED_ID, BaseError, BaseSpec, Dtype, Quantization, base_folder, load_tokenizer, naming, tokenizer_in
from headstart.model.activations import make_activations_differentiable
from headstart.model.four_bit import is_four_bit, nf4_config
from headstart.model.frozen import use_own_products
from headstart.model.probe import attend_over_blocks, computes

__all__ = [
    "BUNDLED_ID",
    "Base",
    "BaseError",
    "BaseSpec",
    "Dtype",
    "Quantization",
    "base_folder",
    "fingerprint",
    "load_base",
    "load_tokenizer",
    "naming",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A loaded, frozen base in evaluation mode.

    Args:
        spec: what was asked for.
        fingerprint: identifies the weights before quantisation; two bases of one id and shape may differ in it.
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        packs: whether examples can share a row, by a probe at load.
    """

    spec: BaseSpec
    fingerprint: str
    model: Any
    tokenizer: Any
    packs: bool

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.model.device
        return device


def load_base(spec: BaseSpec, device: torch.device | str | None = None) -> Base:
    """Load a base for adapting, onto the GPU if there is one and no device is named.

    Raises:
        BaseError: the weights are not there, are not safetensors, or a batch of the base is not its rows alone.
    """
    folder = base_folder(spec)
    dtype = DTYPES[spec.dtype]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = tokenizer_in(folder, spec)
    with naming(spec, "the model"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            device_map={"": str(device)},
            quantization_config=nf4_config(dtype) if spec.quantization == "nf4" else None,
            output_loading_info=True,
        )
    # transformers makes missing weights up and warns
    missing = sorted(report["missing_keys"])
    if missing:
        raise BaseError(f"base {spec.id}: {folder} lacks {len(missing)} of the model's weights, such as {missing[0]!r}; fetch it again")
    if spec.quantization == "nf4" and not any(is_four_bit(module) for module in model.modules()):
        raise BaseError(f"base.quantization: {spec.id} has no linear layers that can be kept in 4 bit; set base.quantization to none")
    prepare(model)
    if not computes(model, "padded"):
        raise BaseError(
            f"base.id: {spec.id} ({type(model).__name__}) gives other logits in a batch than alone; it cannot be adapted by headstart"
        )
    return Base(spec, fingerprint(folder), model, tokenizer, computes(model, "packed"))


def prepare(model: Any) -> None:
    """Freeze a loaded model and give it our products, activations and attention, in place."""
    use_own_products(model)
    model.eval().requires_grad_(False)
    make_activations_differentiable(model)
    attend_over_blocks(model)


def fingerprint(folder: Path) -> str:
    """A short digest of the weights: of every tensor its name, shape and type, and its first, middle and last row."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            for name in sorted(weights.keys()):
                view = weights.get_slice(name)
                shape = view.get_shape()
                digest.update(f"{name}{shape}{view.get_dtype()}".encode())
                for row in sorted({0, shape[0] // 2, shape[0] - 1} if shape else ()):
                    digest.update(view[row : row + 1].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
