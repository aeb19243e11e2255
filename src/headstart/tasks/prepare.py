"""Making a suite fit a run: reading its sources, rendering every example once, and leaving out what is too long."""

import atexit
import gc
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from shutil import rmtree

from headstart.files import digest_of_files, writing
from headstart.tasks.episodes import NOTHING_REDRAWN, Redrawn
from headstart.tasks.part import Part
from headstart.tasks.problems import Counting, Problem, Report, refuse
from headstart.tasks.reading.opening import open_source
from headstart.tasks.reading.source import ReadTask, Source
from headstart.tasks.regimes import Regime, under_regime
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Rendered
from headstart.tasks.sizing import Sizing
from headstart.tasks.spec import SourceSpec
from headstart.tasks.store import StoredExamples, Writer, forget_old_stores, is_stored, read_store, stores_folder
from headstart.tasks.task import Example, SuiteError, Task, TaskSuite

Watch = Callable[[ReadTask, Sequence[int]], None]
"""Takes every task with its places as it is stored, and its examples' lengths in tokens."""


def prepare_suite(
    specs: Sequence[SourceSpec], regime: Regime, renderer: Renderer, needed: int, seed: int = 0, redrawn: Redrawn = NOTHING_REDRAWN
) -> tuple[TaskSuite, list[str]]:
    """The suite of some sources, under a regime, without what is too long; notes say what was left out.

    What was prepared before is found again by its content; otherwise it is prepared, one task at a time, and kept. The examples that
    are left fit within the renderer's limit whatever training draws of what is `redrawn`.

    Raises:
        SuiteError: a source cannot be read, or a row of it; or nothing is left of a split.
    """
    plan = Plan.of(specs, regime, renderer, seed, redrawn)
    suite, notes = read_store(plan.folder if is_stored(plan.folder) else prepare(plan, renderer))
    suite, more = leave_out_long(suite, renderer, needed)
    return suite, [*notes, *more, *nothing_to_redraw(suite, redrawn)]


@dataclass(frozen=True)
class Plan:
    """What is to be prepared, and where it is kept.

    Args:
        sources: opened, with what the user said of each.
        regime: the tasks as they are, or under house rules.
        seed: of the house rules.
        redrawn: what training draws anew at each step, and examples have to fit with.
        folder: of the store; its name is a digest of all that decides what is in it.
    """

    sources: tuple[tuple[SourceSpec, Source], ...]
    regime: Regime
    seed: int
    redrawn: Redrawn
    folder: Path

    @property
    def revision(self) -> str:
        """A digest of all that the suite holds, whatever renders it."""
        return revision_of(self.sources)

    @classmethod
    def of(cls, specs: Sequence[SourceSpec], regime: Regime, renderer: Renderer, seed: int, redrawn: Redrawn = NOTHING_REDRAWN) -> "Plan":
        """Open the sources.

        Raises:
            DataError: one of them cannot be opened.
        """
        return cls.made([(spec, open_source(spec)) for spec in specs], regime, renderer, seed, redrawn)

    @classmethod
    def made(
        cls,
        sources: Sequence[tuple[SourceSpec, Source]],
        regime: Regime,
        renderer: Renderer,
        seed: int,
        redrawn: Redrawn = NOTHING_REDRAWN,
    ) -> "Plan":
        """The plan of sources that are open."""
        read = [(asdict(spec), source.revision) for spec, source in sources]
        under = [regime, seed if regime != "instructed" else 0, asdict(redrawn)]
        decides = json.dumps([read, under, renderer.key, code_digest()], sort_keys=True)
        return cls(tuple(sources), regime, seed, redrawn, stores_folder() / hashlib.sha256(decides.encode()).hexdigest()[:20])


def revision_of(sources: Sequence[tuple[SourceSpec, Source]]) -> str:
    """A digest of all that some sources together hold, of a single one of which nothing more is said its own."""
    if len(sources) == 1 and sources[0][0] == SourceSpec(sources[0][0].path):
        return sources[0][1].revision
    read = json.dumps([(_said(spec), source.revision) for spec, source in sources], sort_keys=True)
    return hashlib.sha256(read.encode()).hexdigest()[:16]


def _said(spec: SourceSpec) -> dict[str, object]:
    """What a user says of a source, so that a suite from which nothing is excluded has the revision it had before that could be said."""
    said = asdict(spec)
    return said if spec.exclude or spec.types else {key: value for key, value in said.items() if key not in ("exclude", "types")}


def code_digest() -> str:
    """A digest of the code that reads and renders: a store that other code made is not used."""
    return digest_of_files(sorted(Path(__file__).parent.rglob("*.py")))


def prepare(plan: Plan, renderer: Renderer, report: Report = refuse, watch: Watch | None = None) -> Path:
    """Read and render a suite into its store, and give the store's folder.

    Where the report lets errors pass, what has them is left out, and the store is this process's alone: it is not what was asked for.
    So is one that cannot lie where it belongs.

    Raises:
        WriteError: it cannot be written, as on a full disk.
    """
    counting, scratch = Counting(report), _scratch()
    atexit.register(rmtree, scratch, ignore_errors=True)
    with writing(scratch), _collecting_rarely():
        _fill(scratch / "suite", plan, renderer, counting, watch)
    if counting.errors or scratch.parent != stores_folder():
        return scratch / "suite"
    forget_old_stores()
    # another process may have prepared the same meanwhile; its result is as good as ours
    with suppress(OSError):
        (scratch / "suite").rename(plan.folder)
    return plan.folder


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let Python look for garbage in cycles rarely: a task's rows and tokens are a million objects without any."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _scratch() -> Path:
    """A new folder beside the stores, so that what is in it can be moved there; elsewhere where that cannot be written."""
    try:
        stores_folder().mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=stores_folder(), prefix="."))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="headstart-"))


