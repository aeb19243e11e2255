"""Targets: which layers of a base an adapter changes, in PEFT's names and meanings, and nothing left out in silence."""

import re
from collections.abc import Iterable, Sequence

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.nn.modules.conv import _ConvNd

from headstart.errors import HeadstartError
from headstart.model.sites import LINEAR

Targets = str | Sequence[str]
ALL_LINEAR = "all-linear"


class TargetError(HeadstartError):
    """The targets do not fit the base; the message names the target and what the base has."""


def target_names(model: nn.Module, targets: Targets, layers: Sequence[int] | None = None) -> list[str]:
    """The names of the linear layers that PEFT would adapt, in the model's order.

    Args:
        model: a causal language model.
        targets: `all-linear` (all but the output layer), a regular expression over whole names, or a list of suffixes.
        layers: PEFT's `layers_to_transform`, the numbers of the decoder layers to adapt; all where None.

    Raises:
        TargetError: a target or layer matches nothing, or something that is not an inner linear layer, or experts' weights.
    """
    if layers is not None and isinstance(targets, str) and targets != ALL_LINEAR:
        raise TargetError(
            f"adapter.layers_to_transform: a regular expression ({targets!r}) names its layers itself; give suffixes, or no layers"
        )
    linear = linear_names(model)
    _require_linear(model, targets, linear)
    if targets == ALL_LINEAR:
        names = linear if layers is None else matching(linear, suffixes(linear), layers)
    else:
        names = matching(linear, targets, layers)
    for layer in layers or ():
        if not matching(names, suffixes(names), [layer]):
            raise TargetError(
                f"adapter.layers_to_transform: no targeted layer is in decoder layer {layer} of this base; layers count from 0"
            )
    return names


def peft_targets(
    model: nn.Module, names: Sequence[str], layers: Sequence[int] | None = None
) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
    """`target_modules` and `layers_to_transform` that PEFT reads as exactly these layers: suffixes, or else whole names."""
    modules = [name for name, _ in model.named_modules()]
    short = suffixes(names)
    if set(matching(modules, short, layers)) == set(names):
        return short, tuple(layers) if layers is not None else None
    return tuple(sorted(names)), None


def matching(names: Iterable[str], targets: Targets, layers: Sequence[int] | None = None) -> list[str]:
    """The names that PEFT's own rule matches: a text as a regular expression, a list as suffixes, within the layers given."""
    if isinstance(targets, str):
        try:
            re.compile(targets)
        except re.error as error:
            raise TargetError(
                f"target_modules: {targets!r} is no regular expression ({error}); write a list for suffixes, as in [q_proj]"
            ) from None
    config = LoraConfig(
        target_modules=targets if isinstance(targets, str) else list(targets), layers_to_transform=None if layers is None else list(layers)
    )
    return [name for name in names if check_target_module_exists(config, name)]


def linear_names(model: nn.Module) -> list[str]:
    """The linear layers of a model, the output layer left out."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return [name for name, module in model.named_modules() if isinstance(module, LINEAR) and module is not head]


def suffixes(names: Iterable[str]) -> tuple[str, ...]:
    """The last parts of the names, each once, sorted."""
    return tuple(sorted({name.rsplit(".", 1)[-1] for name in names}))


def expert_weights(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The weights of experts by name, with their shapes: transformers keeps them as three-dimensional parameters."""
    owners = (
        (f"{prefix}.{name}", module, weight)
        for prefix, module in model.named_modules()
        for name, weight in module.named_parameters(recurse=False)
    )
    return {name: tuple(weight.shape) for name, module, weight in owners if weight.dim() == 3 and not isinstance(module, _ConvNd)}


def _require_linear(model: nn.Module, targets: Targets, linear: Sequence[str]) -> None:
    experts = expert_weights(model)
    if targets == ALL_LINEAR and experts:
        raise TargetError(
            f"adapter.target_modules: {ALL_LINEAR} cannot reach the experts' weights, {_named(experts)}, which are not linear layers; "
            f"name the layers to adapt, of {', '.join(suffixes(linear))}"
        )
    if targets != ALL_LINEAR:
        modules = dict(model.named_modules())
        for target in [targets] if isinstance(targets, str) else targets:
            _require_target(model, target if isinstance(targets, str) else [target], modules, experts, linear)


def _require_target(
    model: nn.Module, target: Targets, modules: dict[str, nn.Module], experts: dict[str, tuple[int, ...]], linear: Sequence[str]
) -> None:
    shown = repr(target if isinstance(target, str) else target[0])
    owners = {name.rpartition(".")[0] for name in experts}
    if named := matching([*experts, *owners], target):
        found = {name: shape for name, shape in experts.items() if name.startswith(tuple(named))}
        raise TargetError(
            f"adapter.target_modules: {shown} names experts' weights, {_named(found)}, which are not linear layers and cannot be adapted"
        )
    matched = matching([name for name in modules if name], target)
    if not matched:
        hint = (
            f"; a text is a regular expression over whole names, write [{target}] for a suffix"
            if isinstance(target, str) and re.fullmatch(r"\w+", target)
            else ""
        )
        raise TargetError(
            f"adapter.target_modules: {shown} matches nothing in this base; its linear layers end in {', '.join(suffixes(linear))}{hint}"
        )
    if odd := [name for name in matched if name not in linear]:
        kind = "the output layer" if modules[odd[0]] is model.get_output_embeddings() else type(modules[odd[0]]).__name__  # type: ignore[operator]
        raise TargetError(f"adapter.target_modules: {shown} matches {odd[0]}, which is {kind}; only inner linear layers can be adapted")


def _named(experts: dict[str, tuple[int, ...]]) -> str:
    name, shape = next(iter(experts.items()))
    return f"{name} {shape}{f' and {len(experts) - 1} more' if len(experts) > 1 else ''}"
