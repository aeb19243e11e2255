"""Inputs that stand twice, or nearly, where they should not: in a task's support and query, and in two splits.

Tasks that were copied as a whole are `checking.leaks`' matter, and told of there alone.

Near duplicates are found by MinHash (Broder 1997) over runs of words, through locality-sensitive hashing; what is said of a pair is
an estimate of the Jaccard similarity of their runs.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashDigestMatrix

from headstart.checking.leaks import Leaks, folded_words
from headstart.tasks.problems import Level, Place, Problem
from headstart.tasks.reading.source import ReadTask
from headstart.tasks.task import Example

PERMUTATIONS = 64
BANDS = 8
"""Two texts are compared where one of so many bands of their hashes agrees: those of similarity 0.9 are with probability 0.99."""
NEAR = 0.9
RUN = 3
"""Words of a run."""
LEAST_WORDS = 8
"""Shorter texts are compared whole: `3 + 4` and `4 + 4` share most of what they say, and are different questions."""
SEED = 0


@dataclass
class Twins:
    """Collects inputs task by task, as hashes alone.

    Args:
        split_of: task -> its split.
    """

    split_of: Mapping[str, str]
    leaks: Leaks = field(init=False)
    _places: list[Place] = field(default_factory=list)
    _tasks: list[str] = field(default_factory=list)
    _prompts: list[NDArray[np.uint64]] = field(default_factory=list)
    _hashes: list[NDArray[np.uint32]] = field(default_factory=list)
    _long: list[NDArray[np.int64]] = field(default_factory=list)
    _problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.leaks = Leaks(self.split_of)

    def add(self, read: ReadTask) -> None:
        """Take a task, and note what its own halves have in common."""
        words = [_words(example) for example in read.task.examples]
        self.leaks.add(read, words)
        hashes, task = _min_hashes(words), read.task
        half = len(words) // 2
        pairs = [(first, second) for first, second in near(hashes) if first < half <= second]
        if pairs:
            first, second = pairs[0]
            told = (
                f"{len({second for _, second in pairs})} of {len(words) - half} query inputs of {task.name!r} nearly repeat support inputs"
            )
            there = f"this one that of {read.places[first].unit} {read.places[first].row}"
            self._problems.append(Problem(f"{told}, as {there}", read.places[second], "input", "note"))
        # a short input is a word or two, which other tasks may ask other things of
        long = np.flatnonzero([len(each) >= LEAST_WORDS for each in words])
        self._hashes.append(hashes[long])
        self._long.append(len(self._tasks) + long)
        self._tasks += [task.name] * len(words)
        self._places += read.places
        # and without an instruction, as under house rules, nothing but the task itself says which
        asked = [task.instruction or ("" if len(each) >= LEAST_WORDS else task.name) for each in words]
        self._prompts.append(np.array([_prompt(*each) for each in zip(asked, task.examples, strict=True)], dtype=np.uint64))

    def problems(self) -> Iterator[Problem]:
        """What was found: tasks that leak, then repeats within tasks, then those between splits."""
        yield from self.leaks.problems()
        yield from self._problems
        if self._hashes:
            yield from self._between_splits()

    def _between_splits(self) -> Iterator[Problem]:
        splits = [self.split_of.get(task, "") for task in self._tasks]
        same = _equal(np.concatenate(self._prompts))
        exact = [pair for pair in same if splits[pair[0]] != splits[pair[1]]]
        yield from self._told(exact, "the very prompt", "warning")
        long = np.concatenate(self._long)
        close = ((int(long[first]), int(long[second])) for first, second in near(np.concatenate(self._hashes)))
        known = set(exact)
        apart = [pair for pair in close if splits[pair[0]] != splits[pair[1]] and pair not in known]
        yield from self._told(apart, "nearly the input", "note")

    def _told(self, pairs: Sequence[tuple[int, int]], what: str, level: Level) -> Iterator[Problem]:
        """One problem for each pair of tasks."""
        of_tasks: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for first, second in pairs:
            of_tasks[self._tasks[first], self._tasks[second]].append((first, second))
        for (one, other), found in of_tasks.items():
            # of tasks that are told of as a whole, that is enough
            if frozenset((one, other)) in self.leaks.found:
                continue
            first, second = found[0]
            told = f"{what} of {self._places[first]}, in {self.split_of.get(one)!r}, stands here in {self.split_of.get(other)!r}"
            more = f", and so do {len(found) - 1} more of {other!r} and {one!r}" if len(found) > 1 else ""
            yield Problem(f"{told}{more}; what is held out should not be trained on", self._places[second], "input", level)


def near_repeats(examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Pairs of examples whose inputs are nearly the same."""
    return list(near(_min_hashes([_words(example) for example in examples])))


def near(hashes: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Pairs of rows of `(texts, PERMUTATIONS)` that agree in a share of NEAR or more, each in ascending order, each once."""
    seen: set[tuple[int, int]] = set()
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        part = np.ascontiguousarray(hashes[:, band * width : (band + 1) * width])
        for pair in _equal(part.view(np.dtype((np.void, part.dtype.itemsize * width))).ravel()):
            if pair not in seen and (hashes[pair[0]] == hashes[pair[1]]).mean() >= NEAR:
                seen.add(pair)
                yield pair


def _equal(keys: NDArray[np.generic]) -> Iterator[tuple[int, int]]:
    """Neighbours among equal keys; of n equal ones n - 1 pairs, since all pairs of them would be n squared."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]):
        yield int(order[place]), int(order[place + 1])


def _words(example: Example) -> list[str]:
    said = " ".join([*(text for _, text in example.history), example.input])
    return folded_words(said)


def _min_hashes(words: Sequence[Sequence[str]]) -> NDArray[np.uint32]:
    matrix: RMinHashDigestMatrix = RMinHash.digest_matrix_from_token_sets([_runs(each) for each in words], PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(words), PERMUTATIONS)


def _runs(words: Sequence[str]) -> list[str]:
    if len(words) < LEAST_WORDS:
        return [" ".join(words)]
    return [" ".join(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]


def _prompt(instruction: str, example: Example) -> int:
    asked = repr((instruction, example.history, example.input))
    return int.from_bytes(hashlib.blake2b(asked.encode(), digest_size=8).digest(), "big")
