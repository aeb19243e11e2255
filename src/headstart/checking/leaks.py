"""Whole tasks that were copied from what is held out into what is trained on, whatever they are called there.

Two tasks are compared row by row, whatever their names, clusters, instructions and orders. A row's input is its words, without case and
white space, once as they are and once without those that all the task's inputs begin or end with, where an instruction may stand. What
counts is how far the outputs of shared inputs agree beyond chance (Cohen 1960), as they are or after a one-to-one renaming, and that
such an agreement is unlikely if outputs are dealt to the rows at random: honest tasks may ask different things of the same few words.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import lgamma, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.tasks.problems import Place, Problem
from headstart.tasks.reading.source import ROWS_A_LABEL, ReadTask

TRAINED, HELD_OUT = "meta_train", ("meta_validation", "meta_test")
LARGE_PART = 0.5
"""Of the smaller task's rows: from so many on that stand in the other, the tasks are looked at."""
AGREEMENT = 0.5
"""Outputs agree beyond chance where Cohen's kappa is at least this,"""
AGREEMENT_RENAMED = 0.9
"""and this much after the best one-to-one renaming, which is chosen to fit."""
SURPRISE = 5.0
"""Bits: an agreement that chance gives more often than once in 32 times is none."""
FEW_WORDS = 4
"""Inputs with fewer words on average, a frame left out, are too few to be told by."""


class _Rows(NamedTuple):
    """A task's rows as hashes: inputs as they are and without their frame, `(2, rows)`, and outputs `(rows,)`."""

    name: str
    places: Sequence[Place]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


class _Shared(NamedTuple):
    """What two tasks share.

    Args:
        rows: how many, with the same outputs if they agree, else with the same inputs.
        held: one of them, in the held-out task.
        trained: the same in the other.
        agree: whether the outputs agree beyond chance,
        renamed: or do so under other names.
    """

    rows: int
    held: int
    trained: int
    agree: bool
    renamed: bool


@dataclass
class Leaks:
    """Collects tasks as hashes, and finds those of a held-out split whose rows are trained on.

    Args:
        split_of: task -> its split; it may be filled after the tasks are added.
    """

    split_of: Mapping[str, str]
    found: set[frozenset[str]] = field(default_factory=set)
    _tasks: list[_Rows] = field(default_factory=list)

    def add(self, read: ReadTask, words: Sequence[Sequence[str]]) -> None:
        """Take a task and the `folded_words` of its inputs."""
        inputs = [_joined(each) for each in words]
        answers = [_answer(example.output, text) for example, text in zip(read.task.examples, inputs, strict=True)]
        keys = np.stack([_hashes(inputs), _hashes(_bare(read.task.instruction, words))])
        self._tasks.append(_Rows(read.task.name, read.places, keys, _hashes(answers)))

    def problems(self) -> Iterator[Problem]:
        """An error for each copied task, a note for each that asks something else of the same inputs; `found` has their names then."""
        trained = [task for task in self._tasks if self.split_of.get(task.name) == TRAINED]
        indices = [_Index.of(trained, which) for which in range(2)] if trained else []
        for held in (task for task in self._tasks if self.split_of.get(task.name) in HELD_OUT):
            shared: dict[int, _Shared] = {}
            for number, found in (each for index in indices for each in index.shared_with(held)):
                if number not in shared or found.agree > shared[number].agree:
                    shared[number] = found
            self.found |= {frozenset((held.name, trained[number].name)) for number in shared}
            yield from (self._told(held, trained[number], shared[number]) for number in sorted(shared))

    def _told(self, held: _Rows, trained: _Rows, shared: _Shared) -> Problem:
        smaller = min(held, trained, key=lambda task: len(task.outputs))
        share = f"{shared.rows} of the {len(smaller.outputs)}"
        copy, original = f"{trained.name!r} of {TRAINED!r}", f"{held.name!r} of {self.split_of[held.name]!r}"
        place, there = trained.places[shared.trained], held.places[shared.held]
        if not shared.agree:
            told = f"{share} inputs of {smaller.name!r} stand in both {copy} and {original}, this one in {there}"
            return Problem(f"{told}, with other outputs: the same inputs, another question", place, level="note")
        how = " with other names for the outputs" if shared.renamed else ""
        told = f"{share} rows of {smaller.name!r} stand in both {copy} and {original}{how}, this one in {there}"
        mend = f"what is held out must not be trained on: take {trained.name!r} out of {TRAINED!r}, or put both into one split"
        return Problem(f"{told}; {mend}", place)


