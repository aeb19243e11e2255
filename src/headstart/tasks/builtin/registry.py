"""How a builtin task is declared and built: a cluster collects specs, a spec becomes a task by drawing from its own generator."""

import hashlib
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from headstart.tasks.task import Example, Task

SIZE = 128
TRIES = 60 * SIZE
OUTPUT_SHARE = 0.3
LABEL_SLACK = 1.15

Pair = tuple[str, str]
Maker = Callable[[random.Random], Pair]


@dataclass(frozen=True)
class Spec:
    """A task before drawing: its fixed parts, and where its input-output pairs come from."""

    name: str
    cluster: str
    instruction: str
    pairs: Callable[[random.Random], Iterator[Pair]]
    labels: tuple[str, ...]
    dataset: str


class Cluster:
    """A named kind of task; its methods declare the tasks of that kind.

    A task is drawn, one pair at a time, by a function of a generator, or taken from a table of known pairs::

        @SUMS.drawn("sum_of_two", "Add the two numbers.")
        def _(rng: random.Random) -> Pair:
            a, b = rng.randint(2, 99), rng.randint(2, 99)
            return f"{a} + {b}", str(a + b)

        LANDS.table("capital_of_country", "Name the capital.", CAPITALS.items())
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.specs: list[Spec] = []

    def drawn(self, name: str, instruction: str, labels: Iterable[str] = (), dataset: str = "") -> Callable[[Maker], Maker]:
        """Declare a task by the function that draws one pair."""

        def declare(maker: Maker) -> Maker:
            def pairs(rng: random.Random) -> Iterator[Pair]:
                return (maker(rng) for _ in range(TRIES))

            self.specs.append(Spec(name, self.name, instruction, pairs, tuple(labels), dataset))
            return maker

        return declare

    def table(self, name: str, instruction: str, pairs: Iterable[Pair], labels: Iterable[str] = (), dataset: str = "") -> None:
        """Declare a task by all its pairs, of which each seed takes others where there are enough."""
        rows = tuple(pairs)

        def shuffled(rng: random.Random) -> Iterator[Pair]:
            return iter(rng.sample(rows, len(rows)))

        self.specs.append(Spec(name, self.name, instruction, shuffled, tuple(labels), dataset))


def generator(seed: int, name: str) -> random.Random:
    """The generator of one task: independent of every other task and of the interpreter's hashing."""
    return random.Random(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big"))


def build(spec: Spec, seed: int) -> Task:
    """Draw a task: distinct inputs, no output too common, in a shuffled order."""
    rng = generator(seed, spec.name)
    answers = _within(_most_of_one_output(spec), spec.pairs(rng))
    # The limit on common outputs leaves rare ones to the end of the draw, hence the shuffle.
    examples = [Example(text, answer) for text, answer in answers.items()]
    rng.shuffle(examples)
    return Task(spec.name, spec.instruction, tuple(examples), spec.cluster, spec.labels, spec.dataset, "English", "Apache-2.0")


def _most_of_one_output(spec: Spec) -> int:
    return math.ceil(SIZE * (LABEL_SLACK / len(spec.labels) if spec.labels else OUTPUT_SHARE))


def _within(limit: int, pairs: Iterator[Pair]) -> dict[str, str]:
    """The first pairs with distinct inputs of which at most `limit` have the same output."""
    answers: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text, answer in pairs:
        if text not in answers and counts[answer] < limit:
            answers[text] = answer
            counts[answer] += 1
        if len(answers) == SIZE:
            break
    return answers


def joined(*iterables: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs of several tables, one after another."""
    return itertools.chain(*iterables)