def _fill(folder: Path, plan: Plan, renderer: Renderer, report: Counting, watch: Watch | None) -> None:
    folder.mkdir()
    parts: list[Part] = []
    sizing = Sizing(renderer, plan.redrawn)
    with Writer.into(folder) as writer:
        for number, (spec, source) in enumerate(plan.sources):
            part = Part(spec, source, f"{source.name}#{number}" if source.name in [part.name for part in parts] else source.name)
            parts.append(part)
            for read in part.read(report, prefix=f"{part.name}/" if len(plan.sources) > 1 else ""):
                for version in under_regime(read.task, plan.regime, plan.seed):
                    if _store(read._replace(task=version), writer, sizing, part.name, report, watch):
                        part.stored(read.task, version)
    splits: dict[str, list[str]] = {}
    for part in parts:
        for split, names in part.splits(report).items():
            splits.setdefault(split, []).extend(names)
    writer.finish(
        name="+".join(part.name for part in parts),
        revision=plan.revision,
        splits=splits,
        shares={part.name: part.spec.weight for part in parts},
        notes=[*(note for part in parts for note in part.notes()), *_warned(report.warnings)],
    )


def _warned(warnings: int) -> list[str]:
    return [f"{warnings} warnings on rows and tasks, such as repeated inputs left out; `headstart check` lists them"] if warnings else []


def _store(read: ReadTask, writer: Writer, sizing: Sizing, origin: str, report: Report, watch: Watch | None) -> bool:
    """Render a task and write it; whether anything of it is left."""
    read, rendered = _rendered(read, sizing.renderer, report)
    if not rendered:
        return False
    try:
        lengths = sizing.lengths(read.task, rendered)
    except SuiteError as error:
        what = "label or wording" if read.task.paraphrases else "label"
        report(Problem(f"a {what} of {read.task.name!r} cannot be rendered: {error}", read.places[0]))
        return False
    writer.add(read.task, rendered, lengths, sizing.renderer.by(read.task.instruction), origin)
    if watch:
        watch(read, lengths)
    return True


def _rendered(read: ReadTask, renderer: Renderer, report: Report) -> tuple[ReadTask, list[Rendered]]:
    """A task's examples rendered, without those that the template cannot take, which are told."""
    task = read.task
    try:
        return read, renderer.measure(task.instruction, task.examples)
    except SuiteError:
        # which one it was, they tell one by one
        kept, rendered = list[int](), list[Rendered]()
        for index, (example, place) in enumerate(zip(task.examples, read.places, strict=True)):
            try:
                rendered += renderer.measure(task.instruction, [example])
                kept.append(index)
            except SuiteError as error:
                report(Problem(str(error), place))
        if not kept:
            return read, []
        examples = tuple(task.examples[index] for index in kept)
        return ReadTask(replace(task, examples=examples), [read.places[index] for index in kept]), rendered


def nothing_to_redraw(suite: TaskSuite, redrawn: Redrawn) -> list[str]:
    """A note for each thing that is to be drawn anew and that no training task has."""
    tasks, notes = [suite.tasks[name] for name in suite.splits.get("meta_train", ())], []
    if redrawn.codes and not any(task.original_labels for task in tasks):
        notes.append("suite.codes: episode changes nothing: no training task is a classification under house rules")
    if redrawn.wording and not any(task.paraphrases for task in tasks):
        notes.append("suite.paraphrase changes nothing: no training task has other wordings (`instruction_variants` in tasks.json)")
    return notes


def leave_out_long(suite: TaskSuite, renderer: Renderer, needed: int) -> tuple[TaskSuite, list[str]]:
    """The suite without examples over the renderer's limit and without tasks left with fewer than `needed` examples.

    Returns the suite and one line for each task that lost something.

    Raises:
        SuiteError: a split is left without tasks.
    """
    tasks, notes = {}, []
    for name, task in suite.tasks.items():
        kept = fitting(task, renderer)
        if len(kept) < len(task.examples):
            gone = len(task.examples) - len(kept)
            notes.append(f"{name}: {gone} of {len(task.examples)} examples over {renderer.max_length} tokens left out")
        if len(kept) >= needed:
            tasks[name] = task if len(kept) == len(task.examples) else replace(task, examples=kept)
        else:
            notes.append(f"{name}: left out, its {len(kept)} examples are fewer than the {needed} that an episode takes")
    splits = {split: tuple(name for name in names if name in tasks) for split, names in suite.splits.items()}
    empty = [split for split, names in splits.items() if not names]
    if empty:
        raise SuiteError(
            f"suite {suite.name}: no task of {empty[0]!r} is left; lower suite.support and suite.query or raise suite.max_length, "
            "or evaluation.max_length where that is set"
        )
    return replace(suite, tasks=tasks, splits=splits), notes


def fitting(task: Task, renderer: Renderer) -> Sequence[Example]:
    """The examples that fit, whichever of the task's labels answers them."""
    if isinstance(task.examples, StoredExamples):
        return task.examples.within(renderer.max_length)
    rendered = renderer.measure(task.instruction, task.examples)
    lengths = Sizing(renderer).lengths(task, rendered)
    return tuple(example for example, length in zip(task.examples, lengths, strict=True) if length <= renderer.max_length)


def spread(tasks: Sequence[Task], count: int | None) -> tuple[Task, ...]:
    """At most `count` tasks, taken from the clusters in turn, the order within each kept."""
    clusters: dict[str, list[Task]] = {}
    for task in tasks:
        clusters.setdefault(task.cluster, []).append(task)
    turns = chain.from_iterable(zip_longest(*clusters.values()))
    return tuple(task for task in turns if task is not None)[:count]
