"""The frozen artefact of meta-training: an initialisation, the rates it was learned with, and where both came from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from headstart.adapter.card import write_card
from headstart.adapter.files import SCHEMA_VERSION, AdapterError, read_json, read_peft, read_tensors, write_peft
from headstart.algorithms.rules import Adam, Rule, Sgd
from headstart.files import whole_folder, write_json
from headstart.model.base import Base, BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.targets import matching
from headstart.tasks.task import Example, Task

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
    """

    rule: str = "adam"
    steps: int = 3
    learning_rate: float = 1e-3
    max_norm: float | None = 1.0
    target_modules: str | tuple[str, ...] | None = None

    def build(self) -> Rule:
        """The rule itself."""
        return Adam() if self.rule == "adam" else Sgd(self.max_norm)

    def constant_rates(self, theta: Mapping[str, Tensor], learning_rate: float | None = None) -> dict[str, Tensor]:
        """One rate for every tensor that adapts, in the form of learned ones: tensor name -> `(1,)`."""
        rate = learning_rate or self.learning_rate
        return {name: torch.full((1,), rate, device=theta[name].device) for name in self.adapting(theta)}

    def adapting(self, theta: Iterable[str]) -> list[str]:
        """The names of the tensors that adapt."""
        if self.target_modules is None:
            return list(theta)
        sites = set(matching({name.rpartition(".")[0] for name in theta}, self.target_modules))
        return [name for name in theta if name.rpartition(".")[0] in sites]


@dataclass(frozen=True)
class MetaAdapter:
    """A learned LoRA initialisation; frozen.

    Args:
        theta: `SITE.lora_A` `(r, d_in)` and `SITE.lora_B` `(d_out, r)`, float32.
        rates: learned rates of the tensors that adapt, tensor name -> `(K,)`; empty where none were learned.
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

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MetaAdapter":
        """Load an adapter folder.

        Raises:
            AdapterError: a file is missing or broken, comes from a newer version, or the rates do not fit the adapter.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such adapter folder")
        about = read_json(folder / "headstart.json")
        if about.get("schema_version", 0) > SCHEMA_VERSION:
            raise AdapterError(
                f"{folder}/headstart.json: written by a newer headstart (schema {about['schema_version']}); upgrade headstart"
            )
        theta, lora = read_peft(folder)
        rates = read_tensors(folder / "rates.safetensors") if (folder / "rates.safetensors").exists() else {}
        try:
            base = BaseSpec(**{key: value for key, value in about["base"].items() if key != "fingerprint"})
            adaptation = _adaptation(about["adaptation"])
            fingerprint = about["base"]["fingerprint"]
        except (KeyError, TypeError) as error:
            raise AdapterError(f"{folder}/headstart.json: incomplete ({error})") from error
        if rates and rates.keys() != set(adaptation.adapting(theta)):
            stray = sorted(rates.keys() ^ set(adaptation.adapting(theta)))[0]
            raise AdapterError(f"{folder}/rates.safetensors: does not fit the adapter, {stray!r} is in one of the two only")
        return cls(theta, rates, lora, adaptation, base, fingerprint, about.get("record", {}))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder whole or not at all: PEFT's files, `headstart.json`, `rates.safetensors` and a model card."""
        with whole_folder(Path(folder)) as fresh:
            write_peft(fresh, self.theta, self.lora, self.base.id, self.base.revision)
            if self.rates:
                save_file(dict(self.rates), fresh / "rates.safetensors")
            about = self.about()
            write_json(fresh / "headstart.json", about)
            write_card(fresh, about)

    def adapt(
        self,
        examples: Sequence[Example],
        *,
        instruction: str = "",
        labels: tuple[str, ...] = (),
        steps: int | None = None,
        base: Base | None = None,
        allow_base_variant: bool = False,
        seed: int = 0,
    ) -> "AdaptedAdapter":
        """Fine-tune from here on a task's examples, with the rule and rates this was learned with.

        Past the trained steps the last rates go on. Deterministic in its arguments.

        Args:
            examples: the task's support examples, distinct in their inputs.
            instruction: what precedes every input.
            labels: all possible outputs, if the task is a classification.
            steps: how many steps; as many as in training where None, 0 for the initialisation itself.
            base: a loaded base; loaded as the adapter says where None.
            allow_base_variant: accept other weights of the same base.
            seed: orders the minibatches where there are more than 32 examples.

        Raises:
            AdapterError: the base is not the adapter's, or `steps` is negative.
            SuiteError: no examples, or one that cannot be rendered.
        """
        from headstart.adapter.adapted import adapt

        steps = self.adaptation.steps if steps is None else steps
        if steps < 0:
            raise AdapterError(f"steps is {steps}; give 0 or more")
        task = Task("adapted", instruction, tuple(examples), cluster="user", labels=labels)
        base = base or load_base(self.base)
        self.require_base(base, allow_base_variant)
        return adapt(self, task, steps, base, seed)

    def about(self) -> dict[str, Any]:
        """The content of `headstart.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "meta_adapter",
            "base": {**asdict(self.base), "fingerprint": self.fingerprint},
            "lora": asdict(self.lora),
            "adaptation": asdict(self.adaptation),
            "learned_rates": bool(self.rates),
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
                f"the base loaded from {base.spec.source!r} has other weights ({base.fingerprint}); load the same source"
            )

    def initial(self, learner: Learner) -> dict[str, Tensor]:
        """Theta on the learner's device.

        Raises:
            AdapterError: a tensor is missing, is surplus, or has another shape than the learner's.
        """
        wanted = learner.shapes()
        odd = sorted(wanted.keys() ^ self.theta.keys())
        if odd:
            raise AdapterError(
                f"the adapter does not fit the base: {odd[0]!r} is {'missing' if odd[0] in wanted else 'surplus'} ({len(odd)} such)"
            )
        for name, shape in wanted.items():
            if tuple(self.theta[name].shape) != shape:
                raise AdapterError(f"the adapter does not fit the base: {name!r} has shape {tuple(self.theta[name].shape)}, not {shape}")
        return {name: self.theta[name].to(learner.base.device) for name in wanted}

    def schedule(self, learner: Learner) -> dict[str, Tensor]:
        """The shipped rates on the learner's device: learned ones, else the constant one."""
        rates = self.rates or self.adaptation.constant_rates(self.theta)
        return {name: rate.to(learner.base.device) for name, rate in rates.items()}


def _adaptation(content: Mapping[str, Any]) -> Adaptation:
    """From JSON, which has lists for tuples."""
    targets = content.get("target_modules")
    return Adaptation(**{**content, "target_modules": tuple(targets) if isinstance(targets, list) else targets})
