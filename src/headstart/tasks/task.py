"""What is learned from: a task is one instruction and its input-output examples; a suite holds whole tasks in splits."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from headstart.errors import HeadstartError

Message = tuple[Literal["system", "user", "assistant"], str]
"""A turn of a chat: who speaks, and what."""


USER_TURN = "{instruction}\n{input}"


def user_turn(instruction: str, text: str) -> str:
    """The user's message for one input: the instruction, a line end, the input; the input alone without an instruction."""
    return USER_TURN.format(instruction=instruction, input=text) if instruction and text else instruction or text


class SuiteError(HeadstartError):
    """A task or suite is unusable; the message says which one, why, and how to mend it."""


@dataclass(frozen=True)
class Tokens:
    """An example's token ids, as they were kept when its suite was prepared.

    Args:
        by: identifies the tokenizer, template and instruction that they come of; under others they do not hold.
        ids: of the whole conversation up to the token that ends the answer.
        answer: index of the first trained id.
    """

    by: str
    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Example:
    """One input and the output it should get, both without surrounding white space.

    Args:
        input: the user's last turn.
        output: the answer.
        history: the turns before, of a chat with several; it may begin with a system prompt.
        tokens: the example as it was rendered before, if it was; two examples are the same whatever their tokens.
    """

    input: str
    output: str
    history: tuple[Message, ...] = ()
    tokens: Tokens | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise SuiteError(f"the example with input {self.input[:60]!r} has an empty output; every row needs an answer to train on")
        object.__setattr__(self, "input", self.input.strip())
        object.__setattr__(self, "output", self.output.strip())

    @property
    def asked(self) -> Hashable:
        """What is answered: the input and the turns before it. Examples of one task differ in it."""
        return (self.input, self.history) if self.history else self.input

    @property
    def conversation(self) -> str:
        """The first thing the user says, by which turns of one chat are known to belong together."""
        return next((text for role, text in self.history if role == "user"), self.input)


@dataclass(frozen=True)
class Task:
    """One instruction with its examples, in a fixed order.

    Args:
        name: unique inside its suite.
        instruction: what precedes every input in the user's turn; empty where the input is the whole prompt.
        examples: in file order. The first half is the support pool, the second half the query pool.
        cluster: the kind of task; splits keep kinds apart.
        labels: every possible output, for classification; empty for generation.
        dataset: tasks with the same value share underlying examples; the task's own name if left empty.
        language: of the inputs, as its source names it; empty where unknown.
        licence: of the examples, as its source names it; empty where unknown.
        data_terms: what is known of the terms of the underlying data beyond that licence; empty where nothing is.
        paraphrases: other wordings of the instruction, which training may draw in its place.
        original_labels: what house rules renamed to the labels, in their order; empty where the labels are the source's own.

    Raises:
        SuiteError: no examples, a repeated input, labels that are not distinct texts, an output outside them, or paraphrases that are
            not distinct wordings of an instruction.
    """

    name: str
    instruction: str
    examples: Sequence[Example]
    cluster: str
    labels: tuple[str, ...] = ()
    dataset: str = ""
    language: str = ""
    licence: str = ""
    data_terms: str = ""
    paraphrases: tuple[str, ...] = ()
    original_labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", self.dataset or self.name)
        if not self.examples:
            raise SuiteError(f"task {self.name!r} has no examples")
        # other sequences are views of stored tasks, which were looked at when they were stored
        if isinstance(self.examples, tuple):
            self._require_sound()

    def _require_sound(self) -> None:
        repeated = [asked for asked, count in Counter(example.asked for example in self.examples).items() if count > 1]
        if repeated:
            text = repeated[0] if isinstance(repeated[0], str) else repeated[0][0]  # type: ignore[index]
            raise SuiteError(f"task {self.name!r} has the input {text[:60]!r} more than once; drop the repeated rows")
        if len({label.strip() for label in self.labels} - {""}) < len(self.labels) or any(label != label.strip() for label in self.labels):
            raise SuiteError(
                f"task {self.name!r} has the labels {list(self.labels)}; give each once, not empty, without white space around"
            )
        strays = sorted({example.output for example in self.examples} - set(self.labels)) if self.labels else []
        if strays:
            raise SuiteError(f"task {self.name!r} has the output {strays[0]!r}, which is not among its labels {list(self.labels)}")
        if self.paraphrases and len({self.instruction, *self.paraphrases} - {""}) <= len(self.paraphrases):
            raise SuiteError(
                f"task {self.name!r} has the instruction {self.instruction[:60]!r} and the paraphrases {list(self.paraphrases)}; "
                "give each wording once, none of them empty"
            )

    @property
    def support_pool(self) -> Sequence[Example]:
        """The half that evaluation adapts on."""
        return self.examples[: len(self.examples) // 2]

    @property
    def query_pool(self) -> Sequence[Example]:
        """The half that evaluation scores on."""
        return self.examples[len(self.examples) // 2 :]


@dataclass(frozen=True)
class TaskSuite:
    """Tasks and the splits that hold whole tasks out.

    Args:
        name: where the suite came from, for records.
        tasks: task name -> task.
        splits: split name (`meta_train`, `meta_validation`, `meta_test`, ...) -> task names.
        revision: a digest of all that the suite holds.
        origins: task name -> the source it came from, where there are several.
        shares: source -> how often it is drawn from, beside the others' shares.

    Raises:
        SuiteError: a split names an unknown task, or two splits share one.
    """

    name: str
    tasks: Mapping[str, Task]
    splits: Mapping[str, tuple[str, ...]]
    revision: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for split, names in self.splits.items():
            for name in names:
                if name not in self.tasks:
                    raise SuiteError(f"suite {self.name}: split {split!r} names the task {name!r}, which the suite does not have")
                if name in seen:
                    raise SuiteError(
                        f"suite {self.name}: the task {name!r} is in split {seen[name]!r} and in {split!r}; a task is held out whole"
                    )
                seen[name] = split

    def split(self, name: str) -> tuple[Task, ...]:
        """The tasks of one split, in its order.

        Raises:
            SuiteError: there is no such split.
        """
        if name not in self.splits:
            raise SuiteError(f"suite {self.name} has no split {name!r}; it has {', '.join(sorted(self.splits))}")
        return tuple(self.tasks[task] for task in self.splits[name])

    def origin(self, task: str) -> str:
        """The source that a task came from."""
        return self.origins.get(task, "")
