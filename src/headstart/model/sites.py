"""LoRA sites: the linear layers that an adapter changes, with a leading row axis so that many tasks share one pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from headstart.model.four_bit import is_four_bit
from headstart.model.frozen import weight
from headstart.model.twins import compute

Phi = Mapping[str, Tensor]
"""Adapter tensors by name: `SITE.lora_A` and `SITE.lora_B`."""

LINEAR = (nn.Linear, Conv1D)
"""What can be adapted; GPT-2 keeps its linear layers as `Conv1D`, the weight transposed."""


class LoraSite(nn.Module):
    """A frozen linear layer plus the low-rank update it is handed for one pass."""

    def __init__(self, base: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.d_in, self.d_out = linear_shape(base)
        self.handed: tuple[Tensor, Tensor] | None = None
        self.product = LoraProduct(base, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the adapter of this pass."""
        if self.handed is None:
            raise RuntimeError("a LoRA site was called without an adapter; run the model through its Learner")
        a, b = self.handed
        return compute(self.product, x.reshape(len(a), -1, self.d_in), a, b).view(*x.shape[:-1], self.d_out)


@dataclass(frozen=True)
class LoraProduct:
    """The twin of `base(x) + scale * (x A^T) B^T`, for x `(R, L, d_in)`, A `(R, r, d_in)` and B `(R, d_out, r)`.

    The definition computes the update in float32, with PEFT's sums and roundings: a dense layer adds in float32 and rounds once, a
    4-bit layer rounds the update first. By hand, a narrower base's update is computed in the base's type, as mixed-precision
    training does, yet with both halves of every float32 factor, so that no step of an adapter is too small to matter; it is added
    to the frozen product inside the product that makes it.
    """

    base: nn.Module
    scale: float

    def plain(self, *inputs: Tensor) -> Tensor:
        """The definition."""
        x, a, b = inputs
        update = torch.bmm(torch.bmm(x.to(a.dtype), a.mT), b.mT * self.scale)
        frozen: Tensor = self.base(x)
        if is_four_bit(self.base):
            return frozen + update.to(frozen.dtype)
        return (frozen + update).to(frozen.dtype)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Keeps `x A^T` `(R, L, r)`, and both factors in the base's type."""
        x, a, b = inputs
        down, up = _halves(a, x.dtype, 1), _halves(b * self.scale, x.dtype, 2)
        low = _folded(torch.bmm(x, down.mT), a.shape[1])
        out = F.linear(x, weight(self.base, x.dtype), cast("Tensor | None", self.base.bias))
        return out.baddbmm_(_spread(low, up.shape[2]), up.mT), (low, down, up)

    def backward(self, grad: Tensor, inputs: Sequence[Tensor], kept: Sequence[Tensor], needed: Sequence[bool]) -> Sequence[Tensor | None]:
        """By hand; the factors' gradients are rounded once to the base's type."""
        (x, a, b), (low, down, up) = inputs, kept
        low_grad = _folded(torch.bmm(grad, up), low.shape[2])
        dx = None
        if needed[0]:
            dx = torch.matmul(grad, weight(self.base, grad.dtype)).baddbmm_(_spread(low_grad, down.shape[1]), down)
        da = torch.bmm(low_grad.mT, x).to(a.dtype) if needed[1] else None
        db = torch.bmm(low.mT, grad).mT.to(b.dtype).mul_(self.scale) if needed[2] else None
        return dx, da, db


def _halves(factor: Tensor, dtype: torch.dtype, rank: int) -> Tensor:
    """A factor in a narrower type: its rounded value, and behind it along the rank's axis what rounding left over."""
    if factor.dtype.itemsize <= dtype.itemsize:
        return factor.to(dtype)
    rounded = factor.to(dtype)
    return torch.cat([rounded, (factor - rounded.to(factor.dtype)).to(dtype)], rank)


def _folded(x: Tensor, r: int) -> Tensor:
    """`(R, L, r)`: the products with a factor's two halves, added up."""
    return x if x.shape[2] == r else x[..., :r] + x[..., r:]


def _spread(x: Tensor, width: int) -> Tensor:
    """The transpose of `_folded`: the same for either half."""
    return x if x.shape[2] == width else torch.cat([x, x], 2)


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
