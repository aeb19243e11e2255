"""From a user's rows to a job: what is trained on, what is held out, which labels there are; and what is wrong with them."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headstart.adapting.settings import FEW, Settings
from headstart.tasks.prepare import fitting
from headstart.tasks.problems import Problem, refuse
from headstart.tasks.reading.shapes import Pair, Shape, Turns, examples_of
from headstart.tasks.reading.source import noticed_labels, one_instruction, without_repeats
from headstart.tasks.reading.tables import read_rows, table_name
from headstart.tasks.render import Renderer
from headstart.tasks.sources import first_of_each
from headstart.tasks.task import Example, SuiteError, Task

MOST_HELD_BACK = 256
"""More rows than this are not held back, nor looked at for choosing: past it they cost more time than they gain precision."""
LEAST_HELD_BACK = 16


@dataclass(frozen=True)
class Job:
    """One task to adapt to.

    Args:
        name: what it is called, and its folder.
        task: instruction, labels, and the rows that are trained on.
        validation: rows that decide how many steps are taken; where there are none, the training rows do by cross-fitting.
        test: rows that are measured on before and after; where there are none, cross-fitting measures.
        notes: what a user should know about the rows.
    """

    name: str
    task: Task
    validation: tuple[Example, ...] = ()
    test: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Example, ...]:
        """The rows that are trained on."""
        return tuple(self.task.examples)


@dataclass(frozen=True)
class Reading:
    """What a user says about files of rows.

    Args:
        shots: train on so many rows and measure on the others; on all where None.
        eval_file: measure on the rows of this file instead.
        labels: every possible output, for classification; none where empty; where None, few distinct outputs are noticed.
        instruction: what precedes every input; the rows' own where None; columns in braces stand for their texts.
        columns: role -> column, where the columns' names do not tell.
        turns: of chats, `all` of the assistant's turns are learned, or the `last` alone.
    """

    shots: int | None = None
    eval_file: Path | None = None
    labels: tuple[str, ...] | None = None
    instruction: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    turns: Turns = "all"


def read_job(path: Path, reading: Reading, settings: Settings, renderer: Renderer) -> Job:
    """Read a file as one job.

    Raises:
        SuiteError: the rows cannot be read, are too few, too long, or have nothing to learn from; the message names the file.
    """
    instruction, rows, notes = _read(path, reading)
    held: tuple[Example, ...] = ()
    if reading.eval_file is not None:
        other, held, more = _read(reading.eval_file, reading)
        if other != instruction:
            raise SuiteError(f"{reading.eval_file}: its instruction is {other[:60]!r}, but that of {path} is {instruction[:60]!r}")
        held, shared = _apart(held, rows, reading.eval_file)
        notes = [*notes, *more, *shared]
    try:
        labels, noticed = _labels(reading.labels, [*rows, *held])
        task = Task(table_name(path), instruction, rows, cluster="user", labels=labels)
        job = make_job(task, held, reading.shots, settings, renderer)
    except SuiteError as error:
        raise SuiteError(f"{path}: {error}") from error
    return replace(job, notes=(*notes, *noticed, *job.notes))


def make_job(task: Task, held: Sequence[Example], shots: int | None, settings: Settings, renderer: Renderer) -> Job:
    """Part a task's rows into those that are trained on, chosen by and measured on.

    Args:
        task: all rows; with its labels.
        held: rows to measure on, and to choose by.
        shots: train on so many rows of a fixed shuffle, and measure on the others.
        settings: whether steps are chosen, and whether anything is measured.
        renderer: tells how long rows are.

    Raises:
        SuiteError: too few rows, too long ones, or but one output.
    """
    _require_learnable(task, held, renderer)
    rows, held = task.examples, tuple(held)
    validation = _shuffled(held, settings.seed)[:MOST_HELD_BACK]
    if shots is not None:
        if len(rows) < shots + (not held):
            hold = "" if held else " and a row to hold back"
            raise SuiteError(f"{len(rows)} different inputs, too few for {shots} shots{hold}; lower --shots")
        shuffled = _shuffled(rows, settings.seed)
        if task.labels:
            shuffled = _labels_in_turn(shuffled)
        # rows that are left over measure alone, and choose nothing
        rest = _apart_from(shuffled[:shots], shuffled[shots:])
        rows, held = shuffled[:shots], held or rest[:MOST_HELD_BACK]
    notes = []
    if not validation and len(rows) >= FEW and (settings.choosing or settings.compare or (settings.measure and not held)):
        shuffled = _shuffled(rows, settings.seed)
        spared = min(max(LEAST_HELD_BACK, len(rows) // 10), MOST_HELD_BACK)
        validation, rows = shuffled[:spared], _apart_from(shuffled[:spared], shuffled[spared:])
        held = held or validation
        notes.append(f"{spared} of {spared + len(rows)} rows held out of training")
    unseen = set(task.labels).difference(row.output for row in rows)
    if unseen:
        notes.append(f"no row that is trained on has the label {', '.join(sorted(unseen))}; such rows will be answered wrong")
    return Job(task.name, replace(task, examples=rows), validation, held if settings.measure else (), tuple(notes))


def _read(path: Path, reading: Reading) -> tuple[str, tuple[Example, ...], list[str]]:
    """A file's instruction, its rows with different inputs, and what to know about them."""
    shapes: list[Shape] = []
    pairs = list(examples_of(read_rows(path), reading.columns, reading.turns, reading.instruction, refuse, shapes))
    instruction, told = one_instruction(pairs)
    repeats: list[Problem] = []
    rows = without_repeats(told, repeats.append)
    notes = [f"{path}: read as {shapes[0]}"] if shapes[0].name != "input/output" or shapes[0].unread else []
    if instruction == "" and any(pair.instruction for pair in pairs):
        notes.append(f"{path}: the rows have instructions of their own, each of which goes in front of its input")
    if repeats:
        odds = _at_odds(told)
        others = f", {odds} input(s) among them with other outputs" if odds else ""
        notes.append(f"{path}: {len(repeats)} rows with repeated inputs left out{others}; the first of each counts")
    return instruction, tuple(pair.example for pair in rows), notes


