"""Decoder layers under the learner's hand: computed again on the way back, or not at all where nothing below has changed."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from headstart.errors import HeadstartError
from headstart.model.block_attention import BLOCKS, attention
from headstart.model.remat import again, checkpointed
from headstart.model.sites import LoraSite, Phi, handing
from headstart.model.twins import asks_for_more, in_forward_mode
from headstart.tasks.rows import Rows

KEY = "frozen layers"


COMPILERS = ("c++", "g++", "clang++")


def decoder_layers(model: Any) -> dict[str, nn.Module]:
    """A causal language model's decoder layers by name; those of a tower for images, which text never goes through, are none."""
    inside = under_decoder(model)
    return {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer) and inside(name)}


def under_decoder(model: Any) -> Callable[[str], bool]:
    """Whether a module's name lies in the part of a model that text goes through."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    return lambda name: not prefix or name.startswith(f"{prefix}.")


class RematerialisationError(HeadstartError):
    """A base has no layers that could be computed again."""


class CompileError(HeadstartError):
    """Layers cannot be compiled; the message says why, and how to mend it."""


@dataclass
class _Reuse:
    """The frozen layers of one pass.

    Args:
        owner: whose layers they are.
        count: how many there are, from the lowest on.
        adapters: the tensors of their sites, and how often each had been written to: what their outputs depend on beside the rows.
        hidden: what they put out; None until it was computed.
    """

    owner: "DecoderLayers"
    count: int
    adapters: tuple[tuple[Tensor, int], ...]
    hidden: Tensor | None = None

    def same(self, other: "_Reuse") -> bool:
        if self.owner is not other.owner or self.count != other.count:
            return False
        pairs = zip(self.adapters, other.adapters, strict=True)
        return all(a is b and at == then for (a, at), (b, then) in pairs)


class DecoderLayers:
    """Takes over the forward of a base's decoder layers, in place; `close` gives it back.

    Args:
        model: the base with its sites.
        sites: the sites by name.
        gradient_checkpointing: compute layers again in every pass; else only inside `computed_again`.
        compiled: fuse what stands between a layer's sites and its attention by `torch.compile`, for gradients of first order.

    Raises:
        RematerialisationError: `gradient_checkpointing`, and no site lies in a decoder layer.
        CompileError: `compiled`, and there is nothing to compile, or no compiler.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, LoraSite], gradient_checkpointing: bool, compiled: bool = False) -> None:
        layers = decoder_layers(model)
        self.layers = list(layers.values())
        self.device = next(model.parameters()).device
        self.sites = [{key: site for key, site in sites.items() if key.startswith(f"{name}.")} for name in layers]
        if gradient_checkpointing and not any(self.sites):
            raise RematerialisationError(
                f"run.gradient_checkpointing: {type(model).__name__} has no decoder layers that can be computed again; set it to false"
            )
        # what stands below the first site is not on the way back, and keeps nothing anyway
        self.first = next((index for index, inside in enumerate(self.sites) if inside), len(self.layers))
        self.active = gradient_checkpointing
        self.compiled = self._compile(sites.values()) if compiled else {}
        self.reuse: _Reuse | None = None
        self.plain_outputs = True
        for index, layer in enumerate(self.layers):
            layer.forward = MethodType(self._forward(index), layer)

    def close(self) -> None:
        """Give the layers their own forward back; harmless if they have it."""
        for layer in self.layers:
            layer.__dict__.pop("forward", None)

    def _compile(self, sites: Iterable[LoraSite]) -> dict[type[nn.Module], Any]:
        """Each kind of layer's forward, compiled for any shape; sites and attention stay as they are, and cut it into pieces."""
        if not self.layers:
            raise CompileError("run.compile: the base has no decoder layers that could be compiled; set it to false")
        if self.device.type == "cpu" and not any(map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS)))):
            raise CompileError(f"run.compile: needs a C++ compiler ({', '.join(COMPILERS)}); install one, or set it to false")
        for site in sites:
            site.forward = torch.compiler.disable(site.forward)  # type: ignore[method-assign, no-untyped-call]
        AttentionInterface.register(BLOCKS, torch.compiler.disable(attention))  # type: ignore[no-untyped-call]
        return {kind: torch.compile(kind.forward, dynamic=True) for kind in {type(layer) for layer in self.layers}}

    @contextmanager
    def computed_again(self) -> Iterator[None]:
        """Passes inside forget their activations."""
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before

    @contextmanager
    def reusing(self, phi: Phi, rows: Rows) -> Iterator[int]:
        """Passes of `rows` inside take over what the frozen layers put out before; gives how many are skipped so.

        Taken over is only what was computed with the very tensors of the pass before. None are skipped in the pass that finds out.
        """
        count = self.frozen(phi)
        if not count or not self.plain_outputs:
            yield 0
            return
        below = [
            tensor
            for inside in self.sites[:count]
            for name, site in inside.items()
            for tensor in (cast(Tensor, site.base.weight), phi[f"{name}.lora_A"], phi[f"{name}.lora_B"])
        ]
        found = _Reuse(self, count, tuple((tensor, tensor._version) for tensor in below))
        known: _Reuse | None = rows.memo.get(KEY)
        self.reuse = known if known is not None and known.same(found) else found
        skipped = count if self.reuse.hidden is not None else 0
        try:
            yield skipped
            if self.reuse.hidden is not None:
                rows.memo[KEY] = self.reuse
        finally:
            self.reuse = None

    def frozen(self, phi: Phi) -> int:
        """How many of the lowest layers have nothing in them that a gradient is wanted of: where none is, those without sites."""
        if not torch.is_grad_enabled():
            return self.first
        for index, inside in enumerate(self.sites):
            tensors = [phi[f"{name}.{part}"] for name in inside for part in ("lora_A", "lora_B")]
            if any(tensor.requires_grad for tensor in tensors) or in_forward_mode(*tensors):
                return index
        return len(self.layers)

    def _forward(self, index: int) -> Any:
        def forward(layer: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            reuse = self.reuse
            if reuse is not None:
                if index < reuse.count and reuse.hidden is not None:
                    return hidden
                if index == reuse.count:
                    hidden = reuse.hidden = hidden.detach() if reuse.hidden is None else reuse.hidden
            found = self._compute(index, layer, hidden, *args, **kwargs)
            self.plain_outputs &= isinstance(found, Tensor) and not any(isinstance(value, dict) for value in kwargs.values())
            return found

        return forward

    def _compute(self, index: int, layer: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        sites = self.sites[index]
        handed = [site.handed for site in sites.values()]
        phi = [tensor for pair in handed if pair for tensor in pair]
        if not self.active or index < self.first or not torch.is_grad_enabled() or None in handed:
            return self._plain(layer, hidden, *phi)(layer, hidden, *args, **kwargs)
        names = [f"{name}.{part}" for name in sites for part in ("lora_A", "lora_B")]

        def run(hidden: Tensor, *phi: Tensor) -> Any:
            with handing(sites, dict(zip(names, phi, strict=True))):
                return self._plain(layer, hidden, *phi)(layer, hidden, *args, **kwargs)

        # what layers hand on to each other beside their outputs has no gradient where they run without
        shares = any(isinstance(value, dict) for value in kwargs.values())
        return (checkpointed if shares else again)(run, hidden, *phi)

    def _plain(self, layer: nn.Module, *inputs: Tensor) -> Any:
        """The layer's own forward, compiled where a gradient of first order is all that is wanted of it."""
        own = type(layer).forward
        return own if not torch.is_grad_enabled() or asks_for_more(*inputs) else self.compiled.get(type(layer), own)
