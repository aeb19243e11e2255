"""A Markdown table of what the ready recipes take: memory by its parts, and tokens.

Nothing is downloaded or trained. Weights, adapters and inner states are counted from the bases' configurations at true size. What
activations take is measured on this machine: two and one decoder layers of true width with random weights, the tokens of one
micro-batch, and what autograd holds for the way back; every further layer takes as much as the second.

  tokens a step   tasks x (inner steps x support rows + query rows), as laid out
  usual           a task whose examples have the lengths assumed (--shared, --own, --label)
  at most         a task of which every example is as long as `suite.max_length`, a quarter of it label
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from _bench import Shape, conversations
from bases import BASES, KnownBase, save_config

from headstart.algorithms.trail import state_bytes
from headstart.batches import PIECE_TOKENS
from headstart.checking.estimate import Layers, measure_layers
from headstart.model.base import DTYPES, BaseSpec
from headstart.model.learner import LoraSpec
from headstart.model.memory import Footprint, footprint, skeleton
from headstart.model.sites import linear_shape
from headstart.model.targets import target_names
from headstart.recipe import Recipe, load_recipe
from headstart.tasks.planner import Planner, Sizes
from headstart.training.loop import adaptation

RECIPES = Path(__file__).parents[1] / "recipes"
COLUMNS = (
    "recipe",
    "parameters",
    "weights",
    "adapter values",
    "adapter, optimiser",
    "inner states",
    "tokens a step, by phase",
    "tokens in all",
    "activations, usual / at most",
    "memory in all, usual / at most",
)
FLOATS = 4
"""Float32 numbers kept for each value of the adapter: itself, its meta-gradient, and AdamW's two moments."""
EXAMPLES = 4
"""Of the measured row, at most: as many as `headstart check` measures by."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of an example: `shared` with all others of its task, `own` behind them, of which `label` are trained."""

    shared: int
    own: int
    label: int


USUAL = Lengths(shared=96, own=128, label=8)
"""Assumed: the definitions' mean of 57 words, at four tokens for three words, and a template's twenty; an input of some ninety words."""