@dataclass(frozen=True)
class _Index:
    """The training tasks' rows in the order of their inputs' hashes.

    Args:
        tasks: the training tasks.
        which: of the two hashes of an input.
        keys: the hashes, ascending.
        task: the number of each one's task.
        row: each one's row in it.
    """

    tasks: Sequence[_Rows]
    which: int
    keys: NDArray[np.int64]
    task: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, tasks: Sequence[_Rows], which: int) -> "_Index":
        """Put the rows of some tasks in order."""
        sizes = [len(task.outputs) for task in tasks]
        keys = np.concatenate([task.inputs[which] for task in tasks])
        order = np.argsort(keys, kind="stable")
        numbers, rows = np.repeat(np.arange(len(tasks)), sizes), np.concatenate([np.arange(size) for size in sizes])
        return cls(tasks, which, keys[order], numbers[order], rows[order])

    def shared_with(self, held: _Rows) -> Iterator[tuple[int, _Shared]]:
        """The numbers of the tasks that share a large part of the smaller one's inputs with one, and what they share."""
        rows, at = self._meetings(held)
        tasks = self.task[at]
        for number, met in enumerate(np.bincount(tasks, minlength=len(self.tasks)).tolist()):
            trained = self.tasks[number]
            least = _least(held, trained)
            if met >= least:
                mine = tasks == number
                found = _compared(held, trained, rows[mine], self.row[at[mine]])
                if found.rows >= least:
                    yield number, found

    def _meetings(self, held: _Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a row of a task and a place in this index that have the same input."""
        wanted = held.inputs[self.which]
        first = np.searchsorted(self.keys, wanted, "left")
        counts = np.searchsorted(self.keys, wanted, "right") - first
        starts = np.cumsum(counts) - counts
        return np.repeat(np.arange(len(wanted)), counts), np.arange(counts.sum()) + np.repeat(first - starts, counts)


def _least(held: _Rows, trained: _Rows) -> float:
    """So many rows are a large part of the smaller of two tasks."""
    return LARGE_PART * min(len(held.outputs), len(trained.outputs))


def folded_words(text: str) -> list[str]:
    """Words and signs of a text, all in one case; the text itself where it has none."""
    # signs are words as well: in sums and brackets they are all that differs
    return re.findall(r"\w+|[^\w\s]", text.casefold()) or [text]


def _joined(words: Sequence[str]) -> str:
    return " ".join(words)


def _bare(instruction: str, words: Sequence[Sequence[str]]) -> list[str]:
    """Inputs without the words that all of them begin or end with; the whole prompts where too little is left."""
    head = _begin_alike(words)
    tail = _begin_alike([each[head:][::-1] for each in words])
    if sum(len(each) - head - tail for each in words) >= FEW_WORDS * len(words):
        return [_joined(each[head : len(each) - tail]) for each in words]
    asked = folded_words(instruction) if instruction else []
    return [_joined([*asked, *each]) for each in words]


def _begin_alike(words: Sequence[Sequence[str]]) -> int:
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))


def _answer(output: str, text: str) -> str:
    """An output's words; the output with its case where it is the input but for case and spaces, since that is what is asked then."""
    answer = _joined(folded_words(output))
    return _joined(output.split()) if answer == text else answer


def _hashes(texts: Sequence[str]) -> NDArray[np.int64]:
    # Python's own hashes differ from process to process, which nothing here outlives
    return np.array([hash(text) for text in texts], dtype=np.int64)


def _compared(held: _Rows, trained: _Rows, held_rows: NDArray[np.int64], trained_rows: NDArray[np.int64]) -> _Shared:
    """Compare the outputs of rows with the same inputs, each row being taken once."""
    held_rows, first = np.unique(held_rows, return_index=True)
    trained_rows, once = np.unique(trained_rows[first], return_index=True)
    held_rows = held_rows[once]
    ours, theirs, least = held.outputs[held_rows], trained.outputs[trained_rows], _least(held, trained)
    agree, renamed = _agree(ours, theirs, least, AGREEMENT), False
    # of outputs that hardly repeat any can be renamed into any
    if not agree and max(_kinds(ours), _kinds(theirs)) * ROWS_A_LABEL <= len(ours):
        theirs = _renamed(ours, theirs)
        agree = renamed = _agree(ours, theirs, least, AGREEMENT_RENAMED, tried=lgamma(_kinds(ours) + 1) / log(2))
    alike = np.flatnonzero(ours == theirs) if agree else np.arange(len(ours))
    return _Shared(len(alike), int(held_rows[alike[0]]), int(trained_rows[alike[0]]), agree, renamed)


def _kinds(outputs: NDArray[np.int64]) -> int:
    return len(np.unique(outputs))


def _agree(ours: NDArray[np.int64], theirs: NDArray[np.int64], least: float, agreement: float, tried: float = 0.0) -> bool:
    """Whether at least so many outputs are the same, beyond chance; so many bits of it were spent on choosing their names."""
    equal = ours == theirs
    return bool(equal.sum() >= least) and kappa(ours, theirs) >= agreement and _surprise(ours[equal]) - tried >= SURPRISE


def _renamed(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Their outputs under our names: the commonest pair first, each name given once; outputs that are left over keep their own."""
    names: dict[int, int] = {}
    given: set[int] = set()
    for (one, other), _ in Counter(zip(ours.tolist(), theirs.tolist(), strict=True)).most_common():
        if other not in names and one not in given:
            names[other] = one
            given.add(one)
    return np.array([names.get(each, each) for each in theirs.tolist()], dtype=np.int64)


def kappa(ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    """Cohen's kappa of two series `(rows,)`: the share that agrees beyond what chance gives, of what could; 0 where chance gives all."""
    kinds, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
    one, other = (np.bincount(part, minlength=len(kinds)) / len(ours) for part in np.split(codes, 2))
    chance = float(one @ other)
    return (float((ours == theirs).mean()) - chance) / (1 - chance) if chance < 1 else 0.0


def _surprise(outputs: NDArray[np.int64]) -> float:
    """Bits that tell in which order outputs stand: the logarithm of how many orders there are."""
    _, counts = np.unique(outputs, return_counts=True)
    return (lgamma(len(outputs) + 1) - sum(lgamma(count + 1) for count in counts)) / log(2)
