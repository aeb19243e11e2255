"""Merging: an adapter's update added to its base's own weights, saved as a model that needs neither PEFT nor headstart."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from headstart.adapter.card import write_merged_card
from headstart.adapter.header import AdapterError
from headstart.adapter.stored import StoredAdapter, read_adapter
from headstart.files import require_free, require_writable, whole_folder, write_json
from headstart.model.base import DTYPES, Base, Dtype, base_folder, load_base, naming
from headstart.model.four_bit import dense_weight, is_four_bit
from headstart.model.learner import Learner
from headstart.model.sites import LINEAR, handing
from headstart.progress import say
from headstart.tasks.builtin import builtin_suite
from headstart.tasks.render import Renderer

Onto = Literal["original", "dequantized"]
KIND = "merged_model"
PROMPTS = 16
"""Requests by which a merged model is compared with the adapter on its base."""


@dataclass(frozen=True)
class Difference:
    """How a merged model's logits differ from those of the adapter on its base, over every token of some requests.

    Args:
        largest: the largest absolute difference of two logits.
        spread: the standard deviation of the adapter model's logits, to see the former by.
        divergence: mean Kullback-Leibler divergence of the next token's distribution, from the adapter model to the merged one, in nats.
        same_token: the share of positions at which both have the same likeliest token.
        tokens: how many positions were compared.
    """

    largest: float
    spread: float
    divergence: float
    same_token: float
    tokens: int

    def __str__(self) -> str:
        return (
            f"logits differ by at most {self.largest:.3g} (their standard deviation is {self.spread:.3g}), the likeliest token is the same "
            f"at {self.same_token:.1%} of {self.tokens} positions, and the mean divergence is {self.divergence:.2g} nats"
        )


@dataclass(frozen=True)
class Merged:
    """A merged model.

    Args:
        folder: where it lies.
        onto: the weights that the update was added to.
        difference: from the adapter on the base that it was trained on.
    """

    folder: Path
    onto: Onto
    difference: Difference


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    onto: Onto | None = None,
    dtype: Dtype | None = None,
    max_shard_size: str = "5GB",
    base_source: str | None = None,
    allow_base_variant: bool = False,
    console: Console | None = None,
) -> Merged:
    """Add `alpha / r * B A` to the weights of an adapter's base and save the model, as transformers saves one.

    An adapter that was trained on 4-bit weights has learned to live with their rounding. Onto `dequantized` weights the sum is what it was
    trained to be, and the model has 4-bit precision in 16 bit; onto the `original` ones it gets weights that it has not seen.

    Args:
        adapter: an adapter folder, or a shipped adapter's name.
        output: the folder to write, whole or not at all; a new or an empty one.
        onto: `original` or `dequantized`; by default what the adapter was trained on.
        dtype: the merged weights' type; where None that of the base as the adapter was trained on it, bfloat16 where it does not tell.
        max_shard_size: of one weights file, as in transformers.
        base_source: where the base's weights come from, if not as the adapter says.
        allow_base_variant: accept other weights of the same base.
        console: prints the difference.

    Returns:
        The folder, and by how much the logits of the saved model, loaded again, differ from those of the adapter on its base.

    Raises:
        AdapterError: the adapter or its base cannot be used, or `dequantized` was asked for of a base that was not quantised, or an
            update is too large for the type.
        BaseError: the base cannot be loaded.
        WriteError: the folder cannot be written.
    """
    stored, console, output = read_adapter(adapter), console or Console(), Path(output)
    stored, onto = _as_trained(stored, onto)
    _require_size(max_shard_size)
    require_free(output)
    require_writable(output)
    base = load_base(stored.base_from(base_source))
    stored.require_base(base, allow_base_variant)
    requests = _requests(base, stored)
    expected = _logits_with_adapter(base, stored, requests)
    model = _dense(base, dtype or base.spec.dtype)
    if onto == "dequantized":
        _take_rounded(model, base.model)
    _add_updates(model, stored)
    with whole_folder(output) as fresh:
        model.save_pretrained(fresh, max_shard_size=max_shard_size)
        base.tokenizer.save_pretrained(fresh)
        # one model less in memory while the saved one is loaded
        del model
        found = difference(expected, _logits_saved(fresh, requests, base.device))
        about = {
            "kind": KIND,
            "adapter": stored.name,
            "onto": onto,
            "base": {**asdict(base.spec), "fingerprint": base.fingerprint},
            "instruction": stored.instruction,
            "difference": asdict(found),
        }
        write_json(fresh / "headstart.json", about)
        write_merged_card(fresh, about, str(found))
    say(console, f"merged {stored.name} onto the {onto} weights of {stored.base.id}: {found}", f"wrote {output}")
    return Merged(output, onto, found)


def _as_trained(stored: StoredAdapter, onto: Onto | None) -> tuple[StoredAdapter, Onto]:
    """The adapter with the base that it was trained on, and what it is merged onto.

    An adapter of another maker does not say how its base was quantised: not at all, unless the user says `dequantized`.
    """
    if stored.fingerprint is None and onto != "dequantized":
        stored = replace(stored, base=replace(stored.base, quantization="none"))
    quantised = stored.base.quantization != "none"
    if onto == "dequantized" and not quantised:
        raise AdapterError(f"{stored.name}: its base was not quantised, so nothing can be dequantised; merge it onto the original weights")
    return stored, onto or ("dequantized" if quantised else "original")


def _require_size(text: str) -> None:
    if not re.fullmatch(r"\d+(\.\d+)?(KB|MB|GB|TB)", text, re.IGNORECASE):
        raise AdapterError(f"--max-shard-size {text!r}: give a number of bytes in words, such as 5GB or 500MB")


def _requests(base: Base, stored: StoredAdapter) -> list[tuple[int, ...]]:
    """Token ids of requests behind the adapter's instruction, or where it has none behind those of the builtin tasks they come from."""
    renderer = Renderer(base.tokenizer, stored.max_length, base.spec.chat_template_kwargs)
    tasks = list(builtin_suite().tasks.values())
    chosen = [tasks[number * len(tasks) // PROMPTS] for number in range(PROMPTS)]
    return [renderer.prompt(stored.instruction or task.instruction, task.examples[0].input) for task in chosen]


@torch.no_grad()
def _logits_with_adapter(base: Base, stored: StoredAdapter, requests: list[tuple[int, ...]]) -> Tensor:
    phi = {name: tensor[None].to(base.device) for name, tensor in stored.phi.items()}
    with Learner(base, stored.lora) as learner, handing(learner.sites, phi):
        return _logits(base.model, requests, base.device)


@torch.no_grad()
def _logits_saved(folder: Path, requests: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """Of the saved model, loaded as anybody would."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map={"": str(device)}).eval()
    return _logits(model, requests, device)


def _logits(model: Any, requests: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """At every token of all requests `(N, V)`, on the host."""
    each = (model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits for ids in requests)
    return torch.cat([logits[0].float().cpu() for logits in each])


def _dense(base: Base, dtype: Dtype) -> Any:
    """The base's weights as they were saved, in a stock model on the host."""
    with naming(base.spec, "the model"):
        return AutoModelForCausalLM.from_pretrained(base_folder(base.spec), dtype=DTYPES[dtype], use_safetensors=True)


def _take_rounded(model: Any, quantised: nn.Module) -> None:
    """Replace what was kept in 4 bit by what that stands for."""
    for name, module in quantised.named_modules():
        if is_four_bit(module):
            weight = model.get_submodule(name).weight
            weight.data = dense_weight(module, weight.dtype).cpu()


def _add_updates(model: Any, stored: StoredAdapter) -> None:
    """Add every site's update in float32, and round the sum once."""
    for site, update in _updates(stored.phi, stored.lora.scale):
        layer = model.get_submodule(site)
        assert isinstance(layer, LINEAR)
        # GPT-2 keeps its weights transposed
        change = update if isinstance(layer, nn.Linear) else update.T
        merged = (layer.weight.data.float() + change).to(layer.weight.dtype)
        if not torch.isfinite(merged).all():
            raise AdapterError(f"{stored.name}: merged, {site} holds numbers too large for {layer.weight.dtype}; choose another --dtype")
        layer.weight.data = merged


def _updates(phi: Mapping[str, Tensor], scale: float) -> Iterator[tuple[str, Tensor]]:
    """Each site's `scale * B A`, `(d_out, d_in)`."""
    for name, a in phi.items():
        site, _, side = name.rpartition(".")
        if side == "lora_A":
            yield site, scale * phi[f"{site}.lora_B"] @ a


def difference(expected: Tensor, found: Tensor) -> Difference:
    """How the logits `(N, V)` of two models differ."""
    log_p, log_q = F.log_softmax(expected, -1), F.log_softmax(found, -1)
    return Difference(
        largest=float((expected - found).abs().max()),
        spread=float(expected.std()),
        divergence=float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        same_token=float((expected.argmax(-1) == found.argmax(-1)).float().mean()),
        tokens=len(expected),
    )
