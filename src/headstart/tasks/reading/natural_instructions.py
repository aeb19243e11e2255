"""Super-NaturalInstructions in its own layout: `tasks/*.json`, and `splits/*/*.txt` that list their names.

Wang et al. 2022, "Super-NaturalInstructions: Generalization via Declarative Instructions on 1600+ NLP Tasks".
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart.tasks.problems import DataError, Place, Problem, Report, problem_of
from headstart.tasks.reading.shapes import EMPTY_ANSWER, Pair, of_others, text_of
from headstart.tasks.reading.source import ReadTask, Source, digest_files, in_drawn_order, make_task
from headstart.tasks.reading.tables import kind, read_json
from headstart.tasks.reading.text import listing, read_lines
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Example

TRAIN, TEST = "train_tasks.txt", "test_tasks.txt"
VALIDATION_SHARE = 0.1
"""Of the training tasks' categories, so many are held out for validation, which the layout has no list for."""


def looks_like_it(folder: Path) -> bool:
    """Whether a folder has the layout."""
    return (folder / "tasks").is_dir() and (folder / "splits").is_dir()


def read_natural_instructions(spec: SourceSpec, report: Report) -> Source:
    """A clone of the repository as a source; its tasks are read one at a time.

    A task's instruction is its definition, its examples are the positive examples and then the instances, in an order drawn by its
    name; of several right outputs the first is trained on. Its cluster is its category.

    Raises:
        DataError: a list of names cannot be read, or names no task that is there.
    """
    folder = Path(spec.path)
    lists = folder / "splits" / spec.split_set
    if not (lists / TRAIN).is_file():
        sets = ", ".join(path.name for path in listing(folder / "splits") if (path / TRAIN).is_file())
        raise DataError(Problem(f"split_set: no {spec.split_set}/{TRAIN}; there are {sets or 'none'}", Place(str(folder / "splits"))))
    named = {split: _names(lists / file) for split, file in (("meta_train", TRAIN), ("meta_test", TEST)) if (lists / file).is_file()}
    there = {path.stem: path for path in listing(folder / "tasks") if path.suffix == ".json"}
    files = {name: there[name] for names in named.values() for name in _known(names, there, lists, report)}
    splits = {split: tuple(name for name in names if name in files) for split, names in named.items()}
    both = sorted(set(splits["meta_train"]) & set(splits.get("meta_test", ())))
    for name in both:
        report(Problem(f"the task {name!r} is in {TRAIN} and in {TEST}; a task is held out whole", Place(str(lists))))
    splits["meta_train"] = tuple(name for name in splits["meta_train"] if name not in both)

    def read(report: Report) -> Iterator[ReadTask]:
        for name, path in files.items():
            task = _task(name, path, report)
            if task:
                yield in_drawn_order(task)

    revision = digest_files([*files.values(), *(lists / file for file in (TRAIN, TEST) if (lists / file).is_file())])
    return Source(folder.resolve().name, revision, splits, read, VALIDATION_SHARE)


def _names(path: Path) -> list[str]:
    return list(dict.fromkeys(line.strip().removesuffix(".json") for _, line in read_lines(path) if line.strip()))


def _known(names: Sequence[str], there: Mapping[str, Path], lists: Path, report: Report) -> Iterator[str]:
    for name in names:
        if name in there:
            yield name
        else:
            report(Problem(f"names the task {name!r}, which is not in tasks/; fetch it, or take it out", Place(str(lists))))


def _task(name: str, path: Path, report: Report) -> ReadTask | None:
    place = Place(str(path))
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(Problem(f"expected a JSON object of one task, found {kind(content)}", place))
        definition = " ".join(_texts(content, "Definition", place)).strip()
        pairs = [*_rows(content, "Positive Examples", place, report), *_rows(content, "Instances", place, report)]
        languages = [*_texts(content, "Input_language", place), *_texts(content, "Output_language", place)]
        return make_task(
            name,
            [pair._replace(instruction=definition) for pair in pairs],
            report,
            cluster=next(iter(_texts(content, "Categories", place)), "") or "uncategorised",
            place=place,
            dataset=next(iter(_texts(content, "Source", place)), ""),
            language=", ".join(dict.fromkeys(languages)),
            licence=", ".join(_texts(content, "Instance License", place)),
        )
    except DataError as error:
        report(problem_of(error))
        return None


def _texts(content: Mapping[str, Any], key: str, place: Place) -> list[str]:
    """A field that is a text or a list of texts."""
    value = content.get(key) or []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise DataError(Problem(f"is {kind(value)}, not text or a list of texts", place, key))
    return found


def _rows(content: Mapping[str, Any], key: str, place: Place, report: Report) -> Iterator[Pair]:
    rows = content.get(key) or []
    if not isinstance(rows, list):
        raise DataError(Problem(f"is {kind(rows)}, not a list", place, key))
    for number, row in enumerate(rows, start=1):
        # both lists have a first row
        where = Place(f"{place.file}, {key}", number, "row")
        try:
            if not isinstance(row, dict):
                raise DataError(Problem(f"is {kind(row)}; a row is a JSON object with `input` and `output`", where))
            outputs = row.get("output")
            answer = next(iter(outputs), "") if isinstance(outputs, list) else outputs
            text, answer = text_of(row, "input", where), text_of({**row, "output": answer}, "output", where)
            if not answer.strip():
                raise DataError(Problem(EMPTY_ANSWER, where, "output"))
        except DataError as error:
            report(of_others(error.problem))
            continue
        yield Pair("", Example(text, answer), where)
