"""Passes of many adapters over one base, in as many micro-batches as memory asks for; what they are split into changes no result."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from headstart.algorithms.inner import gradients
from headstart.algorithms.rules import per_task
from headstart.algorithms.types import Tensors
from headstart.batches import PIECE_TOKENS, Batcher
from headstart.model.base import Base
from headstart.model.learner import Learner, LoraSpec
from headstart.scoring import Answer, answers, losses
from headstart.tasks.episodes import Draw
from headstart.tasks.planner import Sizes
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rows

T = TypeVar("T")
Part = tuple[int, range]
"""A task's number, and which of its examples."""


@dataclass(frozen=True)
class MicroBatch:
    """Some examples of some tasks, computed together.

    Args:
        tasks: their numbers, ascending.
        draws: each one's examples, as query.
        shares: each one's share of its task's examples.
    """

    tasks: tuple[int, ...]
    draws: tuple[Draw, ...]
    shares: tuple[float, ...]


@dataclass
class Passes:
    """Computes adapters with a leading task axis on draws, of which only task and query count; `phi` leads with as many tasks.

    Args:
        learner: the base with its sites.
        batcher: makes rows.
        tokens: a micro-batch has about so many at most, unless it is a single example; halved where memory runs out.
    """

    learner: Learner
    batcher: Batcher
    tokens: int = PIECE_TOKENS
    _rows: tuple[tuple[Draw, ...], list[tuple[MicroBatch, Rows]]] = field(default=((), []), repr=False)

    def gradients(self, phi: Tensors, draws: Sequence[Draw], names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `(T,)` and each task's own gradient in the tensors named, accumulated over micro-batches."""
        return self._retried(lambda: self._gradients(phi, draws, names))

    def losses(self, phi: Tensors, draws: Sequence[Draw]) -> list[Tensor]:
        """The loss of every example `(N,)`, task by task."""
        found: list[list[Tensor]] = self._retried(lambda: self._each(partial(losses, self.learner), phi, draws, False))
        return [torch.cat(parts) if parts else torch.empty(0) for parts in found]

    def answers(self, phi: Tensors, draws: Sequence[Draw], told: Callable[[float], None] | None = None) -> list[list[Answer]]:
        """How every example is answered, task by task, labels being ranked; `told` hears of the share that is done."""
        found: list[list[list[Answer]]] = self._retried(lambda: self._each(partial(answers, self.learner), phi, draws, True, told))
        return [[answer for part in parts for answer in part] for parts in found]

    def _gradients(self, phi: Tensors, draws: Sequence[Draw], names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        prepared = self._prepared(draws)
        if len(prepared) == 1:
            return gradients(self.learner.losses, phi, prepared[0][1], names)
        total = {name: torch.zeros_like(phi[name]) for name in names}
        values = torch.zeros(len(draws), device=self.batcher.device)
        for micro, rows in prepared:
            index = torch.tensor(micro.tasks, device=values.device)
            share = torch.tensor(micro.shares, device=values.device)
            part, found = gradients(self.learner.losses, selected(phi, index), rows, names)
            values.index_add_(0, index, part * share)
            for name, gradient in found.items():
                total[name].index_add_(0, index, gradient * per_task(share, gradient))
        return values, total

    def _prepared(self, draws: Sequence[Draw]) -> list[tuple[MicroBatch, Rows]]:
        """Micro-batches with their rows; kept for the next step, which may be of the same draws."""
        key = tuple(draws)
        if len(key) != len(self._rows[0]) or any(a is not b for a, b in zip(key, self._rows[0], strict=True)):
            self._rows = key, [(micro, self.batcher.query_rows(micro.draws)) for micro in self._split(draws)]
        return self._rows[1]

    def _each(
        self,
        compute: Callable[[Tensors, Sequence[Draw], Batcher], list[T]],
        phi: Tensors,
        draws: Sequence[Draw],
        ranked: bool,
        told: Callable[[float], None] | None = None,
    ) -> list[list[T]]:
        found: list[list[T]] = [[] for _ in draws]
        micros = self._split(draws, ranked)
        for number, micro in enumerate(micros, start=1):
            index = torch.tensor(micro.tasks, device=self.batcher.device)
            whole = micro.tasks == tuple(range(len(draws)))
            parts = compute(phi if whole else selected(phi, index), micro.draws, self.batcher)
            for task, part in zip(micro.tasks, parts, strict=True):
                found[task].append(part)
            if told:
                told(number / len(micros))
        return found

    def _split(self, draws: Sequence[Draw], ranked: bool = False) -> list[MicroBatch]:
        sizes = [self.batcher.sizes(draw, ranked) if draw.query else Sizes(0, ()) for draw in draws]
        return [_micro_batch(parts, draws) for parts in split(sizes, self.tokens)]

    def _retried(self, compute: Callable[[], T]) -> T:
        while True:
            try:
                return compute()
            except torch.OutOfMemoryError:
                # down to micro-batches of one example, which is the least there is
                if self.tokens <= 1:
                    raise
                self.tokens //= 2
                self._rows = (), []
                if self.batcher.device.type == "cuda":
                    torch.cuda.empty_cache()


@contextmanager
def passes_over(base: Base, lora: LoraSpec, max_length: int) -> Iterator[Passes]:
    """Passes over a base with sites of this shape, which it has until the end of the block."""
    batcher = Batcher.of(base, Renderer(base.tokenizer, max_length, base.spec.chat_template_kwargs))
    with Learner(base, lora) as learner:
        yield Passes(learner, batcher)


def split(sizes: Sequence[Sizes], limit: int) -> list[list[Part]]:
    """Micro-batches of about `limit` tokens at most, in order: tasks together while they fit, a task over the limit cut by examples."""
    found: list[list[Part]] = [[]]
    room = limit
    for task, size in enumerate(sizes):
        for part in _cut(size, limit):
            tokens = size.prefix + sum(size.examples[part.start : part.stop])
            if found[-1] and tokens > room:
                found.append([])
                room = limit
            found[-1].append((task, part))
            room -= tokens
    return [parts for parts in found if parts]


def _cut(size: Sizes, limit: int) -> list[range]:
    """A task's examples, in ranges of at most `limit` tokens each, or one example; a task that fits stays whole."""
    cuts, room = [0], limit - size.prefix
    for index, tokens in enumerate(size.examples):
        if tokens > room and index > cuts[-1]:
            cuts.append(index)
            room = limit - size.prefix
        room -= tokens
    return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(size.examples)], strict=True) if stop > start]


def _micro_batch(parts: Sequence[Part], draws: Sequence[Draw]) -> MicroBatch:
    chosen = tuple(replace(draws[task], query=draws[task].query[part.start : part.stop]) for task, part in parts)
    return MicroBatch(tuple(task for task, _ in parts), chosen, tuple(len(part) / len(draws[task].query) for task, part in parts))


def selected(phi: Tensors, index: Tensor) -> dict[str, Tensor]:
    """The tensors `(T, ...)` of some tasks."""
    return {name: tensor.index_select(0, index) for name, tensor in phi.items()}
