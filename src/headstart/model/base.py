"""Loading a frozen base and its tokenizer."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from headstart.bases import BUNDLED_ID, BaseError, BaseSpec, Dtype, Quantization, base_folder, tokenizer_folder
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
    tokenizer = _tokenizer(spec, folder)
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


def load_tokenizer(spec: BaseSpec) -> Any:
    """The tokenizer alone, for looking at data without loading weights.

    Raises:
        BaseError: there is no base, or it has no tokenizer that can be read.
    """
    return _tokenizer(spec, tokenizer_folder(spec))


def _tokenizer(spec: BaseSpec, folder: Path) -> Any:
    with naming(spec, "the tokenizer (tokenizer.json, tokenizer_config.json)"):
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def naming(spec: BaseSpec, part: str) -> Iterator[None]:
    """Turn what transformers raises over broken files into an error that names the base; being out of memory is none of these."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BaseError(f"base {spec.id} from {spec.source!r}: transformers cannot load {part}: {reason}") from error


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
