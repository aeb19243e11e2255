"""What a recipe will take on this machine: memory by its parts, and time by its phases; estimated without loading weights.

Weights, states and operations are counted. How fast this machine computes, and what a layer keeps for the way back, is measured on one
and two decoder layers of true width with random weights.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import psutil
import torch
from torch import Tensor

from headstart.algorithms import ALGORITHMS
from headstart.algorithms.trail import state_bytes
from headstart.algorithms.types import Batch
from headstart.batches import Batcher
from headstart.model.base import DTYPES, BaseSpec
from headstart.model.flops import Order, PassCost, pass_cost
from headstart.model.layers import decoder_layers
from headstart.model.learner import Learner, LoraSpec
from headstart.model.memory import footprint
from headstart.model.row_costs import counted_costs
from headstart.model.saved import SavedBytes
from headstart.model.sites import linear_shape
from headstart.model.sketch import sketched
from headstart.model.targets import suffixes, target_names
from headstart.model.twins import in_forward_mode
from headstart.recipe import Phase, Recipe
from headstart.tasks.episodes import Episode
from headstart.tasks.rows import Rendered, Rows, build_rows
from headstart.training.inner import inner_loop
from headstart.training.loop import adaptation

FLOAT32 = 4
"""Bytes."""
FLOATS = 4
"""Float32 numbers kept for each value of the adapter: itself, its meta-gradient, and AdamW's two moments; one more where it is averaged."""
VOCABULARY = 512
"""Of the measured layers: logits are counted apart."""
MEASURED_TOKENS, TOGETHER = 384, 1024
"""Tokens of a measured task at most, and of all that are computed together."""
REPEATS, MOST_SECONDS = 5, 2.0
"""The fastest of so many counts, or of as many as fit into that time, as anything else on the machine only slows."""


@dataclass(frozen=True)
class Layers:
    """What a gradient takes on this machine.

    Args:
        kept: bytes a token that one layer and two layers hold for the way back.
        speed: counted operations a second, with two layers.
        packs: whether examples can share a row.
        blocks: whether attention computes only the pairs of a block.
    """

    kept: tuple[float, float]
    speed: float
    packs: bool
    blocks: bool

    def activations(self, tokens: int, layers: int) -> int:
        """Bytes that so many layers hold for a gradient over so many tokens."""
        one, two = self.kept
        return round(tokens * (one + (layers - 1) * (two - one)))


