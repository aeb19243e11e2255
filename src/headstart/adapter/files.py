"""Reading and writing adapter folders: a plain PEFT adapter first, our own files beside it."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch
from peft import LoraConfig
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.adapter.header import AdapterError, Entry, read_header, require_file
from headstart.model.learner import LoraSpec
from headstart.model.targets import matching
from headstart.recipe_errors import explain

T = TypeVar("T")
Header = Mapping[str, Entry]

MOST = 100_000
"""More than any rank or alpha."""
PEFT_PREFIX = "base_model.model."
SCHEMA_VERSION = 1


UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "use_bdlora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "lora_bias",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""Keys of PEFT's `LoraConfig` that change what an adapter computes; set, they make it no plain LoRA."""

NARROWING = ("exclude_modules", "layers_pattern")
"""Keys that take layers away from those that `target_modules` names."""

LARGEST = 2**26
"""Bytes of the largest JSON file believed: that of an adapter of many tasks' history takes about one megabyte."""

INITS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights alone; the others change them before training."""


def write_peft(folder: Path, theta: Mapping[str, Tensor], lora: LoraSpec, base_id: str, revision: str | None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` as stock PEFT reads them."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else sorted(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        target_modules=targets,
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
    # of which PEFT makes a set, written in another order by every process
    config.target_modules = targets
    config.save_pretrained(folder)
    tensors = {f"{PEFT_PREFIX}{name}.weight": tensor.detach().float().cpu().contiguous() for name, tensor in theta.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


class NamedBase(NamedTuple):
    """The base that `adapter_config.json` names."""

    id: str
    revision: str | None


def _whole(value: Any) -> Any:
    """A number as some write it, `16.0`, as the whole one that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class _PlainLora:
    """What `adapter_config.json` must say."""

    peft_type: Literal["LORA"]
    base_model_name_or_path: str
    r: Annotated[int, Field(ge=1, le=MOST)]
    lora_alpha: Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_whole)]
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)]
    layers_to_transform: tuple[int, ...] | int | None = None
    fan_in_fan_out: bool = False
    bias: Literal["none"] = "none"
    revision: str | None = None


def read_peft(folder: Path) -> tuple[dict[str, Tensor], LoraSpec, NamedBase]:
    """Read a plain PEFT LoRA folder: the tensors, their spec, and the base that it names.

    Raises:
        AdapterError: a file is missing or broken, the tensors are not what the configuration tells of, or the adapter uses what a
            plain LoRA has not; raised before any tensor is allocated, but for tensors that are not finite.
    """
    config = folder / "adapter_config.json"
    content = read_json(config)
    said = _plain_lora(content, config)
    weights = folder / "adapter_model.safetensors"
    if (folder / "adapter_model.bin").exists() and not weights.exists():
        raise AdapterError(
            f"{folder}: its weights are a pickle (adapter_model.bin), which can run code when loaded; headstart reads safetensors only. "
            "If you trust it, load it with PEFT and save it again: PeftModel.from_pretrained(base, folder).save_pretrained(folder)"
        )
    header = read_header(weights)
    layers = (said.layers_to_transform,) if isinstance(said.layers_to_transform, int) else said.layers_to_transform
    lora = LoraSpec(said.r, said.lora_alpha, tuple(sorted(said.target_modules)), layers, said.fan_in_fan_out)
    if any(content.get(key) for key in NARROWING):
        # what was left of the targets is what has tensors
        lora = replace(lora, target_modules=tuple(sites_of(header)), layers_to_transform=None)
    require_sites(header, lora, weights)
    theta = {name.removeprefix(PEFT_PREFIX).removesuffix(".weight"): tensor for name, tensor in finite_tensors(weights).items()}
    return theta, lora, NamedBase(said.base_model_name_or_path, said.revision)


def sites_of(header: Header) -> list[str]:
    """The adapted layers, by the names of the tensors."""
    return sorted({name.removeprefix(PEFT_PREFIX).partition(".lora_")[0] for name in header if ".lora_" in name})


def read_rates(path: Path, theta: Iterable[str], rank: int | None = None) -> dict[str, Tensor]:
    """Read learned rates of the tensors of an adapter: numbers `(K,)`, or where a rank r is given matrices `(K, r, r)`.

    Raises:
        AdapterError: the file is broken, or its rates do not fit the adapter, or a number is not positive, or a matrix is all zero.
    """
    require_rates(read_header(path), theta, path, rank)
    rates = finite_tensors(path)
    fits, fault = (_positive, "that is not positive") if rank is None else (_none_zero, "that is a matrix of zeros")
    bad = next((name for name, rate in rates.items() if not fits(rate)), None)
    if bad:
        raise AdapterError(f"{path}: {bad!r} has a rate {fault}; rates are learned as logarithms, so the file was changed")
    return rates


def _positive(rate: Tensor) -> bool:
    return bool((rate > 0).all())


def _none_zero(rate: Tensor) -> bool:
    return bool(rate.flatten(1).any(1).all())


