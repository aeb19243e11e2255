"""A source of tasks: what it is called, what it holds by a digest, and its tasks, read one at a time."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.tasks.episodes import stable_hash
from headstart.tasks.problems import DataError, Place, Problem, Report
from headstart.tasks.reading.shapes import Pair
from headstart.tasks.reading.text import opened
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite, user_turn

MOST_LABELS = 20
ROWS_A_LABEL = 3
"""Outputs are noticed to be labels where there are at most so many, each in so many rows on average,"""
LONGEST_LABEL = 60
"""and none has more characters."""
ORDER_SEED = 0x6F72646572


class ReadTask(NamedTuple):
    """A task, and where each of its examples stands."""

    task: Task
    places: Sequence[Place]


@dataclass(frozen=True)
class Source:
    """Where tasks come from.

    Args:
        name: for records.
        revision: a digest of all that is read.
        splits: split -> task names; None where the source has none of its own.
        read: gives the tasks one after another, so that one is in memory at a time; tells the report what is wrong, and leaves it out.
        validation_share: of the training tasks' clusters, so many become `meta_validation`, which the source has no list for.
    """

    name: str
    revision: str
    splits: Mapping[str, tuple[str, ...]] | None
    read: Callable[[Report], Iterator[ReadTask]]
    validation_share: float = 0.0


def of_suite(suite: TaskSuite) -> Source:
    """A suite in memory as a source."""

    def read(report: Report) -> Iterator[ReadTask]:
        for task in suite.tasks.values():
            file = f"{suite.name}/{task.name}"
            yield ReadTask(task, [Place(file, number, "row") for number in range(1, len(task.examples) + 1)])

    return Source(suite.name, suite.revision or _digest(suite), suite.splits, read)


def _digest(suite: TaskSuite) -> str:
    digest = hashlib.sha256(repr(sorted(suite.splits.items())).encode())
    for task in suite.tasks.values():
        digest.update(repr((task.name, task.instruction, task.cluster, task.labels, task.dataset, tuple(task.examples))).encode())
        digest.update(repr(task.paraphrases).encode() if task.paraphrases else b"")
    return digest.hexdigest()[:16]


def digest_files(paths: Iterable[Path], *more: str) -> str:
    """A digest of files' names and contents, and of what else decides.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256("\0".join(more).encode())
    for path in paths:
        with opened(path, plain=True) as file:
            content = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
        digest.update(f"\0{path.name}\0{content.hexdigest()}".encode())
    return digest.hexdigest()[:16]


def make_task(
    name: str,
    pairs: Sequence[Pair],
    report: Report,
    *,
    cluster: str,
    place: Place,
    labels: Sequence[str] | None = None,
    instruction: str | None = None,
    dataset: str = "",
    language: str = "",
    licence: str = "",
    data_terms: str = "",
    paraphrases: Sequence[str] = (),
) -> ReadTask | None:
    """A task of rows, or None where no row is left.

    Args:
        name: the task's.
        pairs: its rows; repeated ones are told and left out, and so are outputs that are no label.
        report: is told what is wrong.
        cluster: its kind.
        place: its file.
        labels: every output, for classification; as noticed where None.
        instruction: what precedes every input; the rows' own where None, put into the inputs where they differ.
        dataset: as in `Task`.
        language: as in `Task`.
        licence: as in `Task`.
        data_terms: as in `Task`.
        paraphrases: as in `Task`; repeated ones are left out.
    """
    instruction, pairs = one_instruction(pairs) if instruction is None else (instruction, pairs)
    pairs = without_repeats(pairs, report)
    if labels:
        pairs = [pair for pair in pairs if _is_label(pair, labels, name, report)]
    if not pairs:
        report(Problem(f"no row is left of task {name!r}; give it some, or take it out", place))
        return None
    examples = tuple(pair.example for pair in pairs)
    outputs = Counter(example.output for example in examples)
    if len(outputs) == 1 and len(examples) > 1:
        told = f"all {len(examples)} rows of {name!r} have the output {examples[0].output[:60]!r}, so there is nothing to tell apart"
        report(Problem(told, place, level="warning"))
    labels = tuple(labels) if labels is not None else noticed_labels(outputs)
    reworded = tuple(wording for wording in dict.fromkeys(paraphrases) if wording != instruction)
    try:
        task = Task(name, instruction, examples, cluster, labels, dataset, language, licence, data_terms, reworded)
    except SuiteError as error:
        report(Problem(str(error), place))
        return None
    return ReadTask(task, [pair.place for pair in pairs])


