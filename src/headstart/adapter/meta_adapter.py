"""The frozen artefact of meta-training: an initialisation, the rates it was learned with, and where both came from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from headstart.adapter.card import write_card
from headstart.adapter.files import SCHEMA_VERSION, NamedBase, from_json, read_json, read_peft, read_rates, write_peft
from headstart.adapter.header import AdapterError
from headstart.adapter.lint import require_portable
from headstart.adapter.places import adapter_folder, is_elsewheres
from headstart.adapter.publish import Publishable
from headstart.adapter.record import require_record
from headstart.algorithms.rates import is_matrix
from headstart.algorithms.rules import Adam, Rule, Sgd
from headstart.files import whole_folder, write_json
from headstart.model.base import Base, BaseSpec
from headstart.model.learner import Learner, LoraSpec
from headstart.model.targets import ALL_LINEAR, matching
from headstart.tasks.render import DEFAULT_MAX_LENGTH
from headstart.tasks.sources import Row, as_examples
from headstart.tasks.task import Task

if TYPE_CHECKING:
    from headstart.adapter.adapted import AdaptedAdapter


@dataclass(frozen=True)
class Adaptation:
    """How a task is adapted to: the rule that the initialisation was learned for.

    Args:
        rule: `adam` or `sgd`.
        steps: inner steps in training.
        learning_rate: the rate of every tensor for which none was learned.
        max_norm: sgd: the largest norm of a task's gradient.
        target_modules: the sites that adapt, in PEFT's meanings; all where None.
        eps_root: adam: added to the second moment inside its root.
        tensors: which of a site's two matrices adapts.
        beta1: adam: decay of the running mean of gradients.
        beta2: adam: decay of the running mean of their squares.
    """

    rule: Literal["adam", "sgd"] = "adam"
    steps: Annotated[int, Field(ge=0)] = 3
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    max_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    target_modules: str | tuple[str, ...] | None = None
    eps_root: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    tensors: Literal["both", "lora_A", "lora_B"] = "both"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999

    def build(self) -> Rule:
        """The rule itself."""
        return Adam(self.beta1, self.beta2, eps_root=self.eps_root) if self.rule == "adam" else Sgd(self.max_norm)

    def constant_rates(self, theta: Mapping[str, Tensor], learning_rate: float | None = None) -> dict[str, Tensor]:
        """One rate for every tensor that adapts, in the form of learned ones: tensor name -> `(1,)`."""
        rate = learning_rate or self.learning_rate
        return {name: torch.full((1,), rate, device=theta[name].device) for name in self.adapting(theta)}

    def adapting(self, theta: Iterable[str]) -> list[str]:
        """The names of the tensors that adapt."""
        names = [name for name in theta if self.tensors in ("both", name.rpartition(".")[2])]
        if self.target_modules in (None, ALL_LINEAR):
            return names
        sites = set(matching({name.rpartition(".")[0] for name in names}, self.target_modules))
        return [name for name in names if name.rpartition(".")[0] in sites]


@dataclass(frozen=True)
class MetaAdapter(Publishable):
    """A learned LoRA initialisation; frozen.

    Args:
        theta: `SITE.lora_A` `(r, d_in)` and `SITE.lora_B` `(d_out, r)`, float32.
        rates: learned rates of the tensors that adapt, tensor name -> `(K,)`, or `(K, r, r)` where they mix ranks; empty where none were
            learned.
        lora: rank, alpha and PEFT targets.
        adaptation: the rule it was learned for.
        base: the base it belongs to.
        fingerprint: of the weights it was trained on.
        record: how it was made: the resolved recipe, the suite, versions, cost; written to `headstart.json`.
    """

    theta: Mapping[str, Tensor]
    rates: Mapping[str, Tensor]
    lora: LoraSpec
    adaptation: Adaptation
    base: BaseSpec
    fingerprint: str
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("theta", "rates"):
            frozen = {key: tensor.detach().float().cpu().clone() for key, tensor in getattr(self, name).items()}
            object.__setattr__(self, name, MappingProxyType(frozen))

    @property
    def max_length(self) -> int:
        """The most tokens that one example may take: as many as in training, and no fewer than a recipe's default."""
        recorded: int = self.record.get("recipe", {}).get("suite", {}).get("max_length", 0)
        return max(recorded, DEFAULT_MAX_LENGTH)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> "MetaAdapter":
        """Load an adapter folder, a shipped adapter by its name, or one from the hub.

        Args:
            source: a folder, a shipped name, or `OWNER/NAME` on the hub, perhaps with `@REVISION` behind it.
            revision: of the hub: a branch, tag or commit.

        Raises:
            AdapterError: there is none; a file is missing, broken or from a newer version; or the files do not fit each other.
        """
        folder = adapter_folder(source, revision)
        about = read_about(folder / "headstart.json")
        theta, lora, named = read_peft(folder)
        require_agreement(folder, about.base, about.lora, lora, named)
        rates_file = folder / "rates.safetensors"
        if about.learned_rates != rates_file.exists():
            raise AdapterError(
                f"{rates_file}: {'missing' if about.learned_rates else 'there'}, but headstart.json says that rates were "
                f"{'' if about.learned_rates else 'not '}learned; copy the whole folder again"
            )
        rank = lora.r if about.preconditioned else None
        rates = read_rates(rates_file, about.adaptation.adapting(theta), rank) if about.learned_rates else {}
        base = about.base.spec_from_elsewhere if is_elsewheres(folder) else about.base.spec
        return cls(theta, rates, lora, about.adaptation, base, about.base.fingerprint, about.record)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder whole or not at all: PEFT's files, `headstart.json`, `rates.safetensors` and a model card.

        `rates.safetensors` holds learned rates under the adapter's own names, `SITE.lora_A` and `SITE.lora_B`: `(K,)`, one for each inner
        step, or `(K, r, r)` where `headstart.json` says `preconditioned`, to be multiplied with directions as `algorithms.rates` says.
        """
        with whole_folder(Path(folder)) as fresh:
            write_peft(fresh, self.theta, self.lora, self.base.id, self.base.revision)
            if self.rates:
                save_file(dict(self.rates), fresh / "rates.safetensors")
            about = self.about()
            write_json(fresh / "headstart.json", about)
            write_card(fresh, about)
            require_portable(fresh)

    def adapt(
        self,
        rows: Iterable[Row],
        *,
        instruction: str = "",
        labels: Sequence[str] = (),
        steps: int | Literal["auto"] | None = None,
        epochs: int | None = None,
        batch_size: int = 32,
        learning_rate: float | None = None,
        eval_rows: Iterable[Row] = (),
        early_stopping: int | None = None,
        max_length: int | None = None,
        base: Base | None = None,
        allow_base_variant: bool = False,
        seed: int = 0,
    ) -> "AdaptedAdapter":
        """Fine-tune from here on a task's rows, with the rule and rates this was learned with.

        Past the trained steps the last rates go on, or AdamW at `learning_rate`. Deterministic in its arguments.

        Args:
            rows: examples, or mappings with `input` and `output`; of repeated inputs the first counts.
            instruction: what precedes every input.
            labels: all possible outputs, if the task is a classification.
            steps: how many steps; as many as in training where neither this nor `epochs` is given, 0 for the initialisation itself.
                `auto` chooses by the loss of `eval_rows`, or where there are none by that of rows held out of training: by
                cross-fitting below 64 rows, after which all rows train, else of a tenth of the rows.
            epochs: how many times through the rows, instead of `steps`; the rate then falls linearly to zero.
            batch_size: rows a step, computed in as many micro-batches as memory asks for.
            learning_rate: AdamW's rate beyond the trained steps; falls linearly to zero.
            eval_rows: rows that are not trained on, for `auto` and early stopping.
            early_stopping: stop after so many looks at the held-out loss without an improvement, and keep the best.
            max_length: the most tokens of a row; as in training, or 512 where that is more, if None.
            base: a loaded base; loaded as the adapter says where None.
            allow_base_variant: accept other weights of the same base.
            seed: of the order of minibatches, and of what is held out.

        Raises:
            AdapterError: the base is not the adapter's.
            AdaptError: a setting is out of range, or training diverged.
            SuiteError: no rows, or one that cannot be rendered or is too long.
        """
        from headstart.adapting.settings import Settings
        from headstart.adapting.single import adapt

        if steps is None and epochs is None:
            steps = self.adaptation.steps
        settings = Settings(steps, epochs, batch_size, learning_rate, early_stopping, measure=False, seed=seed)
        task = Task("adapted", instruction, as_examples(rows), cluster="user", labels=tuple(labels))
        held = as_examples(eval_rows)
        return adapt(self, task, held, settings, max_length or self.max_length, base, allow_base_variant)

    def about(self) -> dict[str, Any]:
        """The content of `headstart.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "meta_adapter",
            "base": {**asdict(self.base), "fingerprint": self.fingerprint},
            "lora": asdict(self.lora),
            "adaptation": asdict(self.adaptation),
            "learned_rates": bool(self.rates),
            "preconditioned": any(map(is_matrix, self.rates.values())),
            "record": dict(self.record),
        }

    def require_base(self, base: Base, allow_variant: bool = False) -> None:
        """Refuse a base that is not the one the adapter was trained on.

        Raises:
            AdapterError: another id, or the same id with other weights and not `allow_variant`.
        """
        if base.spec.id != self.base.id:
            raise AdapterError(f"the adapter belongs to {self.base.id}, not to {base.spec.id}")
        if base.fingerprint != self.fingerprint and not allow_variant:
            raise AdapterError(
                f"the adapter was trained on weights of {self.base.id} from {self.base.source!r} (fingerprint {self.fingerprint}), but "
                f"the base loaded from {base.spec.source!r} has other weights ({base.fingerprint}); load the same source, or accept "
                "these with --allow-base-variant (in Python allow_base_variant=True)"
            )

    def variant(self, base: Base) -> dict[str, str] | None:
        """Where the weights it was trained on came from, and their fingerprint, if the base has others; else None."""
        return None if base.fingerprint == self.fingerprint else {"source": self.base.source, "fingerprint": self.fingerprint}

    def initial(self, learner: Learner) -> dict[str, Tensor]:
        """Theta on the learner's device.

        Raises:
            AdapterError: rank or alpha are not the learner's, or a tensor is missing, surplus or of another shape; raised before
                anything is moved.
        """
        own, its = ((spec.r, spec.lora_alpha) for spec in (self.lora, learner.spec))
        if own != its:
            raise AdapterError(f"the adapter has rank and alpha {own}, the learner {its}; build the learner with the adapter's `lora`")
        wanted = learner.shapes()
        odd = sorted(wanted.keys() ^ self.theta.keys())
        if odd:
            raise AdapterError(
                f"the adapter does not fit the base and targets: {odd[0]!r} is {'missing' if odd[0] in wanted else 'surplus'} "
                f"({len(odd)} such); its own targets are {', '.join(self.lora.target_modules)}"
            )
        for name, shape in wanted.items():
            if tuple(self.theta[name].shape) != shape:
                raise AdapterError(f"the adapter does not fit the base: {name!r} has shape {tuple(self.theta[name].shape)}, not {shape}")
        return {name: self.theta[name].to(learner.base.device) for name in wanted}

    def schedule(self, learner: Learner) -> dict[str, Tensor]:
        """The shipped rates on the learner's device: learned ones, else the constant one."""
        rates = self.rates or self.adaptation.constant_rates(self.theta)
        return {name: rate.to(learner.base.device) for name, rate in rates.items()}


@dataclass(frozen=True, kw_only=True)
class RecordedBase(BaseSpec):
    """The base that `headstart.json` tells of, with its weights' fingerprint."""

    fingerprint: Annotated[str, Field(min_length=1)]

    @property
    def spec(self) -> BaseSpec:
        """The base alone."""
        return BaseSpec(**{each.name: getattr(self, each.name) for each in fields(BaseSpec)})

    @property
    def spec_from_elsewhere(self) -> BaseSpec:
        """The same of an adapter that somebody else made: no folder of theirs names one of this machine."""
        return self.spec if self.source in ("hub", "bundled") else replace(self.spec, source="hub")


@dataclass(frozen=True)
class About:
    """What `headstart.json` holds."""

    kind: Literal["meta_adapter"]
    base: RecordedBase
    lora: dict[str, Any]
    adaptation: Adaptation
    learned_rates: bool
    preconditioned: bool = False
    record: dict[str, Any] = field(default_factory=dict)


NEEDED = {"base": ("id", "source", "quantization", "dtype", "fingerprint"), "adaptation": ("rule", "steps", "learning_rate")}
"""Keys of `headstart.json` that no default stands in for."""


def read_about(path: Path) -> About:
    """Read and check a meta-adapter's `headstart.json`.

    Raises:
        AdapterError: it is missing, from a newer version, of another kind, or has a key missing or of a wrong type.
    """
    if not path.exists() and (path.parent / "adapter_config.json").exists():
        raise AdapterError(f"{path}: no such file; this is a plain PEFT adapter, and only what `headstart meta-train` saved can be adapted")
    content = read_json(path)
    require_version(content, path)
    if content.get("kind") == "adapted_adapter":
        raise AdapterError(f"{path}: an adapter adapted to one task; give the meta-adapter it came from")
    for section, keys in NEEDED.items():
        part = content.get(section)
        lacking = [key for key in keys if isinstance(part, dict) and key not in part]
        if lacking:
            raise AdapterError(f"{path}: {section}.{lacking[0]}: missing; copy the whole folder again")
    require_record(content, path)
    return from_json(About, content, path)


def require_version(content: Mapping[str, Any], path: Path) -> None:
    """See that this version reads what a `headstart.json` holds.

    Raises:
        AdapterError: it was written by a newer one, or by something else.
    """
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise AdapterError(f"{path}: schema_version: expected a whole number, got {version!r}; headstart did not write this file")
    if version > SCHEMA_VERSION:
        raise AdapterError(
            f"{path}: written by a newer headstart (schema {version}, this one reads up to {SCHEMA_VERSION}); "
            "run `pip install --upgrade headstart`"
        )


def require_agreement(folder: Path, base: BaseSpec, recorded_lora: Mapping[str, Any], lora: LoraSpec, named: NamedBase) -> None:
    """See that PEFT's configuration and our record tell of one adapter; stock PEFT goes by the first alone.

    Raises:
        AdapterError: they name another base, or another rank, alpha or targets.
    """
    if named.id != base.id:
        raise AdapterError(f"{folder}: adapter_config.json names the base {named.id!r}, headstart.json {base.id!r}; one was changed")
    if named.revision != base.revision:
        raise AdapterError(
            f"{folder}: adapter_config.json names the base's revision {named.revision!r}, headstart.json {base.revision!r}; one was changed"
        )
    said = json.loads(json.dumps(asdict(lora)))
    for key, value in said.items():
        recorded = recorded_lora.get(key, value)
        alike = isinstance(recorded, list) and isinstance(value, list) and sorted(map(str, recorded)) == sorted(map(str, value))
        if recorded != value and not alike:
            raise AdapterError(f"{folder}: {key} is {value} in adapter_config.json and {recorded} in headstart.json; one was changed")
