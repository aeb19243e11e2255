"""From episodes to rows: rendering, laying out, and splitting the tasks of a step into pieces that are computed together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from headstart.algorithms.types import Batch
from headstart.tasks.episodes import Draw, Episode
from headstart.tasks.render import Rendered, Renderer
from headstart.tasks.rows import Layout, Rows, build_rows
from headstart.tasks.task import Example, Task

PIECE_TOKENS = 6144
"""`task_micro_batch: auto` computes tasks together up to so many support tokens, counted before packing."""


@dataclass(frozen=True)
class Batcher:
    """Turns draws into tensors.

    Args:
        renderer: renders with the base's template.
        device: where the tensors go.
        layout: `packed` or `padded`.
        task_micro_batch: how many tasks are computed together; `auto` puts tasks of like length together.
    """

    renderer: Renderer
    device: torch.device
    layout: Layout = "packed"
    task_micro_batch: int | str = "auto"

    def pieces(self, episode: Episode) -> Iterator[Episode]:
        """Split an episode into parts that are computed together, tasks of like length in one."""
        ordered = sorted(episode, key=self._tokens)
        part: list[Draw] = []
        for draw in ordered:
            if part and not self._fits_with(part, draw):
                yield tuple(part)
                part = []
            part.append(draw)
        yield tuple(part)

    def batch(self, episode: Episode) -> Batch:
        """Support and query rows of one piece."""
        support = [
            self._rows([self._alone(draw.task, draw.support[index]) for draw in episode]) for index in range(len(episode[0].support))
        ]
        return Batch(support, self._rows([self._alone(draw.task, draw.query) for draw in episode]), len(episode))

    def ranking_rows(self, episode: Episode) -> Rows:
        """Query rows in which every label of a classification task stands as a candidate answer, the true one first."""
        return self._rows([self._candidates(draw.task, draw.query) for draw in episode])

    def _rows(self, tasks: Sequence[Sequence[Sequence[Rendered]]]) -> Rows:
        pad: Any = self.renderer.tokenizer.pad_token_id
        return build_rows(tasks, layout=self.layout, pad_id=pad or 0).to(self.device)

    def _alone(self, task: Task, examples: Sequence[Example]) -> list[list[Rendered]]:
        return [[one] for one in self.renderer.render(task.instruction, examples)]

    def _candidates(self, task: Task, examples: Sequence[Example]) -> list[list[Rendered]]:
        answers = [[example.output, *(label for label in task.labels if label != example.output)] for example in examples]
        return [
            self.renderer.render(task.instruction, [Example(example.input, answer) for answer in mine])
            for example, mine in zip(examples, answers, strict=True)
        ]

    def _tokens(self, draw: Draw) -> int:
        return sum(len(one.ids) for one in self.renderer.render(draw.task.instruction, draw.support[0] if draw.support else draw.query))

    def _fits_with(self, part: Sequence[Draw], draw: Draw) -> bool:
        if self.task_micro_batch != "auto":
            return len(part) < int(self.task_micro_batch)
        longest = self._tokens(draw)
        return longest * (len(part) + 1) <= PIECE_TOKENS and longest <= 2 * self._tokens(part[0])
