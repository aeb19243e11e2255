"""One source's part of a suite: which of its tasks are wanted, and their splits."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from headstart.tasks.problems import DataError, Place, Problem, Report
from headstart.tasks.reading.source import ReadTask, Source, at_most
from headstart.tasks.reading.splits import hold_out
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Task


@dataclass
class Part:
    """One source's part of a suite, as it is read.

    Args:
        spec: what the user said of it.
        source: opened.
        name: its own among the sources.
        clusters: of the tasks that were stored, by the source's names for them.
        versions: those names -> the suite's.
        gone: how many tasks were left out, by what for.
    """

    spec: SourceSpec
    source: Source
    name: str
    clusters: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=dict)
    gone: Counter[str] = field(default_factory=Counter)
    prefix: str = ""

    def read(self, report: Report, prefix: str = "") -> Iterator[ReadTask]:
        """The tasks that the user wants, under the suite's names for them."""
        self.prefix = prefix
        splits, names = self.source.splits, list[str]()
        if splits is not None:
            # which name all tasks before any is read
            self._require_excluding([name for split in splits.values() for name in split], report)
        for read in self.source.read(report):
            names.append(read.task.name)
            reason = left_out(read.task, self.spec)
            if reason:
                self.gone[reason] += 1
            else:
                taken = at_most(read, self.spec.max_examples)
                yield taken._replace(task=replace(taken.task, name=f"{prefix}{taken.task.name}"))
        if splits is None:
            self._require_excluding(names, report)

    def _require_excluding(self, names: Sequence[str], report: Report) -> None:
        """Tell of patterns that leave nothing out: what they were meant for would be trained on."""
        for pattern in self.spec.exclude or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                told = f"exclude: the pattern {pattern!r} matches none of the {len(names)} tasks of the source; mend it, or take it out"
                report(Problem(told, Place(self.spec.path)))

    def stored(self, task: Task, version: Task) -> None:
        """Note that a version of a task was stored."""
        own = task.name.removeprefix(self.prefix)
        self.clusters[own] = task.cluster
        self.versions.setdefault(own, []).append(version.name)

    def splits(self, report: Report) -> dict[str, tuple[str, ...]]:
        """The source's splits, or whole clusters held out where it has none."""
        try:
            found = self._splits()
        except DataError as error:
            report(error.problem.at(Place(self.spec.path)))
            found = {"meta_train": tuple(self.clusters)}
        return {split: tuple(version for name in names for version in self.versions.get(name, ())) for split, names in found.items()}

    def _splits(self) -> dict[str, tuple[str, ...]]:
        if not self.clusters:
            raise DataError(Problem(f"no task is left{self._found()}"))
        if self.source.splits is None:
            return hold_out(self.clusters, self.spec.splits)
        held = dict(self.source.splits)
        if self.source.validation_share:
            training = {name: self.clusters[name] for name in held["meta_train"] if name in self.clusters}
            share = self.source.validation_share
            held |= hold_out(training, {"meta_train": 1 - share, "meta_validation": share})
        return held

    def notes(self) -> list[str]:
        """How many tasks the filters took."""
        taken = ", ".join(f"{count} by {reason}" for reason, count in self.gone.items())
        return [f"{self.name}: {sum(self.gone.values())} tasks left out, {taken}"] if taken else []

    def _found(self) -> str:
        return f": all were left out ({', '.join(f'{count} by {reason}' for reason, count in self.gone.items())})" if self.gone else ""


def left_out(task: Task, spec: SourceSpec) -> str:
    """Which of a source's filters a task, by the source's own name for it, does not pass; empty where it passes all."""
    if any(fnmatchcase(task.name, pattern) for pattern in spec.exclude or ()):
        return "exclude"
    if spec.clusters is not None and task.cluster not in spec.clusters:
        return "clusters"
    if spec.languages is not None and not _all_in(task.language, spec.languages):
        return "languages"
    if spec.licences is not None and not _all_in(task.licence, spec.licences):
        return "licences"
    if spec.types is not None and ("classification" if task.labels else "generation") not in spec.types:
        return "types"
    return "min_examples" if len(task.examples) < spec.min_examples else ""


def _all_in(told: str, wanted: Sequence[str]) -> bool:
    """Whether all that a task names, and it names something, is wanted."""
    return bool(told) and {part.strip() for part in told.split(",")} <= set(wanted)
