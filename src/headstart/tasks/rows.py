"""Rows: the token tensors of a batch of tasks, in one of two layouts that mean the same.

Shape suffixes: T tasks, R rows, L tokens of a row, N sequences (one per example and candidate answer), P label tokens.

`padded` gives every sequence a row of its own. `packed` lays a task out as a tree in one row,

    [shared prefix | example 1 | example 2 | ...]          and, where an example has several candidate answers,
    [shared prefix | prompt 1 | answer 1a | answer 1b | prompt 2 | ...]

where a token sees its own branch only and positions restart after the shared part, so that the instruction is computed once.
A planner may spread a task over several such rows, each with the prefix of its own.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from headstart.tasks.blocks import PADDING, SHARED, Blocks, blocks_of
from headstart.tasks.planner import Plan, Planner, Sizes

Layout = Literal["packed", "padded"]


@dataclass(frozen=True)
class Rendered:
    """The token ids of one conversation, up to and with the token that ends the answer.

    Args:
        ids: the ids of the whole conversation.
        answer: index of the first trained token; `ids[answer:]` are the answer and its end token.
    """

    ids: tuple[int, ...]
    answer: int


Candidates = Sequence[Rendered]
"""The rendered conversations of one example: its own answer first, then other answers to rank it against."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Token tensors of T tasks; every task's loss is the mean over its examples of the mean over their label tokens.

    Args:
        input_ids: `(R, L)`.
        position_ids: `(R, L)`, the place of a token in its own conversation.
        branch: `(R, L)` the example of each token, `SHARED` in the prefix; a token sees its own branch and what is shared.
        leaf: `(R, L)` the candidate answer of each token within its branch, `SHARED` before the answers.
        row_task: `(R,)` the task of each row, in ascending order.
        predicts: `(R, L)` true where the next token is a label.
        targets: `(P,)` the label tokens, in the row-major order of `predicts`.
        sequence: `(P,)` the sequence that each label token belongs to.
        weight: `(P,)` float32, a label token's share in its task's loss.
        task: `(P,)` the task of each label token.
        sequence_task: `(N,)` the task of each sequence.
        sequence_example: `(N,)` the example of each sequence, numbered over the whole batch.
        tasks: T.
        layout: `packed` or `padded`.
    """

    input_ids: Tensor
    position_ids: Tensor
    branch: Tensor
    leaf: Tensor
    row_task: Tensor
    predicts: Tensor
    targets: Tensor
    sequence: Tensor
    weight: Tensor
    task: Tensor
    sequence_task: Tensor
    sequence_example: Tensor
    tasks: int
    layout: Layout

    @property
    def tokens(self) -> int:
        """Tokens that the base computes, padding included."""
        return self.input_ids.numel()

    @property
    def one_row_a_task(self) -> bool:
        """Whether row i is task i, so that adapters need no gathering."""
        return len(self.row_task) == self.tasks

    @property
    def filling(self) -> int:
        """Tokens that only fill rows up."""
        return int((self.branch == PADDING).sum())

    @cached_property
    def memo(self) -> dict[Hashable, Any]:
        """What others have worked out from these rows and want to find again; goes with them."""
        return {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives, made the first time that it is asked for under this key."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    @cached_property
    def blocks(self) -> Blocks:
        """The tokens grouped by what they see; made once."""
        return blocks_of(self.branch, self.leaf, self.position_ids)

    def to(self, device: torch.device) -> "Rows":
        """The same rows on another device."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        moved: dict[str, Any] = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in values}
        return Rows(**moved)


@dataclass(frozen=True)
class _Segment:
    """A run of tokens of one row: which branch and leaf it belongs to, and which of its tokens are labels of which sequence."""

    ids: tuple[int, ...]
    start: int
    branch: int = SHARED
    leaf: int = SHARED
    labels: int = 0
    sequence: int = -1


@dataclass(frozen=True)
class _Row:
    task: int
    segments: tuple[_Segment, ...]

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


def common_prefix(rendered: Sequence[Rendered]) -> int:
    """Number of leading tokens that all conversations share, at least one token short of any answer.

    The token before an answer predicts it, so it stays with its own example in every layout.
    """
    first = rendered[0].ids
    shared = min(one.answer for one in rendered) - 1
    for one in rendered[1:]:
        while first[:shared] != one.ids[:shared]:
            shared = next(index for index in range(shared) if first[index] != one.ids[index])
    return max(shared, 0)


def build_rows(
    tasks: Sequence[Sequence[Candidates]], *, layout: Layout = "packed", pad_id: int = 0, planner: Planner | None = None
) -> Rows:
    """Lay a batch of tasks out as rows.

    Args:
        tasks: for each task its examples, for each example its candidate conversations, the true one first.
        layout: `packed` or `padded`.
        pad_id: the id to fill short rows with; it is never trained on nor looked at.
        planner: decides which examples of a task share a packed row; the default one where None.

    Raises:
        ValueError: a task without examples.
    """
    return _tensors(_lay_out(tasks, layout, planner or Planner()), tasks, pad_id, layout)


