"""Any LoRA adapter folder as it lies: an adapted one, a meta-adapter, or a plain PEFT adapter of another maker."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from headstart.adapter.files import from_json, read_json, read_peft
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import MetaAdapter, RecordedBase, require_agreement, require_version
from headstart.adapter.places import adapter_folder, is_elsewheres, name_of
from headstart.adapter.record import require_record
from headstart.model.base import Base, BaseSpec
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.render import DEFAULT_MAX_LENGTH, USER_TURN


@dataclass(frozen=True)
class PlainAdapter:
    """An adapter of one task, and what is told of it.

    Args:
        phi: `SITE.lora_A` `(r, d_in)` and `SITE.lora_B` `(d_out, r)`, without task axis.
        lora: rank, alpha and targets.
        instruction: the task's instruction, part of every request; empty where none is told.
        labels: the task's labels, if it is a classification.
        steps: how many steps it took.
        history: mean loss of each step's rows before the step.
        max_length: the most tokens that one example may take.
        base_variant_of: source and fingerprint of the weights that its meta-adapter was trained on, where they are others.
        record: how it was made: the rule, the meta-adapter it came from, settings and results; written to `headstart.json`.
    """

    phi: Mapping[str, Tensor]
    lora: LoraSpec
    _: KW_ONLY
    instruction: str = ""
    labels: tuple[str, ...] = ()
    steps: int = 0
    history: tuple[float, ...] = ()
    max_length: int = DEFAULT_MAX_LENGTH
    base_variant_of: Mapping[str, str] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredAdapter(PlainAdapter):
    """An adapter read from a folder, without its base.

    Args:
        name: the folder's.
        base: the base it belongs to.
        fingerprint: of the base's weights; None where the folder does not tell.
    """

    name: str
    base: BaseSpec
    fingerprint: str | None = None

    def base_from(self, source: str | None) -> BaseSpec:
        """The base to load, from another source if one is named."""
        return replace(self.base, source=source or self.base.source)

    def require_base(self, base: Base, allow_variant: bool = False) -> None:
        """Refuse a base that is not the adapter's own, as far as the adapter tells.

        Raises:
            AdapterError: another id, or the same id with other weights and not `allow_variant`; or tensors that do not fit its layers.
            TargetError: the base has no layers of the adapter's targets.
        """
        if base.spec.id != self.base.id:
            raise AdapterError(f"{self.name}: the adapter belongs to {self.base.id}, not to {base.spec.id}")
        if self.fingerprint not in (None, base.fingerprint) and not allow_variant:
            raise AdapterError(
                f"{self.name}: the adapter was made on weights of {self.base.id} from {self.base.source!r} (fingerprint "
                f"{self.fingerprint}), but the base loaded from {base.spec.source!r} has others ({base.fingerprint}); load the same "
                "source, or accept these with --allow-base-variant (in Python allow_base_variant=True)"
            )
        with Learner(base, self.lora) as learner:
            self._require_shapes(learner.shapes())

    def _require_shapes(self, wanted: Mapping[str, tuple[int, int]]) -> None:
        found = {name: tuple(tensor.shape) for name, tensor in self.phi.items()}
        odd = next((name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)), None)
        if odd:
            raise AdapterError(
                f"{self.name}: the adapter does not fit the layers of {self.base.id}: {odd!r} has shape {found.get(odd)}, the base and the "
                f"targets ask for {wanted.get(odd)}; load the base that it was made for, or copy the whole folder again"
            )


@dataclass(frozen=True)
class _About:
    """What the `headstart.json` of an adapted adapter holds."""

    kind: Literal["adapted_adapter"]
    base: RecordedBase
    lora: dict[str, Any]
    instruction: str
    steps: int
    labels: tuple[str, ...] = ()
    history: tuple[float, ...] = ()
    max_length: int = DEFAULT_MAX_LENGTH
    base_variant_of: dict[str, str] | None = None
    user_turn: str = USER_TURN
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    record: dict[str, Any] = field(default_factory=dict)


def read_adapter(source: str | Path, revision: str | None = None) -> StoredAdapter:
    """Read an adapter folder, a shipped adapter by its name, or one from the hub as `OWNER/NAME`.

    Raises:
        AdapterError: there is none, or it is no plain LoRA; a file is missing, broken or from a newer version.
    """
    folder = adapter_folder(source, revision)
    name, path = name_of(folder), folder / "headstart.json"
    if not path.exists():
        phi, lora, named = read_peft(folder)
        return StoredAdapter(phi, lora, name, BaseSpec(named.id, source="hub", revision=named.revision))
    content = read_json(path)
    if content.get("kind") != "adapted_adapter":
        meta = MetaAdapter.from_pretrained(folder)
        return StoredAdapter(meta.theta, meta.lora, name, meta.base, meta.fingerprint, max_length=meta.max_length)
    require_version(content, path)
    require_record(content, path)
    about = from_json(_About, content, path)
    phi, lora, named = read_peft(folder)
    require_agreement(folder, about.base, about.lora, lora, named)
    told = {each.name: getattr(about, each.name) for each in fields(PlainAdapter) if each.name not in ("phi", "lora")}
    base = about.base.spec_from_elsewhere if is_elsewheres(folder) else about.base.spec
    return StoredAdapter(phi, lora, name, base, about.base.fingerprint, **told)


def together(adapters: Sequence[StoredAdapter]) -> tuple[dict[str, Tensor], LoraSpec]:
    """Adapters of one base side by side: tensors `(T, ...)`, and the sites that they are handed to.

    Where they differ in rank, alpha or targets, they get the widest rank and all sites: what an adapter lacks is zero, and its scale goes
    into B.

    Args:
        adapters: at least one.
    """
    first = adapters[0]
    if all(one.lora == first.lora and one.phi.keys() == first.phi.keys() for one in adapters):
        return {name: torch.stack([one.phi[name] for one in adapters]) for name in first.phi}, first.lora
    r = max(one.lora.r for one in adapters)
    shapes = {name: tensor.shape for one in adapters for name, tensor in one.phi.items()}
    sites = tuple(sorted({name.rpartition(".")[0] for name in shapes}))
    return {name: torch.stack([_widened(one, name, shapes[name], r) for one in adapters]) for name in shapes}, LoraSpec(r, r, sites)


def _widened(adapter: StoredAdapter, name: str, shape: torch.Size, r: int) -> Tensor:
    """An adapter's tensor at rank r and scale 1, the extra rank zero."""
    if name not in adapter.phi:
        return torch.zeros((r, shape[1]) if name.endswith("lora_A") else (shape[0], r))
    tensor = adapter.phi[name]
    extra = r - adapter.lora.r
    if name.endswith("lora_A"):
        return torch.cat([tensor, tensor.new_zeros(extra, tensor.shape[1])])
    return torch.cat([tensor * adapter.lora.scale, tensor.new_zeros(tensor.shape[0], extra)], 1)
