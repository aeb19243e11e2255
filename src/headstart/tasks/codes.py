"""Codes: made-up syllables that stand for the labels of a task under house rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import overload

import numpy as np

from headstart.tasks.task import Example, Task

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_LETTERS = (_CONSONANTS, _VOWELS, _CONSONANTS)
SYLLABLES = tuple("".join(letters) for letters in product(*_LETTERS))
"""All codes of one syllable."""
MOST_OF_ONE_SYLLABLE = 300
"""Tasks with more labels have codes of two."""


def draw_codes(labels: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """As many distinct codes as there are labels, in no relation to the labels' order and none of them a label."""
    # a third of the syllables at most, so that new ones are soon found
    letters = _LETTERS * (1 if len(labels) <= MOST_OF_ONE_SYLLABLE else 2)
    codes = dict[str, None]()
    while len(codes) < len(labels):
        code = "".join(str(rng.choice(list(each))) for each in letters)
        if code not in labels:
            codes[code] = None
    return tuple(codes)


def recoded(task: Task, rng: np.random.Generator) -> Task:
    """A task under house rules with other codes for its labels; any other task as it is.

    They are codes of one syllable, whatever the task's own, and where it has too many labels for these, its own dealt out anew. So an
    example that fits with the longest syllable, and with every label of its task, fits with any code that it is given.
    """
    if not task.original_labels:
        return task
    few = len(task.labels) <= MOST_OF_ONE_SYLLABLE
    codes = draw_codes(task.original_labels, rng) if few else tuple(task.labels[index] for index in rng.permutation(len(task.labels)))
    return replace(task, labels=codes, examples=Recoded(task.examples, dict(zip(task.labels, codes, strict=True))))


@dataclass(frozen=True)
class Recoded(Sequence[Example]):
    """Examples with other outputs, which each gets when it is asked for.

    Args:
        examples: as they are.
        codes: output -> what stands in its place.
    """

    examples: Sequence[Example]
    codes: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Recoded": ...
    def __getitem__(self, index: int | slice) -> "Example | Recoded":
        if isinstance(index, slice):
            return Recoded(self.examples[index], self.codes)
        example = self.examples[index]
        # tokens that were kept are those of the old answer
        return replace(example, output=self.codes[example.output], tokens=None)