def laid_out_tokens(tasks: Sequence[Sequence[Candidates]], *, layout: Layout = "packed", planner: Planner | None = None) -> int:
    """How many tokens the rows of a batch have, filling included, without building them; as `build_rows(...).tokens`."""
    rows = _lay_out(tasks, layout, planner or Planner())
    return len(rows) * max(len(row) for row in rows)


def _lay_out(tasks: Sequence[Sequence[Candidates]], layout: Layout, planner: Planner) -> list["_Row"]:
    if not tasks or not all(tasks):
        raise ValueError("every task of a batch needs at least one example")
    numbered = _number(tasks)
    if layout == "padded":
        return [row for task, examples in enumerate(numbered) for row in _padded_rows(task, examples)]
    plans = planner.plan([row_sizes(examples) for examples in tasks])
    return [row for task, (examples, plan) in enumerate(zip(numbered, plans, strict=True)) for row in _packed_rows(task, examples, plan)]


def row_sizes(examples: Sequence[Candidates]) -> Sizes:
    """How many tokens a task's shared prefix takes, and each of its examples after it."""
    shared = common_prefix([one for candidates in examples for one in candidates])
    return Sizes(shared, tuple(sum(len(segment.ids) for segment in _branch(candidates, shared, 0, 0)) for candidates in examples))


_Numbered = list[tuple[int, Candidates]]
"""Examples of one task with the number of each example's first sequence."""


def _number(tasks: Sequence[Sequence[Candidates]]) -> list[_Numbered]:
    count, numbered = 0, list[_Numbered]()
    for examples in tasks:
        numbered.append([])
        for candidates in examples:
            numbered[-1].append((count, candidates))
            count += len(candidates)
    return numbered


def _padded_rows(task: int, examples: _Numbered) -> Iterator[_Row]:
    for first, candidates in examples:
        for offset, one in enumerate(candidates):
            labels = len(one.ids) - one.answer
            yield _Row(task, (_Segment(one.ids, 0, branch=0, leaf=0, labels=labels, sequence=first + offset),))


def _packed_rows(task: int, examples: _Numbered, plan: Plan) -> Iterator[_Row]:
    everything = [one for _, candidates in examples for one in candidates]
    shared = common_prefix(everything)
    prefix = _Segment(everything[0].ids[:shared], 0)
    for members in plan:
        branches = (_branch(examples[index][1], shared, index, examples[index][0]) for index in members)
        yield _Row(task, (prefix, *(segment for branch in branches for segment in branch)))


def _branch(candidates: Candidates, shared: int, branch: int, first: int) -> Iterator[_Segment]:
    """One example after the shared prefix: its own prompt once, then every candidate answer as a leaf."""
    stem = max(common_prefix(candidates), shared) if len(candidates) > 1 else shared
    if stem > shared:
        yield _Segment(candidates[0].ids[shared:stem], shared, branch=branch)
    for offset, one in enumerate(candidates):
        yield _Segment(one.ids[stem:], stem, branch, leaf=first + offset, labels=len(one.ids) - one.answer, sequence=first + offset)


def _tensors(rows: Sequence[_Row], tasks: Sequence[Sequence[Candidates]], pad_id: int, layout: Layout) -> Rows:
    shape = (len(rows), max(len(row) for row in rows))
    input_ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    branch, leaf, sequence = (torch.full(shape, fill) for fill in (PADDING, PADDING, -1))
    for index, row in enumerate(rows):
        at = 0
        for segment in row.segments:
            end = at + len(segment.ids)
            input_ids[index, at:end] = torch.tensor(segment.ids)
            positions[index, at:end] = torch.arange(segment.start, segment.start + len(segment.ids))
            branch[index, at:end], leaf[index, at:end] = segment.branch, segment.leaf
            sequence[index, end - segment.labels : end] = segment.sequence
            at = end
    is_label = sequence >= 0
    predicts = torch.zeros_like(is_label)
    predicts[:, :-1] = is_label[:, 1:]
    sequence = sequence[is_label]
    example_task = [task for task, examples in enumerate(tasks) for _ in examples]
    widths = [len(candidates) for examples in tasks for candidates in examples]
    sequence_example = torch.repeat_interleave(torch.tensor(widths))
    sequence_task = torch.tensor(example_task)[sequence_example]
    return Rows(
        input_ids=input_ids,
        position_ids=positions,
        branch=branch,
        leaf=leaf,
        row_task=torch.tensor([row.task for row in rows]),
        predicts=predicts,
        targets=input_ids[is_label],
        sequence=sequence,
        weight=_weights(sequence, sequence_task, sequence_example),
        task=sequence_task[sequence],
        sequence_task=sequence_task,
        sequence_example=sequence_example,
        tasks=len(tasks),
        layout=layout,
    )


def _weights(sequence: Tensor, sequence_task: Tensor, sequence_example: Tensor) -> Tensor:
    """1 / (examples of the task x label tokens of the sequence) on the true answers; other candidates do not count in a loss."""
    true = torch.ones_like(sequence_example, dtype=torch.bool)
    true[1:] = sequence_example[1:] != sequence_example[:-1]
    examples = torch.bincount(sequence_task[true])
    labels = torch.bincount(sequence, minlength=len(sequence_task))
    share = true / (examples[sequence_task] * labels)
    return share.float()[sequence]