def _at_odds(pairs: Sequence[Pair]) -> int:
    """How many inputs have more than one output."""
    outputs: dict[Hashable, set[str]] = {}
    for pair in pairs:
        outputs.setdefault(pair.example.asked, set()).add(pair.example.output)
    return sum(len(each) > 1 for each in outputs.values())


def _apart(held: Sequence[Example], rows: Sequence[Example], path: Path) -> tuple[tuple[Example, ...], list[str]]:
    """The evaluation rows whose inputs are not trained on."""
    left = _apart_from(rows, held)
    if not left:
        raise SuiteError(f"{path}: every input is among the rows trained on, so there is nothing to measure on; give other rows")
    gone = len(held) - len(left)
    return left, [f"{path}: {gone} of {len(held)} rows are trained on too, and are not measured on"] if gone else []


def _apart_from(known: Sequence[Example], rows: Sequence[Example]) -> tuple[Example, ...]:
    """The rows that are no part of a conversation among the known ones."""
    conversations = {row.conversation for row in known}
    return tuple(row for row in rows if row.conversation not in conversations)


def _labels(given: tuple[str, ...] | None, rows: Sequence[Example]) -> tuple[tuple[str, ...], list[str]]:
    """The labels, and a note if they were noticed."""
    if given is not None:
        if len(set(given)) != len(given) or len(given) == 1:
            raise SuiteError(f"labels {', '.join(given)}: give at least two, each once")
        return given, []
    labels = noticed_labels(Counter(row.output for row in rows))
    if not labels:
        return (), []
    return labels, [f"labels noticed: {', '.join(labels)}; accuracy ranks them (--labels none compares texts instead)"]


def _require_learnable(task: Task, held: Sequence[Example], renderer: Renderer) -> None:
    rows = [*task.examples, *held]
    if len(task.examples) > 1 and len({row.output for row in task.examples}) == 1:
        raise SuiteError(
            f"all {len(task.examples)} rows have the output {task.examples[0].output[:60]!r}, so there is nothing to tell apart; "
            "add rows with other outputs"
        )
    strays = sorted({row.output for row in held} - set(task.labels)) if task.labels else []
    if strays:
        raise SuiteError(f"an evaluation row has the output {strays[0]!r}, which is not among the labels {', '.join(task.labels)}")
    fits = {row.asked for row in fitting(replace(task, examples=first_of_each(rows)), renderer)}
    long = [row for row in rows if row.asked not in fits]
    if long:
        raise SuiteError(
            f"{len(long)} of {len(rows)} rows take more than {renderer.max_length} tokens with their answer, the first with the input "
            f"{long[0].input[:60]!r}; shorten them, or raise --max-length"
        )


def _labels_in_turn(rows: Sequence[Example]) -> tuple[Example, ...]:
    """The first row of every label, then the second of every label, and so on, so that few rows show all labels."""
    seen: Counter[str] = Counter()
    places = []
    for index, row in enumerate(rows):
        places.append((seen[row.output], index))
        seen[row.output] += 1
    return tuple(rows[index] for _, index in sorted(places))


def _shuffled(rows: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """The rows in another order, the turns of a conversation together."""
    conversations: dict[str, list[Example]] = {}
    for row in rows:
        conversations.setdefault(row.conversation, []).append(row)
    groups = list(conversations.values())
    order = np.random.default_rng([0x686F6C64, seed]).permutation(len(groups))
    return tuple(row for index in order for row in groups[int(index)])