def require_sites(header: Header, lora: LoraSpec, path: Path) -> None:
    """See that a header has the A `(r, d_in)` and the B `(d_out, r)` of sites that the targets name, and nothing else.

    Raises:
        AdapterError: it has not; the message names the tensor or target.
    """
    sites: dict[str, dict[str, Entry]] = {}
    for name, entry in header.items():
        found = re.fullmatch(rf"{re.escape(PEFT_PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if not found:
            raise AdapterError(f"{path}: {name!r} is no tensor of a plain LoRA, which are SITE.lora_A.weight and SITE.lora_B.weight")
        sites.setdefault(found[1], {})[found[2]] = entry
    if not sites:
        raise AdapterError(f"{path}: holds no tensors, so it adapts nothing; save the adapter again")
    for site, pair in sites.items():
        if len(pair) == 1:
            raise AdapterError(f"{path}: {site!r} has lora_{next(iter(pair))} alone; the file is incomplete, save it again")
        ranks = {"A": pair["A"].shape[:1], "B": pair["B"].shape[1:]}
        for side, rank in ranks.items():
            if rank != (lora.r,) or len(pair[side].shape) != 2:
                raise AdapterError(f"{path}: {site}.lora_{side} has shape {pair[side].shape}, which is not of rank r = {lora.r}")
    _require_targets(list(sites), lora, path)


def _require_targets(sites: list[str], lora: LoraSpec, path: Path) -> None:
    """See that PEFT, given a base with these sites, would adapt them all, and that it would miss none."""
    layers = lora.layers_to_transform
    stray = set(sites).difference(matching(sites, lora.target_modules, layers))
    if stray:
        raise AdapterError(f"{path}: {min(stray)!r} is none of adapter_config.json's target_modules; the two files are not of one adapter")
    idle = next((target for target in lora.target_modules if not matching(sites, [target], layers)), None)
    if idle:
        raise AdapterError(f"{path}: no tensor for {idle!r} of adapter_config.json's target_modules; the two files are not of one adapter")


def require_rates(header: Header, theta: Iterable[str], path: Path, rank: int | None = None) -> None:
    """See that a header has rates `(K,)`, or of a rank r `(K, r, r)`, for every tensor of an adapter and for no other, K the same for all.

    Raises:
        AdapterError: it has not; the message names the tensor.
    """
    odd = sorted(header.keys() ^ set(theta))
    if odd:
        where = "in the rates alone" if odd[0] in header else "without rates"
        raise AdapterError(f"{path}: does not fit the adapter: {odd[0]!r} is {where}; the two files are not of one adapter")
    shapes = {name: entry.shape for name, entry in header.items()}
    matrix = () if rank is None else (rank, rank)
    bad = [name for name, shape in shapes.items() if not shape or not shape[0] or shape[1:] != matrix]
    if bad or len(set(shapes.values())) > 1:
        name = next(iter(bad), next(reversed(shapes)))
        one = "(K,)" if rank is None else f"(K, {rank}, {rank})"
        raise AdapterError(f"{path}: {name!r} has shape {shapes[name]}; rates are {one}, one for each step, K the same for all tensors")


def finite_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file whose header was checked, in float32; raises `AdapterError` where one is not finite."""
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file ({error})") from error
    bad = next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)
    if bad:
        raise AdapterError(f"{path}: {bad!r} holds NaN or infinity; the run that made it diverged, so use an earlier save")
    return tensors


def _plain_lora(config: Mapping[str, Any], path: Path) -> _PlainLora:
    used = [key for key in UNSUPPORTED if config.get(key)]
    if used:
        raise AdapterError(f"{path}: {used[0]} is set, so this is no plain LoRA, which is all that headstart and every server read")
    if config.get("init_lora_weights", True) not in INITS:
        raise AdapterError(
            f"{path}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base's own weights; convert it to a plain "
            "LoRA with PEFT's save_pretrained(folder, path_initial_model_for_weight_conversion=...)"
        )
    return from_json(_PlainLora, config, path)


def from_json(kind: type[T], content: Mapping[str, Any], path: Path) -> T:
    """A dataclass from a JSON object, of which nothing is converted to fit; keys that it has no field for are left aside.

    Raises:
        AdapterError: a key is missing or its value of another type; the message names the file and every such key.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        broken = next((each["msg"] for each in error.errors() if each["type"] == "json_invalid"), None)
        if broken:
            # the text itself, which pydantic shows, may be long
            raise AdapterError(f"{path}: cannot be used as JSON ({broken})") from None
        raise AdapterError(f"{path}: {'; '.join(explain(error, content, adapter.json_schema()))}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of finite numbers, or raise an `AdapterError` that names the file."""
    try:
        require_file(path, LARGEST)
        content = json.loads(path.read_text(encoding="utf-8"))
        odd = next(_not_finite(content), None)
    except AdapterError:
        raise
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; is {path.parent} an adapter folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path}: expected a JSON object")
    if odd:
        raise AdapterError(f"{path}: {odd} is no finite number, which alone JSON has; copy or save the file again")
    return content


def _not_finite(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of what Python reads as a number though JSON has none such."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path.removeprefix(".") or str(value)
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(each, f"{path}.{key}")
