"""From episodes to rows: rendering, laying out, and splitting the tasks of a step into pieces that are computed together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from headstart.algorithms.types import Batch
from headstart.errors import HeadstartError
from headstart.model.base import Base
from headstart.model.probe import trusted_tokens
from headstart.model.row_costs import counted_costs
from headstart.tasks.episodes import Draw, Episode
from headstart.tasks.planner import MAX_ROW_TOKENS, Planner, RowCosts, Sizes
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Layout, Rendered, Rows, build_rows, laid_out_tokens, row_sizes
from headstart.tasks.task import Example, Task

PIECE_TOKENS = 4096
"""`task_micro_batch: auto` computes tasks together up to so many tokens as laid out in rows, filling included."""
FILLING = 1.25
"""And as long as together they take at most so many times the tokens that they take apart."""

LayoutChoice = Literal["auto", "packed", "padded"]


class LayoutError(HeadstartError):
    """A base cannot compute the layout asked for; the message says how to mend it."""


@dataclass(frozen=True)
class Batcher:
    """Turns draws into tensors.

    Args:
        renderer: renders with the base's template.
        device: where the tensors go.
        layout: `packed` or `padded`.
        task_micro_batch: how many tasks are computed together; `auto` puts tasks of like length together.
        planner: decides which examples of a task share a packed row.
    """

    renderer: Renderer
    device: torch.device
    layout: Layout = "packed"
    task_micro_batch: int | str = "auto"
    planner: Planner = field(default_factory=Planner)

    @classmethod
    def of(
        cls,
        base: Base,
        renderer: Renderer,
        layout: LayoutChoice = "auto",
        task_micro_batch: int | str = "auto",
        max_row_tokens: int = MAX_ROW_TOKENS,
        costs: RowCosts | None = None,
    ) -> "Batcher":
        """The batcher for a base: `auto` packs rows where the base allows; rows cost the base's counted operations, unless told.

        Raises:
            LayoutError: `packed`, and the base's examples cannot share a row.
        """
        packs = base.packs and max(max_row_tokens, renderer.max_length) <= trusted_tokens(base.model)
        if layout == "packed" and not packs:
            raise LayoutError(
                f"suite.layout: the examples of a row are not independent in {base.spec.id}; set suite.layout to auto or padded"
            )
        planner = Planner(max_row_tokens, costs or counted_costs(base.model))
        return cls(renderer, base.device, "packed" if packs and layout != "padded" else "padded", task_micro_batch, planner)

    def pieces(self, episode: Episode) -> Iterator[Episode]:
        """Split an episode into parts that are computed together, tasks of like length in one."""
        ordered = sorted(episode, key=lambda draw: self._tokens([draw]))
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
        return Batch(support, self.query_rows(episode), len(episode))

    def query_rows(self, episode: Episode) -> Rows:
        """Query rows, each example with its own answer alone."""
        return self._rows([self._alone(draw.task, draw.query) for draw in episode])

    def ranking_rows(self, episode: Episode) -> Rows:
        """Query rows in which every label of a classification task stands as a candidate answer, the true one first."""
        return self._rows([self._candidates(draw.task, draw.query) for draw in episode])

    def _rows(self, tasks: Sequence[Sequence[Sequence[Rendered]]]) -> Rows:
        pad: Any = self.renderer.tokenizer.pad_token_id
        return build_rows(tasks, layout=self.layout, pad_id=pad or 0, planner=self.planner).to(self.device)

    def _alone(self, task: Task, examples: Sequence[Example]) -> list[list[Rendered]]:
        return [[one] for one in self.renderer.render(task.instruction, examples)]

    def _candidates(self, task: Task, examples: Sequence[Example]) -> list[list[Rendered]]:
        return [
            self.renderer.render(
                task.instruction,
                [example, *(replace(example, output=label, tokens=None) for label in task.labels if label != example.output)],
            )
            for example in examples
        ]

    def sizes(self, draw: Draw, ranked: bool = False) -> Sizes:
        """The tokens of a task's query examples; `ranked` with every label as a candidate answer."""
        examples = self._candidates(draw.task, draw.query) if ranked else self._alone(draw.task, draw.query)
        return row_sizes(examples)

    def tokens(self, piece: Episode, inner_steps: int) -> int:
        """Tokens that the base computes in `inner_steps` passes over support rows and one over query rows, filling included."""
        support = piece[0].support
        parts = [self._laid_out(piece, index % len(support)) for index in range(inner_steps)] if support else []
        return sum(parts) + self._laid_out(piece, None)

    def _laid_out(self, draws: Sequence[Draw], minibatch: int | None) -> int:
        """Tokens of a batch of rows of these tasks together: of a support minibatch, or of their query where it is None."""
        tasks = [self._alone(draw.task, draw.query if minibatch is None else draw.support[minibatch]) for draw in draws]
        return laid_out_tokens(tasks, layout=self.layout, planner=self.planner)

    def _tokens(self, draws: Sequence[Draw]) -> int:
        """Tokens of the largest batch of rows of these tasks together: of their first support minibatch, or their query."""
        return max(self._laid_out(draws, minibatch) for minibatch in ((0, None) if draws[0].support else (None,)))

    def _fits_with(self, part: Sequence[Draw], draw: Draw) -> bool:
        if self.task_micro_batch != "auto":
            return len(part) < int(self.task_micro_batch)
        together = self._tokens([*part, draw])
        return together <= PIECE_TOKENS and together <= FILLING * (self._tokens(part) + self._tokens([draw]))


def padding_share(batch: Batch) -> float:
    """The share of a batch's tokens that only fill rows up."""
    rows: list[Rows] = [*batch.support, batch.query]
    return sum(each.filling for each in rows) / sum(each.tokens for each in rows)
