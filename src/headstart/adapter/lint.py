"""`headstart lint`: whether the servers that people run load an adapter, and compute with it what PEFT does.

What each of them refuses, or gets wrong in silence, was read in vLLM 0.33.0, SGLang 0.5.23, llama.cpp 0c1e57098 and PEFT 0.21.2.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from headstart.adapter.files import (
    INITS,
    MOST,
    NARROWING,
    PEFT_PREFIX,
    UNSUPPORTED,
    Header,
    finite_tensors,
    from_json,
    read_json,
    sites_of,
)
from headstart.adapter.header import AdapterError, read_header
from headstart.adapter.hub import CONFIG, base_fault
from headstart.adapter.places import adapter_folder
from headstart.checking.findings import Findings
from headstart.model.targets import ALL_LINEAR, TargetError, matching
from headstart.tasks.problems import Level, Place, Problem

Engine = Literal["vllm", "sglang", "llama.cpp", "peft"]
Severity = Literal["error", "warning", "asked"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
SERVERS: tuple[Engine, ...] = ("vllm", "sglang", "llama.cpp")
WEIGHTS = "adapter_model.safetensors"

RANKS = (8, 16, 32, 64)
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank, of which 16 is the default."""
VLLM_DEFAULT = 16
INNER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")
"""Layers that all engines adapt, in the architectures that share these names."""
OUTER = ("embed_tokens", "lm_head")
MERGE = "merge it with PEFT (merge_and_unload)"


@dataclass(frozen=True)
class Lora:
    """What every LoRA's configuration says, of the kinds that PEFT writes."""

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=MOST)]
    lora_alpha: Annotated[float, Field(gt=0, le=MOST)] = 8
    target_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] | int | None = None
    init_lora_weights: bool | str = True


@dataclass(frozen=True)
class Adapter:
    """What lint looks at: a configuration, the same by keys, and the header of its weights."""

    lora: Lora
    config: Mapping[str, Any]
    header: Header

    @property
    def rank(self) -> int:
        """As the configuration says."""
        return self.lora.r

    @property
    def sites(self) -> list[str]:
        """The adapted layers, by the names of the tensors."""
        return sites_of(self.header)

    @property
    def layers(self) -> set[str]:
        """The last parts of the adapted layers' names."""
        return {site.rpartition(".")[2] for site in self.sites}


@dataclass(frozen=True)
class Rule:
    """One thing that engines ask for.

    Args:
        engines: those that refuse an adapter without it, or compute something else.
        broken: what is wrong and how to mend it, or None.
        level: `error` where they do, `warning` where an option of theirs helps or not all of their versions do; `asked` where one server
            alone does, which is an error to those who ask for that server, and a warning to others.
    """

    engines: tuple[Engine, ...]
    broken: Callable[[Adapter], str | None]
    level: Severity = "error"


def lint(adapter: str | Path, engines: Sequence[Engine] = ENGINES) -> Findings:
    """See whether engines can use an adapter as it lies.

    Args:
        adapter: an adapter folder, a shipped adapter's name, or `OWNER/NAME` on the hub.
        engines: of `vllm`, `sglang`, `llama.cpp` and `peft`, those that matter.

    Returns:
        What is wrong; an `error` is what an engine refuses or gets wrong.

    Raises:
        AdapterError: there is no such adapter.
    """
    folder = adapter_folder(adapter)
    findings = Findings(str(adapter), "adapter")
    with findings.noting(AdapterError):
        read = _read(folder)
        for problem in _problems(read, folder, engines):
            findings.add(problem)
    return findings


def require_portable(folder: Path) -> None:
    """See that every engine can use the adapter in a folder.

    Raises:
        AdapterError: one cannot; the message names the first reason.
    """
    error = next((problem for problem in lint(folder).problems if problem.level == "error"), None)
    if error:
        raise AdapterError(str(error))


def _read(folder: Path) -> Adapter:
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{folder / CONFIG}: peft_type is {config.get('peft_type')!r}; all engines read LORA, and nothing else by all")
    adapter = Adapter(from_json(Lora, config, folder / CONFIG), config, read_header(folder / WEIGHTS))
    if not adapter.sites:
        raise AdapterError(f"{folder / WEIGHTS}: holds no tensors of a LoRA, so it adapts nothing; save the adapter again")
    finite_tensors(folder / WEIGHTS)
    return adapter


def _problems(adapter: Adapter, folder: Path, engines: Sequence[Engine]) -> Iterator[Problem]:
    for rule in RULES:
        concerned = [engine for engine in rule.engines if engine in engines]
        text = rule.broken(adapter) if concerned else None
        if text:
            yield Problem(f"{', '.join(concerned)}: {text}", Place(str(folder / CONFIG)), level=_level(rule.level, engines))
    if "sglang" in engines:
        for name, text in _beside(folder):
            yield Problem(f"sglang: {text}", Place(str(folder / name)), level=_level("asked", engines))


def _level(severity: Severity, engines: Sequence[Engine]) -> Level:
    if severity == "asked":
        return "warning" if set(ENGINES) == set(engines) else "error"
    return severity


