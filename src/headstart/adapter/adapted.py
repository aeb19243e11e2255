"""Adapting a meta-adapter to one task, and the plain adapter that comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from headstart.adapter.files import SCHEMA_VERSION, write_peft
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.inner import expand, walk
from headstart.algorithms.types import Tensors
from headstart.batches import Batcher
from headstart.files import whole_folder, write_json
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.scoring import Metrics, measure
from headstart.tasks.episodes import Draw
from headstart.tasks.render import USER_TURN, Renderer
from headstart.tasks.task import Example, Task

MINIBATCH = 32
"""More support examples than this are gone through in minibatches, one a step."""


@dataclass(frozen=True)
class AdaptedAdapter:
    """An adapter that was adapted to one task.

    Args:
        phi: `SITE.lora_A` `(r, d_in)` and `SITE.lora_B` `(d_out, r)`, without task axis.
        source: the meta-adapter it started from.
        base: the loaded base.
        instruction: the task's instruction, part of every request.
        labels: the task's labels, if it is a classification.
        steps: how many steps it took.
        history: mean support loss before each step.
    """

    phi: Mapping[str, Tensor]
    source: MetaAdapter
    base: Base
    instruction: str
    labels: tuple[str, ...] = ()
    steps: int = 0
    history: tuple[float, ...] = field(default=())

    def evaluate(self, examples: Sequence[Example]) -> Metrics:
        """Loss and accuracy on examples of the task; see `Metrics` for what they mean."""
        task = Task("evaluated", self.instruction, tuple(examples), cluster="user", labels=self.labels)
        batcher = Batcher.of(self.base, Renderer(self.base.tokenizer, self.source.max_length))
        with Learner(self.base, self.source.lora) as learner:
            return measure(learner, expand(self.phi, 1), (Draw(task, (), task.examples),), batcher)[0]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a plain PEFT adapter, and beside it a `headstart.json` that says where it came from; whole or not at all."""
        with whole_folder(Path(folder)) as fresh:
            write_peft(fresh, self.phi, self.source.lora, self.source.base.id, self.source.base.revision)
            about = {
                "schema_version": SCHEMA_VERSION,
                "kind": "adapted_adapter",
                "base": {**asdict(self.base.spec), "fingerprint": self.base.fingerprint},
                "base_variant_of": self.source.variant(self.base),
                "lora": asdict(self.source.lora),
                "adaptation": asdict(self.source.adaptation),
                "steps": self.steps,
                "instruction": self.instruction,
                "user_turn": USER_TURN,
                "source": dict(self.source.record),
            }
            write_json(fresh / "headstart.json", about)


def adapt(source: MetaAdapter, task: Task, steps: int, base: Base, seed: int) -> AdaptedAdapter:
    """Take `steps` steps from a meta-adapter on all examples of a task; `MetaAdapter.adapt` checks and fills in what it is given."""
    batch = Batcher.of(base, Renderer(base.tokenizer, source.max_length)).batch(
        (Draw(task, minibatches(task.examples, seed), task.examples[:1]),)
    )
    history = []
    with Learner(base, source.lora) as learner:
        phi: Tensors = expand(source.initial(learner), 1)
        for step in walk(learner.losses, phi, batch.support, source.adaptation.build(), source.schedule(learner), steps):
            history.append(float(step.losses))
            phi = step.phi
    adapted = {name: tensor[0] for name, tensor in phi.items()}
    return AdaptedAdapter(adapted, source, base, task.instruction, task.labels, steps, tuple(history))


def minibatches(examples: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], ...]:
    """All examples at once while they are few, else shuffled minibatches of equal size, at most 32 each."""
    count = -(-len(examples) // MINIBATCH)
    order = np.random.default_rng([0x61646170, seed]).permutation(len(examples)) if count > 1 else np.arange(len(examples))
    return tuple(tuple(examples[int(index)] for index in part) for part in np.array_split(order, count))
