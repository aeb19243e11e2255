"""Training tasks that look like the same kind of question as a measured one, although their clusters differ.

A training task of another cluster is a near relative of a measured one if one of these holds:

- they are of the same dataset, so the same examples stand behind both;
- half or more of the smaller one's inputs are inputs of the other too;
- their labels are the same set, beyond yes and no, true and false, numbers and single letters;
- a word of the one's name begins or ends with the other's cluster, as `anli` does with `nli`;
- the frames of their inputs, the words that stand in nearly all of them, are nearly the same (`sentence 1: ... sentence 2: ...`);
- two or more rare words of what they ask for, in their instructions, names and frames, are the same but for their endings
  (`alphabetical list`, `sort the list alphabetically`), and they are much of it all.

The last rule's thresholds were set by looking at what it finds among real tasks. None of them proves kinship: they say which tasks a
result should be told without as well.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, sqrt

from headstart.checking.leaks import HELD_OUT, TRAINED, Leaks, folded_words
from headstart.tasks.problems import NOWHERE
from headstart.tasks.reading.source import ReadTask
from headstart.tasks.task import Task

SHARED_INPUTS = 0.5
FRAME_WORD = 0.9
"""A word of the frame stands in at least so many of the inputs."""
FRAME_WORDS = 3
SAME_FRAME = 0.75
"""Of the words in either of two frames so many are in both; frames of fewer than `FRAME_WORDS` are not compared."""
SAME_QUESTION = 0.36
"""Cosine of what two tasks ask for."""
GRAM, STEM = 4, 5
"""Letters of the pieces that words are compared by, and of what is taken for a word's stem."""
SHORTEST_KIND = 3
COMMON_LABELS = frozenset({"yes", "no", "true", "false"})
SCAFFOLD = frozenset(
    """a about all an and answer any are as at be both but by can choose complete copy did do does each extract find following for
    from give given has have how if in input into is it its make name not of on one or output pick put reply rewrite say sentence
    should so state tell text that the their them then there these they this to turn use was what when where whether which who whose
    why will with word words would write you your""".split()  # noqa: SIM905
)
"""Words that say how to answer, whatever is asked."""


def near_relatives(measured: Sequence[Task], training: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """The near relatives of each measured task among the training tasks.

    What is found of a task does not depend on which others are measured.

    Args:
        measured: the tasks of a held-out split, as their suite gives them.
        training: the tasks that an adapter was trained on.

    Returns:
        measured task -> the names of its relatives in the order of `training`, for most tasks none.
    """
    known = [_Looks(task) for task in training]
    rarity = _Rarity.among(known)
    return {task.name: _relatives(_Looks(task), known, rarity) for task in measured}


def copies(measured: Sequence[Task], training: Sequence[Task]) -> list[str]:
    """What `headstart check` says of measured tasks whose rows stand in a training task, under whatever name; mostly nothing."""
    splits = {f"{split}: {task.name}": task for split, tasks in ((TRAINED, training), (HELD_OUT[-1], measured)) for task in tasks}
    leaks = Leaks({name: name.partition(":")[0] for name in splits})
    for name, task in splits.items():
        read = ReadTask(replace(task, name=name), [NOWHERE] * len(task.examples))
        leaks.add(read, [folded_words(example.input) for example in task.examples])
    return [problem.text for problem in leaks.problems() if problem.level == "error"]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _relatives(one: "_Looks", known: Sequence["_Looks"], rarity: "_Rarity") -> tuple[str, ...]:
    others = (other for other in known if other.task.cluster != one.task.cluster)
    return tuple(other.task.name for other in others if any(rule(one, other) for rule in RULES) or rarity.same_question(one, other))


class _Looks:
    """What of a task is compared with others, read once."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The inputs without case and white space around their words."""
        return frozenset(_folded(example.input) for example in self.task.examples)

    @cached_property
    def labels(self) -> frozenset[str]:
        """The labels without case and signs; none if they are such as many tasks have."""
        labels = frozenset(" ".join(_words(label)) for label in self.task.labels)
        return frozenset() if all(len(label) < 2 or label.isdigit() or label in COMMON_LABELS for label in labels) else labels

    @cached_property
    def frame(self) -> frozenset[str]:
        """The words that stand in nearly all inputs."""
        counts = Counter(word for example in self.task.examples for word in set(_words(example.input)))
        return frozenset(word for word, count in counts.items() if count >= FRAME_WORD * len(self.task.examples))

    @cached_property
    def asked(self) -> frozenset[str]:
        """The words that say what is asked, without the labels, which stand in many instructions."""
        labels = {word for label in self.task.labels for word in _words(label)}
        said = {*_words(self.task.instruction), *_words(self.task.name), *self.frame}
        return frozenset(word for word in said - labels - SCAFFOLD if len(word) > 2 and not word.isdigit())

    @cached_property
    def grams(self) -> frozenset[str]:
        """The pieces of what is asked; a long word has many, and has its weight by them."""
        return frozenset(gram for word in self.asked for gram in _grams(word))

    @cached_property
    def stems(self) -> frozenset[str]:
        """What is asked without the words' endings."""
        return frozenset(word[:STEM] for word in self.asked)


@dataclass(frozen=True)
class _Rarity:
    """How much a piece of a word says: the less, the more training tasks have it (inverse document frequency).

    Args:
        tasks: how many there are.
        having: piece -> how many have it.
    """

    tasks: int
    having: Mapping[str, int]

    @classmethod
    def among(cls, known: Sequence[_Looks]) -> "_Rarity":
        """Count the pieces of some tasks."""
        return cls(len(known), Counter(gram for each in known for gram in each.grams))

    def same_question(self, one: _Looks, other: _Looks) -> bool:
        """Whether two tasks share much of what they ask for, by two words or more."""
        if len(one.stems & other.stems) < 2:
            return False
        shared, whole = self._square(one.grams & other.grams), self._square(one.grams) * self._square(other.grams)
        return shared >= SAME_QUESTION * sqrt(whole)

    def _square(self, grams: Iterable[str]) -> float:
        # in one order, so that the last bits are the same in every process
        return sum(log((2 + self.tasks) / (1 + self.having.get(gram, 0))) ** 2 for gram in sorted(grams))


def _same_dataset(one: _Looks, other: _Looks) -> bool:
    return one.task.dataset == other.task.dataset


def _same_inputs(one: _Looks, other: _Looks) -> bool:
    return len(one.inputs & other.inputs) >= SHARED_INPUTS * min(len(one.inputs), len(other.inputs))


def _same_labels(one: _Looks, other: _Looks) -> bool:
    return bool(one.labels) and one.labels == other.labels


def _names_kind(one: _Looks, other: _Looks) -> bool:
    return _kind_in_name(one.task, other.task) or _kind_in_name(other.task, one.task)


def _kind_in_name(kind: Task, named: Task) -> bool:
    letters = "".join(_words(kind.cluster))
    return len(letters) >= SHORTEST_KIND and any(word.startswith(letters) or word.endswith(letters) for word in _words(named.name))


def _same_frame(one: _Looks, other: _Looks) -> bool:
    if min(len(one.frame), len(other.frame)) < FRAME_WORDS:
        return False
    return len(one.frame & other.frame) >= SAME_FRAME * len(one.frame | other.frame)


RULES: tuple[Callable[[_Looks, _Looks], bool], ...] = (_same_dataset, _same_inputs, _same_labels, _names_kind, _same_frame)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _grams(word: str) -> list[str]:
    whole = f" {word} "
    return [whole[at : at + GRAM] for at in range(max(1, len(whole) - GRAM + 1))]