def measure_layers(
    config: Any, spec: BaseSpec, lora: LoraSpec, checkpointing: bool, examples: Sequence[Rendered], tasks: int = 1
) -> Layers:
    """Compute a gradient over some examples, in one row where they can share it, with one layer and with two.

    Args:
        config: of the base.
        spec: how it is quantised, and in which type it computes.
        lora: rank, and targets as suffixes of layers' names.
        checkpointing: whether layers are computed again on the way back.
        examples: of one task.
        tasks: how many such tasks are computed together, as far as they make some hundreds of tokens.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept, speed, task = list[float](), 0.0, [[one] for one in _few(examples)]
    tasks = max(1, min(tasks, TOGETHER // sum(len(one.ids) for (one,) in task)))
    for layers in (1, 2):
        base = sketched(few_layers(config, layers), device, spec.quantization, spec.dtype)
        rows = build_rows([task] * tasks, layout="packed" if base.packs else "padded").to(device)
        with Learner(base, lora, checkpointing) as learner:
            phi = {name: tensor.repeat(tasks, 1, 1).requires_grad_() for name, tensor in learner.fresh_adapter().items()}
            with SavedBytes([*base.model.parameters(), *base.model.buffers(), *phi.values()]) as saved:
                _gradient(learner, phi, rows)
            kept.append(saved.peak / rows.tokens)
            if layers == 2:
                speed = _speed(learner, phi, rows)
    return Layers((kept[0], kept[1]), speed, base.packs, counted_costs(base.model).blocks)


def _speed(learner: Learner, phi: dict[str, Tensor], rows: Rows) -> float:
    """Counted operations a second of the fastest of some gradients."""
    found, began = list[float](), time.perf_counter()
    while len(found) < REPEATS and (not found or time.perf_counter() - began < MOST_SECONDS):
        counted, started = learner.flops, time.perf_counter()
        _gradient(learner, phi, rows)
        found.append((learner.flops - counted) / (time.perf_counter() - started))
    return max(found)


def _gradient(learner: Learner, phi: dict[str, Tensor], rows: Rows) -> None:
    torch.autograd.grad(learner.losses(phi, rows).sum(), list(phi.values()))
    if rows.input_ids.is_cuda:
        torch.cuda.synchronize()


def _few(examples: Sequence[Rendered]) -> list[Rendered]:
    """As many examples as make some hundreds of tokens, in a small vocabulary."""
    chosen: list[Rendered] = []
    for one in examples:
        if chosen and sum(len(each.ids) for each in chosen) + len(one.ids) > MEASURED_TOKENS:
            break
        chosen.append(Rendered(tuple(index % VOCABULARY for index in one.ids), one.answer))
    return chosen


def few_layers(config: Any, layers: int) -> Any:
    """The configuration of a base's text model with so many layers and a small vocabulary."""
    few = deepcopy(config.get_text_config())
    few.num_hidden_layers, few.vocab_size = layers, VOCABULARY
    few.pad_token_id = few.bos_token_id = few.eos_token_id = None
    if getattr(few, "layer_types", None):
        few.layer_types = few.layer_types[:layers]
    return few


@dataclass
class Paper:
    """Stands for a learner and counts the operations of what it is asked, without computing any of it.

    A learner takes over what frozen layers put out where only higher ones adapt; that is not counted, so such a phase takes less.

    Args:
        model: without weights.
        cost: of a pass.
        again: whether layers are computed again on the way back.
        dtype: the base's, which finite differences go by.
        blocks: whether attention computes only the pairs of a block.
    """

    model: Any
    cost: PassCost
    again: bool
    dtype: str
    blocks: bool
    flops: int = 0
    forward_mode: bool = True
    _twice: bool = field(default=False)

    @property
    def base(self) -> Any:
        """What is asked of the base."""
        return SimpleNamespace(spec=SimpleNamespace(dtype=self.dtype))

    @contextmanager
    def second_order(self) -> Iterator[None]:
        """As the learner's: layers are computed again inside."""
        before, self._twice = self._twice, True
        try:
            yield
        finally:
            self._twice = before

    def losses(self, phi: Mapping[str, Tensor], rows: Rows) -> Tensor:
        """The sum of each task's adapters, which has a gradient in all of them; the losses' operations are counted."""
        order: Order = "tangent" if in_forward_mode(*phi.values()) else "gradient"
        pairs = rows.blocks.pairs if self.blocks else rows.tokens * rows.input_ids.shape[1]
        self.flops += self.cost.flops(rows, pairs, order, frozen=self._frozen(phi), again=self.again or self._twice)
        return torch.stack([torch.stack([tensor[task].sum() for tensor in phi.values()]).sum() for task in range(rows.tasks)])

    def _frozen(self, phi: Mapping[str, Tensor]) -> int:
        """How many of the lowest layers have nothing in them that a gradient is wanted of."""
        wanted = [name for name, tensor in phi.items() if tensor.requires_grad or in_forward_mode(tensor)]
        layers = list(self._layers)
        return next((index for index, layer in enumerate(layers) if any(name.startswith(f"{layer}.") for name in wanted)), len(layers))

    @cached_property
    def _layers(self) -> Collection[str]:
        return decoder_layers(self.model)