@dataclass(frozen=True)
class Ready:
    """A recipe and its base at true size."""

    name: str
    recipe: Recipe
    base: KnownBase

    @cached_property
    def weights(self) -> Footprint:
        """The base's weights in memory."""
        with self._spec() as spec:
            return footprint(spec)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The adapter's tensors: A `(r, d_in)` and B `(d_out, r)` of every site."""
        section, shapes = self.recipe.adapter, {}
        with self._spec() as spec:
            model = skeleton(spec)
        for name in target_names(model, section.target_modules, section.layers_to_transform):
            d_in, d_out = linear_shape(model.get_submodule(name))
            shapes |= {f"{name}.lora_A": (section.r, d_in), f"{name}.lora_B": (d_out, section.r)}
        return shapes

    @property
    def values(self) -> int:
        """How many values the adapter has."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    @property
    def in_memory(self) -> int:
        """Bytes of the base's weights."""
        return self.weights.four_bit_bytes + self.weights.dense_bytes

    @property
    def trained(self) -> int:
        """Bytes of the adapter and of what its optimiser keeps."""
        return FLOATS * torch.float32.itemsize * self.values

    @contextmanager
    def _spec(self) -> Iterator[BaseSpec]:
        section = self.recipe.base
        with tempfile.TemporaryDirectory() as folder:
            yield BaseSpec(section.id, str(save_config(self.base, Path(folder))), section.quantization, section.dtype)

    def inner_states(self, tasks: int) -> int:
        """Bytes of the inner loop's states at its last step, of tasks computed together."""
        rule = adaptation(self.recipe.inner)
        adapting = {name: self.shapes[name] for name in rule.adapting(self.shapes)}
        return state_bytes(adapting, tasks, self.recipe.inner.steps, rule.build()).device

    def laid_out(self, examples: int, lengths: Lengths) -> int:
        """Tokens of the rows of one task with so many examples, filling included."""
        planner = Planner(self.recipe.suite.max_row_tokens)
        (plan,) = planner.plan([Sizes(lengths.shared, (lengths.own,) * examples)])
        return len(plan) * (lengths.shared + lengths.own * max(map(len, plan)))

    def together(self, lengths: Lengths) -> int:
        """How many such tasks a micro-batch computes."""
        suite = self.recipe.suite
        if suite.task_micro_batch != "auto":
            return suite.task_micro_batch
        task = max(self.laid_out(suite.most_shots, lengths), self.laid_out(suite.query, lengths))
        return max(1, min(suite.tasks_per_step, PIECE_TOKENS // task))

    def tokens(self, lengths: Lengths) -> list[int]:
        """Tokens of a step of each phase."""
        suite = self.recipe.suite
        support, query = self.laid_out(suite.most_shots, lengths), self.laid_out(suite.query, lengths)
        return [suite.tasks_per_step * (phase.loop.steps * support + query) for phase in self.recipe.phases]

    def all_tokens(self, lengths: Lengths) -> int:
        """Tokens of all steps."""
        return sum(tokens * phase.steps for tokens, phase in zip(self.tokens(lengths), self.recipe.phases, strict=True))

    def activations(self, lengths: Lengths, layers: Layers) -> int:
        """Bytes that one micro-batch keeps for the way back: of the decoder layers, and of the label tokens' logits and their gradient."""
        suite, depth = self.recipe.suite, self.base.text["num_hidden_layers"]
        examples, tasks = max(suite.most_shots, suite.query), self.together(lengths)
        logits = tasks * examples * lengths.label * self.base.text["vocab_size"] * DTYPES[self.recipe.base.dtype].itemsize
        return layers.activations(tasks * self.laid_out(examples, lengths), depth) + 2 * logits


def measured_layers(ready: Ready, lengths: Lengths) -> Layers:
    """Measure one and two layers of a base, with the recipe's rank and its way of keeping activations."""
    config, section = AutoConfig.for_model(**ready.base.text), ready.recipe.adapter
    examples = [one for (one,) in conversations(Shape(1, EXAMPLES, lengths.shared, lengths.own), ready.base.text["vocab_size"]).support[0]]
    base = ready.recipe.base
    spec = BaseSpec(base.id, base.source, "none", base.dtype)
    return measure_layers(config, spec, LoraSpec(section.r, section.lora_alpha), ready.recipe.run.gradient_checkpointing, examples)


def ready_recipes() -> list[Ready]:
    """All recipes of the bases that are known, the smallest base first."""
    names = sorted(BASES, key=lambda name: BASES[name].parameters)
    found = ((name, path) for name in names for path in sorted(RECIPES.rglob(f"*-{name}.yaml")))
    return [Ready(path.stem, load_recipe(path), BASES[name]) for name, path in found]


def counted(ready: Ready, usual: Lengths) -> list[str]:
    """The columns of a recipe's row that are counted, the same on every machine."""
    return [
        f"`{ready.name}`",
        _count(ready.base.parameters),
        _size(ready.in_memory),
        _count(ready.values),
        _size(ready.trained),
        _size(ready.inner_states(ready.together(usual))),
        " / ".join(map(_count, ready.tokens(usual))),
        _count(ready.all_tokens(usual)),
    ]


def measured(ready: Ready, usual: Lengths) -> list[str]:
    """The columns that hang on activations."""
    length, layers = ready.recipe.suite.max_length, measured_layers(ready, usual)
    cases = usual, Lengths(usual.shared, length - usual.shared, length // 4)
    kept = [ready.activations(lengths, layers) for lengths in cases]
    rest = [ready.in_memory + ready.trained + ready.inner_states(ready.together(lengths)) for lengths in cases]
    return [" / ".join(map(_size, kept)), " / ".join(_size(sum(pair)) for pair in zip(rest, kept, strict=True))]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _count(number: int) -> str:
    # what rounds to a thousand of one unit is one of the next
    return next(f"{number / unit:.3g} {word}" for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if number >= 0.9995 * unit)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The lengths that are assumed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=int, default=USUAL.shared, help="tokens of the template's head and the instruction")
    parser.add_argument("--own", type=int, default=USUAL.own, help="tokens of an input and its answer")
    parser.add_argument("--label", type=int, default=USUAL.label, help="tokens of an answer")
    return parser.parse_args(arguments)


def table(ready: list[Ready], usual: Lengths) -> str:
    """The table in Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *([*counted(each, usual), *measured(each, usual)] for each in ready)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    options: Any = options_of(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print(table(ready_recipes(), Lengths(options.shared, options.own, options.label)))


if __name__ == "__main__":
    main()
