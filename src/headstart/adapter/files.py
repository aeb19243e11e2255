"""Reading and writing adapter folders: a plain PEFT adapter first, our own files beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.errors import HeadstartError
from headstart.model.learner import LoraSpec

PEFT_PREFIX = "base_model.model."
SCHEMA_VERSION = 1


class AdapterError(HeadstartError):
    """An adapter folder cannot be used; the message says which file, why, and how to mend it."""


def write_peft(folder: Path, theta: Mapping[str, Tensor], lora: LoraSpec, base_id: str, revision: str | None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as stock PEFT reads them."""
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        layers_to_transform=None if lora.layers_to_transform is None else list(lora.layers_to_transform),
        fan_in_fan_out=lora.fan_in_fan_out,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        init_lora_weights=True,
        base_model_name_or_path=base_id,
        revision=revision,
        inference_mode=True,
    )
    config.save_pretrained(folder)
    tensors = {f"{PEFT_PREFIX}{name}.weight": tensor.detach().float().cpu().contiguous() for name, tensor in theta.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def read_peft(folder: Path) -> tuple[dict[str, Tensor], LoraSpec]:
    """Read a plain PEFT LoRA folder.

    Raises:
        AdapterError: a file is missing or broken, or the adapter uses what a plain LoRA has not.
    """
    config = read_json(folder / "adapter_config.json")
    unsupported = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
    if config.get("peft_type") != "LORA" or unsupported:
        raise AdapterError(f"{folder}/adapter_config.json: not a plain LoRA ({', '.join(unsupported) or config.get('peft_type')})")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    theta = {name.removeprefix(PEFT_PREFIX).removesuffix(".weight"): tensor.float() for name, tensor in tensors.items()}
    targets, layers = config["target_modules"], config.get("layers_to_transform")
    lora = LoraSpec(
        config["r"],
        config["lora_alpha"],
        targets if isinstance(targets, str) else tuple(sorted(targets)),
        None if layers is None else tuple([layers] if isinstance(layers, int) else layers),
        bool(config.get("fan_in_fan_out")),
    )
    return theta, lora


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise an `AdapterError` that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; is {path.parent} an adapter folder?") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: expected a JSON object")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or raise an `AdapterError` that names it."""
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; headstart reads safetensors only") from None
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file ({error})") from error
