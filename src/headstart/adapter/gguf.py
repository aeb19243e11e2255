"""Exporting an adapter to GGUF, the format of llama.cpp, which takes it beside a GGUF of the base.

What llama.cpp asks for is read off its converter and loader (convert_lora_to_gguf.py and llama-adapter.cpp, 2026): the metadata
`general.type = adapter`, the base's architecture, `adapter.type = lora` and `adapter.lora.alpha`; tensors named as the base's, with
`.lora_a` `(r, d_in)` and `.lora_b` `(d_out, r)` behind; the scale is alpha over the second axis of B.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from headstart.adapter.header import AdapterError
from headstart.adapter.stored import StoredAdapter, read_adapter
from headstart.files import require_free, require_writable, writing
from headstart.model.base import base_folder, naming

Precision = Literal["float32", "float16"]
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Converted:
    """How llama.cpp's converter treats a kind of models.

    Args:
        arch: its name in GGUF.
        permuted: whether the rows of the query and key projections are put into another order, for rotary embeddings by pairs of
            neighbours instead of halves.
    """

    arch: str
    permuted: bool = False


ARCHITECTURES = {
    "LlamaForCausalLM": Converted("llama", permuted=True),
    "MistralForCausalLM": Converted("llama", permuted=True),
    "SmolLM3ForCausalLM": Converted("smollm3", permuted=True),
    "GraniteForCausalLM": Converted("granite", permuted=True),
    "Qwen2ForCausalLM": Converted("qwen2"),
    "Qwen3ForCausalLM": Converted("qwen3"),
    "GemmaForCausalLM": Converted("gemma"),
    "Gemma2ForCausalLM": Converted("gemma2"),
    "Gemma3ForCausalLM": Converted("gemma3"),
    "Gemma3ForConditionalGeneration": Converted("gemma3"),
    "Phi3ForCausalLM": Converted("phi3"),
    "Olmo2ForCausalLM": Converted("olmo2"),
}
"""transformers' class -> what becomes of it."""


def export_gguf(adapter: str | Path, output: str | Path, *, precision: Precision = "float32", base_source: str | None = None) -> Path:
    """Write an adapter as a GGUF LoRA, whole or not at all; of the base its configuration alone is read.

    Args:
        adapter: an adapter folder, or a shipped adapter's name.
        output: the file to write, `NAME.gguf`; nothing is written over.
        precision: of the numbers.
        base_source: where the base's files lie, if not as the adapter says.

    Returns:
        The file.

    Raises:
        AdapterError: the package `gguf` is not there; or the adapter cannot be read, is of a kind of models whose conversion is not
            known here, or adapts a layer that has no name in GGUF or another size, or holds numbers too large for the precision.
        BaseError: the base's configuration cannot be read.
        WriteError: the file cannot be written.
    """
    path = Path(output)
    if path.suffix != ".gguf":
        named = path.with_suffix(".gguf") if path.suffix.lower() == ".gguf" else f"{path}.gguf"
        raise AdapterError(f"{output}: llama.cpp knows its files by their ending; name it {named}")
    stored, gguf = read_adapter(adapter), _package()
    require_free(path)
    require_writable(path)
    config = _config(stored, base_source)
    kind = _converted(stored, config)
    _require_fit(stored, config)
    _require_range(stored, precision)
    tensors = dict(_tensors(stored, config, kind, gguf))
    with writing(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        fresh = Path(scratch) / path.name
        _write(fresh, stored, kind, tensors, precision, gguf)
        fresh.replace(path)
    return path


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise AdapterError("exporting to GGUF takes the package gguf; run `pip install 'headstart[gguf]'`") from None
    return gguf


def _config(stored: StoredAdapter, source: str | None) -> Any:
    spec = stored.base_from(source)
    folder = base_folder(spec, weights=False)
    with naming(spec, "the configuration (config.json)"):
        return AutoConfig.from_pretrained(folder)


def _converted(stored: StoredAdapter, config: Any) -> Converted:
    names = config.architectures or ()
    found = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if found is None:
        raise AdapterError(
            f"{stored.name}: how llama.cpp lays out {', '.join(names) or 'this base'} is not known here, so its adapters are not exported; "
            f"known are {', '.join(ARCHITECTURES)}. Merge it (`headstart merge`) and convert the whole model instead"
        )
    return found


def _require_fit(stored: StoredAdapter, config: Any) -> None:
    """See that every layer is there, of the tensors' size; no weight is allocated."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = dict(model.named_modules())
    for name, tensor in stored.phi.items():
        site, _, side = name.rpartition(".")
        axis = 1 if side == "lora_A" else 0
        weight = getattr(layers.get(site), "weight", None)
        wanted = None if weight is None else weight.shape[axis]
        if wanted != tensor.shape[axis]:
            is_of = "there is no such layer" if wanted is None else f"the layer takes {wanted} there"
            raise AdapterError(f"{stored.name}: does not fit {stored.base.id}: {name} has shape {tuple(tensor.shape)}, and {is_of}")


def _require_range(stored: StoredAdapter, precision: Precision) -> None:
    most = torch.finfo(getattr(torch, precision)).max
    large = next((name for name, tensor in stored.phi.items() if tensor.abs().max() > most), None)
    if large:
        raise AdapterError(f"{stored.name}: {large} holds numbers too large for {precision}; export it in float32")


def _tensors(stored: StoredAdapter, config: Any, kind: Converted, gguf: Any) -> Iterator[tuple[str, Array]]:
    """The tensors under GGUF's names, in the order of its rows."""
    text = config.get_text_config()
    arch = next(each for each, name in gguf.MODEL_ARCH_NAMES.items() if name == kind.arch)
    names = gguf.get_tensor_name_map(arch, text.num_hidden_layers)
    for name, tensor in stored.phi.items():
        site, _, side = name.rpartition(".")
        # of a model that sees too, the text's part has the names of the text model alone
        base = names.get_name(f"{site.replace('language_model.', '')}.weight", try_suffixes=(".weight",))
        if base is None:
            raise AdapterError(f"{stored.name}: {site} has no name in GGUF's architecture {kind.arch!r}; such layers cannot be exported")
        array = tensor.numpy()
        heads = _heads(site, text) if kind.permuted and side == "lora_B" else None
        if heads and len(array) % (2 * heads):
            raise AdapterError(f"{stored.name}: {site} has {len(array)} outputs, no multiple of two for each of the base's {heads} heads")
        yield f"{base}.{'lora_a' if side == 'lora_A' else 'lora_b'}", array if heads is None else by_neighbours(array, heads)


def _heads(site: str, text: Any) -> int | None:
    """How many heads the rows of a projection make up, if it is of queries or keys."""
    heads: Mapping[str, int] = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}
    return heads.get(site.rpartition(".")[2])


def by_neighbours(rows: Array, heads: int) -> Array:
    """Rows `(heads * d, n)` whose halves are rotated together, in the order in which neighbours are: 0, d/2, 1, d/2 + 1, ..."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def _write(path: Path, stored: StoredAdapter, kind: Converted, tensors: Mapping[str, Array], precision: Precision, gguf: Any) -> None:
    writer = gguf.GGUFWriter(path, kind.arch)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(stored.name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        # a whole number here would end the process that loads it
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(stored.lora.lora_alpha))
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, stored.base.id.rpartition("/")[2])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{stored.base.id}")
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for name, array in tensors.items():
            writer.add_tensor(name, np.ascontiguousarray(array, dtype=precision))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
