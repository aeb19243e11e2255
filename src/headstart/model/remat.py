"""Rematerialisation: decoder layers forget their activations and compute them again on the way back.

A layer that is computed again must see the adapter of the pass that it belongs to, not whatever is bound to its sites by then:
with an ambient adapter, gradients are silently wrong. So the layer's own adapter tensors are inputs of the checkpointed
function, which binds them itself. transformers' own hook runs only in training mode and knows nothing of the adapter.
"""

from collections.abc import Mapping
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
    """Make every decoder layer forget its activations, in place; returns the layers, for `keep_activations`.

    Raises:
        RematerialisationError: no site lies in a decoder layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, GradientCheckpointingLayer)}
    inside = {name: {key: site for key, site in sites.items() if key.startswith(f"{name}.")} for name in layers}
    if not any(inside.values()):
        raise RematerialisationError(
            f"run.gradient_checkpointing: {type(model).__name__} has no decoder layers that can be computed again; set it to false"
        )
    for name, layer in layers.items():
        # a layer without sites may stand above one that has some, and so be part of the way back
        layer.forward = MethodType(_again(inside[name]), layer)
    return list(layers.values())


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
