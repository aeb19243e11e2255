"""The plain adapter that comes of adapting: evaluated, asked, saved and published without the meta-adapter that it started from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from headstart.adapter.card import write_adapted_card
from headstart.adapter.files import SCHEMA_VERSION, write_peft
from headstart.adapter.lint import require_portable
from headstart.adapter.publish import Publishable
from headstart.adapter.stored import PlainAdapter, StoredAdapter, read_adapter
from headstart.algorithms.inner import expand
from headstart.files import whole_folder, write_json
from headstart.model.base import Base, load_base
from headstart.model.decode import Sampling, decode
from headstart.passes import passes_over
from headstart.scoring import Answer, Metrics
from headstart.tasks.episodes import Draw
from headstart.tasks.render import Renderer
from headstart.tasks.sources import Row, as_examples
from headstart.tasks.task import Example, SuiteError, Task


@dataclass(frozen=True)
class AdaptedAdapter(PlainAdapter, Publishable):
    """An adapter that was adapted to one task, on its loaded base.

    Args:
        base: the loaded base.
    """

    base: Base

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        base: Base | None = None,
        base_source: str | None = None,
        allow_base_variant: bool = False,
    ) -> "AdaptedAdapter":
        """Load what `save_pretrained` wrote, a meta-adapter as it is, or any plain PEFT LoRA.

        Args:
            source: a folder, a shipped adapter's name, or `OWNER/NAME` on the hub, perhaps with `@REVISION` behind it.
            revision: of the hub: a branch, tag or commit.
            base: a loaded base; loaded as the adapter says where None.
            base_source: where the base's weights come from, if not as the adapter says.
            allow_base_variant: accept other weights of the same base.

        Raises:
            AdapterError: there is none, or it is broken, or the base is not its own.
            BaseError: the base cannot be loaded.
        """
        stored = read_adapter(source, revision)
        base = base or load_base(stored.base_from(base_source))
        stored.require_base(base, allow_base_variant)
        return cls.of(stored, base)

    @classmethod
    def of(cls, stored: StoredAdapter, base: Base) -> "AdaptedAdapter":
        """A stored adapter on its base."""
        told = {each.name: getattr(stored, each.name) for each in fields(PlainAdapter) if each.name != "phi"}
        return cls(phi={name: tensor.to(base.device) for name, tensor in stored.phi.items()}, base=base, **told)

    def evaluate(self, rows: Iterable[Row]) -> Metrics:
        """Loss and accuracy on rows of the task; see `Metrics` for what they mean.

        Args:
            rows: examples, or mappings with `input` and `output`.

        Raises:
            SuiteError: no rows, or one that cannot be rendered, or an output that is none of the labels.
        """
        return Metrics.of(self._answers(Task("evaluated", self.instruction, as_examples(rows), cluster="user", labels=self.labels)))

    def generate(
        self,
        inputs: str | Sequence[str],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """What the adapter writes for each input, behind the task's instruction; all inputs in one batch.

        Args:
            inputs: one or more.
            max_new_tokens: the most tokens of an answer.
            temperature: 0 always takes the likeliest token; above, it samples.
            top_p: samples among the likeliest tokens that together have this probability.
            seed: of sampling.

        Raises:
            SuiteError: an input is empty or too long.
            DecodeError: a setting is out of range.
        """
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
        with passes_over(self.base, self.lora, self.max_length) as passes:
            renderer = passes.batcher.renderer
            prompts = [renderer.prompt(self.instruction, text) for text in ([inputs] if isinstance(inputs, str) else inputs)]
            written = decode(passes.learner, expand(self.phi, 1), [prompts], renderer.end_id, sampling)[0]
        return [renderer.text(tokens) for tokens in written]

    def classify(self, inputs: str | Sequence[str]) -> list[dict[str, float]]:
        """For each input label -> probability, the likeliest first: the labels' likelihoods, end token included, normalised.

        Raises:
            SuiteError: the adapter has no labels, or an input is too long.
        """
        if not self.labels:
            raise SuiteError("the adapter has no labels to choose from; adapt with `labels`, or use `generate`")
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if not texts:
            return []
        # which label stands as its answer has no bearing on the labels' probabilities
        first = {text.strip(): Example(text, self.labels[0]) for text in texts}
        task = Task("asked", self.instruction, tuple(first.values()), cluster="user", labels=self.labels)
        found = dict(zip(first, self._answers(task), strict=True))
        return [likeliest_first(found[text.strip()].probabilities) for text in texts]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain PEFT adapter, and beside it a `headstart.json` that says where it came from, and a card; whole or not at all."""
        with whole_folder(Path(folder)) as fresh:
            self.write(fresh)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that is there."""
        write_peft(folder, self.phi, self.lora, self.base.spec.id, self.base.spec.revision)
        about = self.about()
        write_json(folder / "headstart.json", about)
        write_adapted_card(folder, about)
        require_portable(folder)

    def about(self) -> dict[str, Any]:
        """The content of `headstart.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "adapted_adapter",
            "base": {**asdict(self.base.spec), "fingerprint": self.base.fingerprint},
            "lora": asdict(self.lora),
            "steps": self.steps,
            "history": list(self.history),
            "instruction": self.instruction,
            "labels": list(self.labels),
            "max_length": self.max_length,
            **Renderer(self.base.tokenizer, self.max_length, self.base.spec.chat_template_kwargs).serving,
            "base_variant_of": self.base_variant_of,
            "record": dict(self.record),
        }

    def _answers(self, task: Task) -> list[Answer]:
        with passes_over(self.base, self.lora, self.max_length) as passes:
            return passes.answers(expand(self.phi, 1), [Draw(task, (), tuple(task.examples))])[0]


def likeliest_first(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Labels in the order of their probabilities."""
    return dict(sorted(probabilities.items(), key=lambda item: -item[1]))