def step_operations(recipe: Recipe, phase: Phase, episodes: Sequence[Episode], batcher: Batcher, model: Any) -> float:
    """The operations of one step of a phase, as a mean over episodes spread over the phase: the algorithm itself is run, on paper."""
    names = target_names(model, recipe.adapter.target_modules, recipe.adapter.layers_to_transform)
    cost, blocks = pass_cost(model, names, recipe.adapter.r), batcher.planner.costs.blocks
    paper = Paper(model, cost, recipe.run.gradient_checkpointing, recipe.base.dtype, blocks)
    theta = {f"{name}.lora_{side}": torch.zeros(1, 1) for name in names for side in "AB"}
    rule = adaptation(phase.loop)
    for number, episode in enumerate(episodes):
        # what a step weighs, and with it what it computes, may move along the phase
        done = (number + 0.5) / len(episodes)
        loop = inner_loop(phase, rule.build(), rule.constant_rates(theta), done, cast(Learner, paper))
        for piece in batcher.pieces(episode):
            ALGORITHMS[phase.algorithm](paper.losses, theta, batcher.batch(piece), loop)
    return paper.flops / len(episodes)


def memory(recipe: Recipe, spec: BaseSpec, model: Any, batches: Sequence[Batch], layers: Layers) -> dict[str, int]:
    """Bytes by what they are for, in the step that takes most of those looked at."""
    shapes, config, weights = adapter_shapes(recipe, model), model.config.get_text_config(), footprint(spec)
    names = [name.removesuffix(".lora_A") for name in shapes if name.endswith(".lora_A")]
    # what stands below the first adapted layer keeps nothing
    reached = round(config.num_hidden_layers * pass_cost(model, names).reached)
    rows = [each for batch in batches for each in (*batch.support, batch.query)]
    tokens, labels = max(each.tokens for each in rows), max(len(each.targets) for each in rows)
    tasks = max(batch.tasks for batch in batches)
    floats = FLOATS + bool(recipe.outer.ema_decay)
    return {
        "weights": weights.four_bit_bytes + weights.dense_bytes,
        "adapter, gradient and AdamW's moments": floats * FLOAT32 * _values(shapes),
        "tasks' adapters": max((_inner(phase, shapes, tasks) for phase in recipe.phases), default=0),
        "activations": layers.activations(tokens, reached),
        "logits": 2 * labels * config.vocab_size * max(FLOAT32, DTYPES[spec.dtype].itemsize),
    }


def adapter_shapes(recipe: Recipe, model: Any) -> dict[str, tuple[int, int]]:
    """The shape of every adapter tensor, as `Learner.shapes` gives it.

    Raises:
        TargetError: the targets do not fit the base.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name in target_names(model, recipe.adapter.target_modules, recipe.adapter.layers_to_transform):
        d_in, d_out = linear_shape(model.get_submodule(name))
        shapes |= {f"{name}.lora_A": (recipe.adapter.r, d_in), f"{name}.lora_B": (d_out, recipe.adapter.r)}
    return shapes


def _values(shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(rows * columns for rows, columns in shapes.values())


def _inner(phase: Phase, shapes: Mapping[str, tuple[int, int]], tasks: int) -> int:
    rule, steps = adaptation(phase.loop), phase.loop.steps
    if not steps:
        return tasks * FLOAT32 * _values(shapes)
    adapting = {name: shapes[name] for name in rule.adapting(shapes)}
    return state_bytes(adapting, tasks, steps, rule.build(), getattr(phase, "inner_state", "keep")).device


def free_memory() -> int:
    """Bytes that are free where the base will lie."""
    return int(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)


def lora_of(recipe: Recipe, model: Any) -> LoraSpec:
    """The recipe's adapter for a base of fewer layers: its targets by the ends of their names."""
    names = target_names(model, recipe.adapter.target_modules, recipe.adapter.layers_to_transform)
    return replace(LoraSpec(recipe.adapter.r, recipe.adapter.lora_alpha), target_modules=tuple(suffixes(list(names))))
