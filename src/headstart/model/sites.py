"""LoRA sites: the linear layers that an adapter changes, with a leading row axis so that many tasks share one pass."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError
from headstart.model.four_bit import is_four_bit, linear_4bit

Phi = Mapping[str, Tensor]
"""Adapter tensors by name: `SITE.lora_A` and `SITE.lora_B`."""


class TargetError(HeadstartError):
    """`target_modules` does not fit the base; the message names the target and what the base has."""


class LoraSite(nn.Module):
    """A frozen linear layer plus the low-rank update it is handed for one pass.

    Computes `base(x) + scale * (x A^T) B^T` for x `(R, L, d_in)`, A `(R, r, d_in)` and B `(R, d_out, r)`, the update in
    float32. Sums and roundings are PEFT's: a dense layer adds in float32 and rounds once, a 4-bit layer rounds the update first.
    """

    def __init__(self, base: nn.Linear, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.four_bit = is_four_bit(base)
        self.handed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the adapter of this pass."""
        if self.handed is None:
            raise RuntimeError("a LoRA site was called without an adapter; run the model through its Learner")
        a, b = self.handed
        update = torch.bmm(torch.bmm(x.to(a.dtype), a.mT), b.mT * self.scale)
        if self.four_bit:
            frozen = linear_4bit(self.base, x)
            return frozen + update.to(frozen.dtype)
        product: Tensor = self.base(x)
        return (product + update).to(product.dtype)


def target_names(model: nn.Module, target_modules: str | Sequence[str]) -> list[str]:
    """The names of the linear layers that PEFT would adapt: `all-linear` means all but the output layer, else suffixes.

    Raises:
        TargetError: a target matches no module, or one that is not a linear layer, or the output layer.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    if target_modules == "all-linear":
        return linear
    targets = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    modules = dict(model.named_modules())
    for target in targets:
        matched = [name for name in modules if _matches(name, target)]
        if not matched:
            suffixes = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise TargetError(
                f"adapter.target_modules: {target!r} matches nothing in this base; its linear layers end in {', '.join(suffixes)}"
            )
        odd = [name for name in matched if name not in linear]
        if odd:
            kind = "the output layer" if modules[odd[0]] is head else type(modules[odd[0]]).__name__
            raise TargetError(
                f"adapter.target_modules: {target!r} matches {odd[0]}, which is {kind}; only inner linear layers can be adapted"
            )
    return [name for name in linear if any(_matches(name, target) for target in targets)]


def peft_targets(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Suffixes that PEFT reads as exactly these layers; the whole names where no suffixes do."""
    suffixes = tuple(sorted({name.rsplit(".", 1)[-1] for name in names}))
    return (
        suffixes
        if {name for name, _ in model.named_modules() if any(_matches(name, each) for each in suffixes)} == set(names)
        else tuple(names)
    )


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def install_sites(model: nn.Module, names: Sequence[str], scale: float) -> dict[str, LoraSite]:
    """Replace the named layers by sites, in place."""
    sites = {name: LoraSite(model.get_submodule(name), scale) for name in names}  # type: ignore[arg-type]
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
    """Hand every site its tensors `(R, ...)` for the passes inside, and take them back afterwards.

    Autograd keeps the tensors of the pass themselves, so a backward pass run later still differentiates the right adapter.
    """
    try:
        for name, site in sites.items():
            site.handed = phi[f"{name}.lora_A"], phi[f"{name}.lora_B"]
        yield
    finally:
        for site in sites.values():
            site.handed = None
