"""Rematerialisation: decoder layers forget their activations and compute them again on the way back.

A layer that is computed again must see the adapter of the pass that it belongs to, not whatever is bound to its sites by then:
with an ambient adapter, gradients are silently wrong. So the layer's own adapter tensors are inputs of the checkpointed
function, which binds them itself. transformers' own hook runs only in training mode and knows nothing of the adapter.
"""

from collections.abc import Mapping
from itertools import dropwhile
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from headstart.errors import HeadstartError
from headstart.model.sites import LoraSite, handing


class RematerialisationError(HeadstartError):
    """A base has no layers that could be computed again."""


def rematerialise(model: nn.Module, sites: Mapping[str, LoraSite]) -> list[nn.Module]:
    """Make the decoder layers forget their activations, in place; returns the layers, for `keep_activations`.

    From the first that holds sites on: what stands below is not on the way back, and keeps nothing anyway.

    Raises:
        RematerialisationError: no site lies in a decoder layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    inside = {name: {key: site for key, site in sites.items() if key.startswith(f"{name}.")} for name in layers}
    if not any(inside.values()):
        raise RematerialisationError(
            f"run.gradient_checkpointing: {type(model).__name__} has no decoder layers that can be computed again; set it to false"
        )
    reached = list(dropwhile(lambda name: not inside[name], layers))
    for name in reached:
        layers[name].forward = MethodType(_again(inside[name]), layers[name])
    return [layers[name] for name in reached]


def keep_activations(layers: list[nn.Module]) -> None:
    """Give the layers their own forward back, in place."""
    for layer in layers:
        layer.__dict__.pop("forward", None)


def _again(sites: Mapping[str, LoraSite]) -> Any:
    names = [f"{name}.{part}" for name in sites for part in ("lora_A", "lora_B")]

    def forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = type(layer).forward
        handed = [site.handed for site in sites.values()]
        if not torch.is_grad_enabled() or None in handed:
            return plain(layer, *args, **kwargs)
        phi = [tensor for pair in handed if pair for tensor in pair]

        def run(phi: list[torch.Tensor], *inputs: Any) -> Any:
            with handing(sites, dict(zip(names, phi, strict=True))):
                return plain(layer, *inputs, **kwargs)

        # no random state to keep: the base is in evaluation mode and has no dropout
        return checkpoint(run, phi, *args, use_reentrant=False, preserve_rng_state=False)

    return forward