def _beside(folder: Path) -> Iterator[tuple[str, str]]:
    """Files that SGLang minds."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != WEIGHTS:
            yield path.name, f"every .safetensors file here is read as the adapter's; serve what was adapted, or a copy without {path.name}"
    if (folder / "added_tokens.json").exists():
        yield "added_tokens.json", "adapters that add tokens are refused; take the file out if they are the base's own"


def _set(key: str, mend: str) -> Callable[[Adapter], str | None]:
    """A rule that a key is empty."""
    return lambda adapter: f"{key} is {adapter.config[key]!r}; {mend}" if adapter.config.get(key) else None


def _rslora(adapter: Adapter) -> str | None:
    if not adapter.config.get("use_rslora"):
        return None
    factor = math.sqrt(adapter.rank)
    return f"use_rslora is left unheeded, so updates are sqrt(r) times too weak; set it to false and multiply every lora_B by {factor:.6g}"


def _bias(adapter: Adapter) -> str | None:
    bias = adapter.config.get("bias", "none")
    return f"bias is {bias!r}, which is refused or dropped; train with bias none" if bias != "none" else None


def _init(adapter: Adapter) -> str | None:
    init = adapter.lora.init_lora_weights
    if init in INITS:
        return None
    return (
        f"init_lora_weights is {init!r}, which changed the base's own weights; convert it to a plain LoRA by PEFT's "
        "save_pretrained(folder, path_initial_model_for_weight_conversion=...)"
    )


def _other(adapter: Adapter) -> str | None:
    key = next((key for key in UNSUPPORTED if adapter.config.get(key) and key not in TOLD), None)
    return f"{key} is set, so this is no plain LoRA; train without it" if key else None


def _targets(adapter: Adapter) -> str | None:
    targets = adapter.lora.target_modules
    if targets == ALL_LINEAR or (isinstance(targets, tuple) and targets):
        return None
    names = ", ".join(sorted(adapter.layers))
    return f"target_modules is {targets!r}, where a list of suffixes is wanted; write [{names}], if that is all and always meant"


def _whole_names(adapter: Adapter) -> str | None:
    targets = adapter.lora.target_modules
    long = next((each for each in targets if "." in each), None) if isinstance(targets, tuple) else None
    return f"target_modules names {long!r} by more than its suffix; adapt the same layers in every block" if long else None


def _outer(adapter: Adapter) -> str | None:
    found = sorted(adapter.layers.intersection(OUTER))
    return f"{found[0]} is adapted, which bases with tied embeddings have not; adapt attention and MLP layers alone" if found else None


def _unknown(adapter: Adapter) -> str | None:
    found = sorted(adapter.layers.difference(INNER, OUTER))
    return f"{found[0]} is adapted, which is none of {', '.join(INNER)}; try it on the engine before you rely on it" if found else None


def _partial(adapter: Adapter) -> str | None:
    """SGLang keeps projections that it computes together in one buffer, and takes the second of a kind to come with the first."""
    blocks: dict[str, set[str]] = {}
    for site in adapter.sites:
        block, _, layer = site.rpartition(".")
        blocks.setdefault(block, set()).add(layer)
    for block, layers in blocks.items():
        for present, absent in (("q_proj", "v_proj"), ("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
            if present in layers and absent not in layers:
                return f"{present} is adapted without {absent} in {block}, which it cannot load or run; adapt both"
    return None


def _large(adapter: Adapter) -> str | None:
    most = next((rank for rank in VLLM_RANKS if rank >= adapter.rank), None)
    if most is None or adapter.rank <= VLLM_DEFAULT:
        return None
    return f"r is {adapter.rank}; start the server with --max-lora-rank {most}"


def _too_large(adapter: Adapter) -> str | None:
    if adapter.rank <= VLLM_RANKS[-1]:
        return None
    return f"r is {adapter.rank}, more than its largest --max-lora-rank, {VLLM_RANKS[-1]}; train at a smaller rank"


def _odd_rank(adapter: Adapter) -> str | None:
    if adapter.rank in RANKS or adapter.rank > RANKS[-1]:
        return None
    return f"r is {adapter.rank}; ranks that all are used with are {', '.join(map(str, RANKS))}"


def _missing(key: str) -> Callable[[Adapter], str | None]:
    return lambda adapter: None if key in adapter.config else f"{key} is missing; write what the adapter was trained with"


def _named_otherwise(adapter: Adapter) -> str | None:
    odd = next((name for name in adapter.header if ".lora_" in name and not name.endswith((".lora_A.weight", ".lora_B.weight"))), None)
    return (
        f"{odd!r} does not end in lora_A.weight or lora_B.weight; save it with PEFT, which leaves the adapter's name out" if odd else None
    )


def _no_lora(adapter: Adapter) -> str | None:
    if adapter.config.get("modules_to_save") or adapter.config.get("trainable_token_indices"):
        return None
    other = next((name for name in adapter.header if ".lora_" not in name), None)
    return (
        f"{other!r} is no part of a LoRA, as PEFT saves it of embeddings whose size changed; it is refused, or dropped in silence: train "
        f"without new tokens, or {MERGE}"
        if other
        else None
    )


def _idle(adapter: Adapter) -> str | None:
    targets, layers = adapter.lora.target_modules, adapter.lora.layers_to_transform
    if not isinstance(targets, tuple) or not targets:
        return None
    numbers = [layers] if isinstance(layers, int) else layers
    idle = next((each for each in targets if not matching(adapter.sites, [each], numbers)), None)
    return f"no tensor is of {idle!r}, one of target_modules, so it stays as it was; the files are not of one adapter" if idle else None


def _halves(adapter: Adapter) -> str | None:
    sides = (".lora_A.weight", ".lora_B.weight")
    lone = next((site for site in adapter.sites if sum(f"{site}{side}" in _bare(adapter) for side in sides) == 1), None)
    return f"{lone} has one of lora_A and lora_B alone; the file is incomplete, save it again" if lone else None


def _bare(adapter: Adapter) -> set[str]:
    return {name.removeprefix(PEFT_PREFIX) for name in adapter.header}


def _other_rank(adapter: Adapter) -> str | None:
    if adapter.config.get("rank_pattern"):
        return None
    for name, entry in adapter.header.items():
        axis = 0 if name.endswith(".lora_A.weight") else 1 if name.endswith(".lora_B.weight") else None
        if axis is not None and (len(entry.shape) != 2 or entry.shape[axis] != adapter.rank):
            return f"{name} has shape {entry.shape}, which is not of rank r = {adapter.rank}; the two files are not of one adapter"
    return None


def _prefix(adapter: Adapter) -> str | None:
    bare = next((name for name in adapter.header if not name.startswith(PEFT_PREFIX)), None)
    return f"{bare!r} does not begin with {PEFT_PREFIX}, so nothing is loaded, with a warning alone; rename the tensors" if bare else None


def _stray(adapter: Adapter) -> str | None:
    targets, layers = adapter.lora.target_modules, adapter.lora.layers_to_transform
    if not targets or targets == ALL_LINEAR:
        return None
    try:
        found = matching(adapter.sites, targets, [layers] if isinstance(layers, int) else layers)
    except TargetError as error:
        return str(error)
    stray = sorted(set(adapter.sites).difference(found))
    return f"{stray[0]} has tensors but is none of target_modules, so they are dropped in silence; add its suffix" if stray else None


def _base(adapter: Adapter) -> str | None:
    base = adapter.config.get("base_model_name_or_path")
    fault = base_fault(base)
    return f"base_model_name_or_path is {base!r}, {fault}; write the base's id on the hub, OWNER/NAME" if fault else None


TOLD = (
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices", "lora_bias"),
    # which leave the adapter as it is
    *("target_parameters", *NARROWING),
)
"""Keys that rules of their own tell of, or that no engine minds."""

RULES = (
    Rule(("peft",), _prefix),
    Rule(("vllm", "llama.cpp"), _named_otherwise),
    Rule(SERVERS, _no_lora),
    Rule(("peft",), _idle),
    Rule(("llama.cpp", "peft"), _halves),
    Rule(("vllm", "sglang", "peft"), _other_rank),
    Rule(SERVERS, _missing("lora_alpha")),
    Rule(("vllm", "sglang"), _missing("target_modules")),
    Rule(("peft",), _stray),
    Rule(SERVERS, _set("use_dora", f"no server adds DoRA's magnitudes; train a plain LoRA, or {MERGE}")),
    Rule(("sglang", "llama.cpp"), _rslora),
    Rule(("sglang",), _set("rank_pattern", "ranks that differ are refused; train at one rank")),
    Rule(("vllm",), _set("rank_pattern", "vLLM before 0.32 takes r for all layers; train at one rank"), "warning"),
    Rule(("sglang", "llama.cpp"), _set("alpha_pattern", "left unheeded, so scales are wrong; fold it into lora_B")),
    Rule(("vllm",), _set("alpha_pattern", "vLLM before 0.32 takes lora_alpha for all layers; fold it into lora_B"), "warning"),
    Rule(SERVERS, _bias),
    Rule(SERVERS, _set("lora_bias", "it is refused or dropped; train without it")),
    Rule(SERVERS, _set("modules_to_save", f"whole layers are refused or dropped; train without, or {MERGE}")),
    Rule(SERVERS, _set("trainable_token_indices", f"new tokens are refused or dropped; train without, or {MERGE}")),
    Rule(("sglang", "llama.cpp"), _set("target_parameters", "experts' parameters are not adapted; target linear layers")),
    Rule(ENGINES, _init),
    Rule(ENGINES, _other),
    Rule(("sglang",), _targets),
    Rule(("sglang",), _whole_names, "warning"),
    Rule(("llama.cpp",), _outer),
    Rule(SERVERS, _unknown, "warning"),
    Rule(("sglang",), _partial, "asked"),
    Rule(("vllm",), _too_large),
    Rule(("vllm",), _large, "warning"),
    Rule(SERVERS, _odd_rank, "warning"),
    Rule(ENGINES, _base, "warning"),
)
