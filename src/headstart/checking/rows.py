"""Looking at a file of rows, as `headstart adapt` would read it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.bases import BaseSpec
from headstart.checking.duplicates import near_repeats
from headstart.checking.findings import Findings
from headstart.checking.suite import length_facts
from headstart.tasks.problems import Place, Problem, Report
from headstart.tasks.reading.shapes import Shape, Turns, examples_of
from headstart.tasks.reading.source import ReadTask, make_task
from headstart.tasks.reading.tables import read_rows, table_name
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rendered
from headstart.tasks.task import SuiteError, Task


def look_at_file(
    path: Path, base: BaseSpec, max_length: int, findings: Findings, columns: Mapping[str, str] | None = None, turns: Turns = "all"
) -> tuple[Task, Renderer] | None:
    """Add what is wrong with a file, and its sizes, to findings; gives the task that is left, with what renders it."""
    from headstart.bases import load_tokenizer

    renderer = None
    with findings.noting():
        renderer = Renderer(load_tokenizer(base), max_length, base.chat_template_kwargs)
    shapes: list[Shape] = []
    pairs = list(examples_of(read_rows(path, findings.add), columns, turns, None, findings.add, shapes))
    read = make_task(table_name(path), pairs, _refusing(findings), cluster="user", place=Place(str(path))) if pairs else None
    if read is None or renderer is None:
        return None
    task, lengths = read.task, _lengths(read, renderer, findings)
    _tell_long(read, lengths, max_length, findings)
    _tell_repeats(read, findings)
    for note in renderer.notes:
        findings.add(Problem(note, level="note"))
    findings.facts |= {
        "rows": {"read_as": str(shapes[0]), "examples": len(task.examples), "instruction": task.instruction, "labels": list(task.labels)},
        "lengths": length_facts(Counter(lengths), max_length),
    }
    return task, renderer


def _refusing(findings: Findings) -> Report:
    """Adds problems; of a file as a whole, such as a single output, they are errors, since adapting refuses it."""

    def report(problem: Problem) -> None:
        findings.add(problem if problem.place.row is not None else replace(problem, level="error"))

    return report


def _tell_long(read: ReadTask, lengths: Sequence[int], max_length: int, findings: Findings) -> None:
    long = [place for place, length in zip(read.places, lengths, strict=True) if length > max_length]
    if long:
        told = f"{len(long)} of {len(lengths)} rows take more than {max_length} tokens with their answer, this one first"
        findings.add(Problem(f"{told}; shorten them, or raise --max-length", long[0]))


def _tell_repeats(read: ReadTask, findings: Findings) -> None:
    repeats = near_repeats(read.task.examples)
    if repeats:
        other, repeat = (read.places[index] for index in repeats[0])
        count = len({index for _, index in repeats})
        told = f"{count} input{'s nearly repeat' if count > 1 else ' nearly repeats'} another, as this one that of {other.unit} {other.row}"
        findings.add(Problem(f"{told}; held-out rows among them flatter", repeat, level="note"))


def _lengths(read: ReadTask, renderer: Renderer, findings: Findings) -> list[int]:
    """The tokens of each row, whichever of the labels answers it; of those that the template does not take 0, and they are told."""
    task = read.task
    rendered = _rendered(read, renderer, findings)
    labelled = [replace(task.examples[0], output=label) for label in task.labels] if any(rendered) else []
    with findings.noting():
        answers = [len(one.ids) - one.answer for one in renderer.measure(task.instruction, labelled)]
        return [one.answer + max(answers, default=len(one.ids) - one.answer) if one else 0 for one in rendered]
    return [len(one.ids) if one else 0 for one in rendered]


def _rendered(read: ReadTask, renderer: Renderer, findings: Findings) -> list[Rendered | None]:
    """The rows' tokens; None for those that the template does not take."""
    task = read.task
    try:
        return [*renderer.measure(task.instruction, task.examples)]
    except SuiteError:
        rendered = list[Rendered | None]()
        for example, place in zip(task.examples, read.places, strict=True):
            try:
                rendered += renderer.measure(task.instruction, [example])
            except SuiteError as error:
                findings.add(Problem(str(error), place))
                rendered.append(None)
        return rendered
