"""Rows: the token tensors of a batch of tasks, in one of two layouts that mean the same.

Shape suffixes: T tasks, R rows, L tokens of a row, N sequences (one per example and candidate answer), P label tokens.

`padded` gives every sequence a row of its own. `packed` lays a task out as a tree in one row,

    [shared prefix | example 1 | example 2 | ...]          and, where an example has several candidate answers,
    [shared prefix | prompt 1 | answer 1a | answer 1b | prompt 2 | ...]

where a token sees its own branch only and positions restart after the shared part, so that the instruction is computed once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from headstart.tasks.render import Rendered, common_prefix

Layout = Literal["packed", "padded"]
Candidates = Sequence[Rendered]
"""The rendered conversations of one example: its own answer first, then other answers to rank it against."""

MAX_ROW_TOKENS = 1024
"""A packed row is closed before it grows longer: attention over a dense mask costs the square of a row's length."""

_SHARED = -1
_PADDING = -2


@dataclass(frozen=True)
class Rows:
    """Token tensors of T tasks; every task's loss is the mean over its examples of the mean over their label tokens.

    Args:
        input_ids: `(R, L)`.
        position_ids: `(R, L)`.
        attention_mask: packed `(R, 1, L, L)` and true where a query may look at a key; padded `(R, L)` and true on tokens.
        row_task: `(R,)` the task of each row, in ascending order.
        predicts: `(R, L)` true where the next token is a label.
        targets: `(P,)` the label tokens, in the row-major order of `predicts`.
        sequence: `(P,)` the sequence that each label token belongs to.
        weight: `(P,)` float32, a label token's share in its task's loss.
        task: `(P,)` the task of each label token.
        sequence_task: `(N,)` the task of each sequence.
        sequence_example: `(N,)` the example of each sequence, numbered over the whole batch.
        tasks: T.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    row_task: Tensor
    predicts: Tensor
    targets: Tensor
    sequence: Tensor
    weight: Tensor
    task: Tensor
    sequence_task: Tensor
    sequence_example: Tensor
    tasks: int

    @property
    def tokens(self) -> int:
        """Tokens that the base computes, padding included."""
        return self.input_ids.numel()

    @property
    def one_row_a_task(self) -> bool:
        """Whether row i is task i, so that adapters need no gathering."""
        return len(self.row_task) == self.tasks

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
    branch: int = _SHARED
    leaf: int = _SHARED
    labels: int = 0
    sequence: int = -1


@dataclass(frozen=True)
class _Row:
    task: int
    segments: tuple[_Segment, ...]

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


def build_rows(
    tasks: Sequence[Sequence[Candidates]], *, layout: Layout = "packed", pad_id: int = 0, max_row_tokens: int = MAX_ROW_TOKENS
) -> Rows:
    """Lay a batch of tasks out as rows.

    Args:
        tasks: for each task its examples, for each example its candidate conversations, the true one first.
        layout: `packed` or `padded`.
        pad_id: the id to fill short rows with; it is never trained on nor looked at.
        max_row_tokens: packed rows are split where they would exceed it; the prefix is repeated.

    Raises:
        ValueError: a task without examples.
    """
    if not tasks or not all(tasks):
        raise ValueError("every task of a batch needs at least one example")
    numbered = _number(tasks)
    lay = _packed_rows if layout == "packed" else _padded_rows
    rows = [row for task, examples in enumerate(numbered) for row in lay(task, examples, max_row_tokens)]
    return _tensors(rows, tasks, pad_id, layout)


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


def _padded_rows(task: int, examples: _Numbered, _: int) -> Iterator[_Row]:
    for first, candidates in examples:
        for offset, one in enumerate(candidates):
            labels = len(one.ids) - one.answer
            yield _Row(task, (_Segment(one.ids, 0, branch=0, leaf=0, labels=labels, sequence=first + offset),))


def _packed_rows(task: int, examples: _Numbered, max_row_tokens: int) -> Iterator[_Row]:
    everything = [one for _, candidates in examples for one in candidates]
    shared = common_prefix(everything)
    prefix = _Segment(everything[0].ids[:shared], 0)
    segments, length = [prefix], shared
    for branch, (first, candidates) in enumerate(examples):
        added = list(_branch(candidates, shared, branch, first))
        size = sum(len(segment.ids) for segment in added)
        if len(segments) > 1 and length + size > max_row_tokens:
            yield _Row(task, tuple(segments))
            segments, length = [prefix], shared
        segments += added
        length += size
    yield _Row(task, tuple(segments))


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
    branch, leaf, sequence = (torch.full(shape, fill) for fill in (_PADDING, _PADDING, -1))
    for index, row in enumerate(rows):
        at = 0
        for segment in row.segments:
            end = at + len(segment.ids)
            input_ids[index, at:end] = torch.tensor(segment.ids)
            positions[index, at:end] = torch.arange(segment.start, segment.start + len(segment.ids))
            branch[index, at:end], leaf[index, at:end] = segment.branch, segment.leaf
            sequence[index, end - segment.labels : end] = segment.sequence
            at = end
    return _label(input_ids, positions, _mask(branch, leaf, layout), torch.tensor([row.task for row in rows]), sequence, tasks)


def _mask(branch: Tensor, leaf: Tensor, layout: Layout) -> Tensor:
    """A token sees the tokens before it that are shared with its branch and leaf."""
    if layout == "padded":
        return branch != _PADDING

    def sees(part: Tensor) -> Tensor:
        return (part[:, None, :] == _SHARED) | (part[:, None, :] == part[:, :, None])

    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return (causal & sees(branch) & sees(leaf))[:, None]


def _label(ids: Tensor, positions: Tensor, mask: Tensor, row_task: Tensor, sequence: Tensor, tasks: Sequence[Sequence[Candidates]]) -> Rows:
    is_label = sequence >= 0
    predicts = torch.zeros_like(is_label)
    predicts[:, :-1] = is_label[:, 1:]
    sequence = sequence[is_label]
    example_task = [task for task, examples in enumerate(tasks) for _ in examples]
    widths = [len(candidates) for examples in tasks for candidates in examples]
    sequence_example = torch.repeat_interleave(torch.tensor(widths))
    sequence_task = torch.tensor(example_task)[sequence_example]
    return Rows(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask,
        row_task=row_task,
        predicts=predicts,
        targets=ids[is_label],
        sequence=sequence,
        weight=_weights(sequence, sequence_task, sequence_example),
        task=sequence_task[sequence],
        sequence_task=sequence_task,
        sequence_example=sequence_example,
        tasks=len(tasks),
    )


def _weights(sequence: Tensor, sequence_task: Tensor, sequence_example: Tensor) -> Tensor:
    """1 / (examples of the task x label tokens of the sequence) on the true answers; other candidates do not count in a loss."""
    true = torch.ones_like(sequence_example, dtype=torch.bool)
    true[1:] = sequence_example[1:] != sequence_example[:-1]
    examples = torch.bincount(sequence_task[true])
    labels = torch.bincount(sequence, minlength=len(sequence_task))
    share = true / (examples[sequence_task] * labels)
    return share.float()[sequence]
