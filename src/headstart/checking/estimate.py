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

FLOATS = 4
"""Float32 numbers kept for each value of the adapter: itself, its meta-gradient, and AdamW's two moments."""
VOCABULARY = 512
"""Of the measured layers: logits are counted apart."""
MEASURED_TOKENS = 384
REPEATS, MOST_SECONDS = 5, 2.0
"""The fastest of so many counts, or of as many as fit into that time, as anything else on the machine only slows."""


@dataclass(frozen=True)
class Layers:
    """What a gradient takes on this machine.

    Args:
        kept: bytes a token that one layer and two layers hold for the way back.
        speed: counted operations a second, with two layers.
    """

    kept: tuple[float, float]
    speed: float

    def activations(self, tokens: int, layers: int) -> int:
        """Bytes that so many layers hold for a gradient over so many tokens."""
        one, two = self.kept
        return round(tokens * (one + (layers - 1) * (two - one)))


def measure_layers(config: Any, spec: BaseSpec, lora: LoraSpec, checkpointing: bool, examples: Sequence[Rendered]) -> Layers:
    """Compute a gradient over some examples, in one row, with one layer and with two.

    Args:
        config: of the base.
        spec: how it is quantised, and in which type it computes.
        lora: rank, and targets as suffixes of layers' names.
        checkpointing: whether layers are computed again on the way back.
        examples: of one task.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept, speed = list[float](), 0.0
    rows = build_rows([[[one] for one in _few(examples)]]).to(device)
    for layers in (1, 2):
        base = sketched(few_layers(config, layers), device, spec.quantization, spec.dtype)
        with Learner(base, lora, checkpointing) as learner:
            phi = {name: tensor[None].requires_grad_() for name, tensor in learner.fresh_adapter().items()}
            with SavedBytes([*base.model.parameters(), *base.model.buffers(), *phi.values()]) as saved:
                _gradient(learner, phi, rows)
            kept.append(saved.peak / rows.tokens)
            if layers == 2:
                speed = _speed(learner, phi, rows)
    return Layers((kept[0], kept[1]), speed)


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
    """

    model: Any
    cost: PassCost
    again: bool
    dtype: str
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
        # attention over blocks is taken wherever PyTorch's would have been
        blocks = self.model.config.get_text_config()._attn_implementation == "sdpa"
        pairs = rows.blocks.pairs if blocks else rows.tokens * rows.input_ids.shape[1]
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
    paper = Paper(model, pass_cost(model, names, recipe.adapter.r), recipe.run.gradient_checkpointing, recipe.base.dtype)
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
    names = target_names(model, recipe.adapter.target_modules, recipe.adapter.layers_to_transform)
    shapes = {name: linear_shape(model.get_submodule(name)) for name in names}
    r, config = recipe.adapter.r, model.config.get_text_config()
    values = {f"{name}.lora_A": (r, d_in) for name, (d_in, _) in shapes.items()} | {
        f"{name}.lora_B": (d_out, r) for name, (_, d_out) in shapes.items()
    }
    weights = footprint(spec)
    rows = [each for batch in batches for each in (*batch.support, batch.query)]
    tokens, labels = max(each.tokens for each in rows), max(len(each.targets) for each in rows)
    return {
        "weights": weights.four_bit_bytes + weights.dense_bytes,
        "adapter, gradient and AdamW's moments": FLOATS * 4 * sum(rows * columns for rows, columns in values.values()),
        "tasks' adapters": max(
            (_inner(recipe, phase, values, max(batch.tasks for batch in batches)) for phase in recipe.phases), default=0
        ),
        "activations": layers.activations(tokens, config.num_hidden_layers),
        "logits": 2 * labels * config.vocab_size * max(4, DTYPES[spec.dtype].itemsize),
    }


def _inner(recipe: Recipe, phase: Phase, shapes: Mapping[str, tuple[int, int]], tasks: int) -> int:
    rule, steps = adaptation(phase.loop), phase.loop.steps
    if not steps:
        return tasks * 4 * sum(rows * columns for rows, columns in shapes.values())
    adapting = {name: shapes[name] for name in rule.adapting(shapes)}
    return state_bytes(adapting, tasks, steps, rule.build(), getattr(phase, "inner_state", "keep")).device


def free_memory() -> int:
    """Bytes that are free where the base will lie."""
    return int(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)


def lora_of(recipe: Recipe, model: Any) -> LoraSpec:
    """The recipe's adapter for a base of fewer layers: its targets by the ends of their names."""
    names = target_names(model, recipe.adapter.target_modules, recipe.adapter.layers_to_transform)
    return replace(LoraSpec(recipe.adapter.r, recipe.adapter.lora_alpha), target_modules=tuple(suffixes(list(names))))