def one_instruction(pairs: Sequence[Pair]) -> tuple[str, Sequence[Pair]]:
    """The instruction of rows that all have the same; else none, and every row's own in front of its input, which renders to the same."""
    if len({pair.instruction for pair in pairs}) <= 1:
        return (pairs[0].instruction if pairs else ""), pairs
    return "", [pair._replace(instruction="", example=with_instruction(pair)) for pair in pairs]


def with_instruction(pair: Pair) -> Example:
    """An example with its instruction in front of its input."""
    return replace(pair.example, input=user_turn(pair.instruction, pair.example.input))


def without_repeats(pairs: Sequence[Pair], report: Report) -> list[Pair]:
    """The rows without those whose input came before, which are told."""
    first: dict[object, Pair] = {}
    for pair in pairs:
        known = first.setdefault(pair.example.asked, pair)
        if known is not pair:
            same = "" if known.example.output == pair.example.output else " with another output"
            told = f"the input of {known.place.unit} {known.place.row} again{same}; the first counts"
            report(Problem(told, pair.place, level="warning"))
    return list(first.values())


def _is_label(pair: Pair, labels: Sequence[str], name: str, report: Report) -> bool:
    if pair.example.output in labels:
        return True
    told = f"{pair.example.output[:60]!r} is not among the labels of {name!r}: {', '.join(labels)}"
    report(Problem(told, pair.place, "output"))
    return False


def noticed_labels(outputs: Mapping[str, int]) -> tuple[str, ...]:
    """The outputs, where few enough of them occur often enough to be labels; else none."""
    few = 2 <= len(outputs) <= MOST_LABELS and sum(outputs.values()) >= ROWS_A_LABEL * len(outputs)
    return tuple(sorted(outputs)) if few and max(map(len, outputs)) <= LONGEST_LABEL else ()


def in_drawn_order(read: ReadTask) -> ReadTask:
    """A task's examples in an order that depends on its name alone, since files are often sorted by what is to be learned."""
    order = np.random.default_rng([ORDER_SEED, stable_hash(read.task.name)]).permutation(len(read.places))
    return _taken(read, [int(index) for index in order])


def at_most(read: ReadTask, most: int | None) -> ReadTask:
    """A task of at most so many examples, drawn once, in the order they had."""
    if most is None or len(read.places) <= most:
        return read
    drawn = np.random.default_rng([ORDER_SEED + 1, stable_hash(read.task.name)]).permutation(len(read.places))[:most]
    return _taken(read, sorted(int(index) for index in drawn))


def _taken(read: ReadTask, chosen: Sequence[int]) -> ReadTask:
    examples = tuple(read.task.examples[index] for index in chosen)
    return ReadTask(replace(read.task, examples=examples), [read.places[index] for index in chosen])


def require_cluster_pattern(spec: SourceSpec) -> None:
    """See that the pattern, if any, can find clusters.

    Raises:
        DataError: it is no regular expression, or has no group.
    """
    try:
        groups = re.compile(spec.cluster_pattern).groups if spec.cluster_pattern is not None else 1
    except re.error as error:
        raise DataError(Problem(f"cluster_pattern: {spec.cluster_pattern!r} is no regular expression ({error})")) from error
    if not groups:
        raise DataError(Problem(f"cluster_pattern: {spec.cluster_pattern!r} has no group; put what names the cluster into parentheses"))


def cluster_of(name: str, spec: SourceSpec, report: Report) -> str:
    """A task's cluster by its source's pattern; the task is one of its own where there is no pattern, or none is found."""
    if spec.cluster_pattern is None:
        return name
    found = re.search(spec.cluster_pattern, name)
    if not found or not found.group(1):
        report(Problem(f"cluster_pattern finds nothing in the task's name {name!r}; it is a cluster of its own", level="warning"))
        return name
    return found.group(1)
