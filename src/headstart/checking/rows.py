"""Looking at a file of rows, as `headstart adapt` would read it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from headstart.bases import BaseSpec
from headstart.checking.duplicates import near_repeats
from headstart.checking.findings import Findings
from headstart.checking.suite import length_facts
from headstart.tasks.problems import Place, Problem
from headstart.tasks.reading.shapes import Shape, Turns, examples_of
from headstart.tasks.reading.source import ReadTask, make_task
from headstart.tasks.reading.tables import read_rows, table_name
from headstart.tasks.render import Renderer
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
    read = make_task(table_name(path), pairs, findings.add, cluster="user", place=Place(str(path))) if pairs else None
    if read is None or renderer is None:
        return None
    lengths = _lengths(read, renderer, findings)
    over = sum(length > max_length for length in lengths)
    if over:
        first = next(place for place, length in zip(read.places, lengths, strict=True) if length > max_length)
        told = f"{over} of {len(lengths)} rows take more than {max_length} tokens, this one first; shorten them, or raise --max-length"
        findings.add(Problem(told, first))
    task = read.task
    repeats = near_repeats(task.examples)
    if repeats:
        other, repeat = (read.places[index] for index in repeats[0])
        told = f"{len({index for _, index in repeats})} inputs nearly repeat others, as this one that of {other.unit} {other.row}"
        findings.add(Problem(f"{told}; held-out rows among them flatter", repeat, level="note"))
    findings.problems += [Problem(note, level="note") for note in renderer.notes]
    findings.facts |= {
        "rows": {"read_as": str(shapes[0]), "examples": len(task.examples), "instruction": task.instruction, "labels": list(task.labels)},
        "lengths": length_facts(Counter(lengths), max_length),
    }
    return task, renderer


def _lengths(read: ReadTask, renderer: Renderer, findings: Findings) -> list[int]:
    """The tokens of each row; of those that the template does not take 0, and they are told."""
    task = read.task
    try:
        return [len(one.ids) for one in renderer.measure(task.instruction, task.examples)]
    except SuiteError:
        lengths = []
        for example, place in zip(task.examples, read.places, strict=True):
            try:
                lengths.append(len(renderer.measure(task.instruction, [example])[0].ids))
            except SuiteError as error:
                findings.add(Problem(str(error), place))
                lengths.append(0)
        return lengths
