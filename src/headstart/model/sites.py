"""LoRA sites: the linear layers that an adapter changes, with a leading row axis so that many tasks share one pass."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from headstart.model.four_bit import is_four_bit, linear_4bit

Phi = Mapping[str, Tensor]
"""Adapter tensors by name: `SITE.lora_A` and `SITE.lora_B`."""

LINEAR = (nn.Linear, Conv1D)
"""What can be adapted; GPT-2 keeps its linear layers as `Conv1D`, the weight transposed."""


class LoraSite(nn.Module):
    """A frozen linear layer plus the low-rank update it is handed for one pass.

    Computes `base(x) + scale * (x A^T) B^T` for x `(R, L, d_in)`, A `(R, r, d_in)` and B `(R, d_out, r)`, the update in
    float32. Sums and roundings are PEFT's: a dense layer adds in float32 and rounds once, a 4-bit layer rounds the update first.
    """

    def __init__(self, base: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.four_bit = is_four_bit(base)
        self.d_in, self.d_out = linear_shape(base)
        self.handed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the adapter of this pass."""
        if self.handed is None:
            raise RuntimeError("a LoRA site was called without an adapter; run the model through its Learner")
        a, b = self.handed
        rows = x.reshape(len(a), -1, self.d_in)
        update = torch.bmm(torch.bmm(rows.to(a.dtype), a.mT), b.mT * self.scale).view(*x.shape[:-1], self.d_out)
        if self.four_bit:
            frozen = linear_4bit(self.base, x)
            return frozen + update.to(frozen.dtype)
        product: Tensor = self.base(x)
        return (product + update).to(product.dtype)


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """`(d_in, d_out)` of a linear layer, whichever way it keeps its weight."""
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def install_sites(model: nn.Module, names: Iterable[str], scale: float) -> dict[str, LoraSite]:
    """Replace the named layers by sites, in place."""
    sites = {name: LoraSite(model.get_submodule(name), scale) for name in names}
    for name, site in sites.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, site)
    return sites


def remove_sites(model: nn.Module, sites: Mapping[str, LoraSite]) -> None:
    """Put the plain layers back, in place."""
    for name, site in sites.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, site.base)


@contextmanager
def handing(sites: Mapping[str, LoraSite], phi: Phi) -> Iterator[None]:
    """Hand every site its tensors `(R, ...)` for the passes inside, and what it had before back afterwards.

    Autograd keeps the tensors of the pass themselves, so a backward pass run later still differentiates the right adapter.
    """
    before = {name: site.handed for name, site in sites.items()}
    try:
        for name, site in sites.items():
            site.handed = phi[f"{name}.lora_A"], phi[f"{name}.lora_B"]
        yield
    finally:
        for name, site in sites.items():
            site.handed = before[name]
