"""`headstart adapt`: from files to adapters, one or a thousand, over one base; what is done stays done."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout
from rich.console import Console

from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.adapting.data import Job, Reading, read_job
from headstart.adapting.fit import Stopped, Tick
from headstart.adapting.flow import Outcome, adapt_batch, lanes
from headstart.adapting.report import comparison, many, plot_adapting, predictions, results
from headstart.adapting.samples import samples
from headstart.adapting.settings import AdaptError, Settings
from headstart.adapting.single import adapted_adapter
from headstart.adapting.store import Store, digest_of
from headstart.adapting.trials import HEAD_START
from headstart.errors import HeadstartError
from headstart.files import require_writable, whole_folder, write_json
from headstart.interrupt import Interrupt, interruptible
from headstart.model.base import Base, load_base, load_tokenizer
from headstart.passes import Passes, passes_over
from headstart.progress import meter, say
from headstart.tasks.episodes import Draw
from headstart.tasks.reading.plain_files import tables_in
from headstart.tasks.reading.tables import READERS, table_name
from headstart.tasks.render import Renderer

DEFAULT_OUTPUT = Path("adapted")
LANE_COPIES = 10
"""How often an adapter is there while it is fitted: itself, two moments, gradient, direction, what is kept, and what passes by."""
MEMORY_SHARE = 0.4
"""What adapters may take of the memory that is free."""


def adapt_files(
    adapter: str | Path,
    data: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    reading: Reading | None = None,
    settings: Settings | None = None,
    max_length: int | None = None,
    base_source: str | None = None,
    allow_base_variant: bool = False,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Adapt a meta-adapter to each of some files, and save a plain PEFT adapter for each.

    Run again, it does only what is missing, and goes on where it was stopped.

    Args:
        adapter: a meta-adapter's folder, or a shipped one's name.
        data: files of one task each, `.jsonl`, `.json`, `.csv`, `.tsv` (also with `.gz`) or `.parquet`;
            patterns such as `tenants/*.jsonl`, and folders, stand for all their files.
        output: the adapter's folder; where `data` may be several files, the folder that holds one folder for each, named as its
            file. `adapted/NAME` and `adapted` where None.
        reading: what is said about the rows.
        settings: how to adapt.
        max_length: the most tokens of a row; as in training, or 512 where that is more, if None.
        base_source: where the base's weights come from; what the adapter says where None.
        allow_base_variant: accept other weights of the same base.
        console: prints progress and tables.

    Returns:
        For each file `name`, `output`, and either `failed` or what was measured.

    Raises:
        AdaptError: nothing to read, two files with one output, an output that is something else already; raised before any adapting.
            After all files are done, if some of them failed.
        SuiteError: the only file cannot be used.
        AdapterError, BaseError: the adapter or its base cannot be used.
        WriteError: the output cannot be written.
        Stopped: SIGINT or SIGTERM came; what was finished is saved, and what was not goes on from where it was.
    """
    console, settings = console or Console(), settings or Settings()
    files = find_files(data)
    several = len(files) > 1 or any(_stands_for_many(each) for each in data)
    reading = reading or Reading()
    if several and reading.eval_file:
        raise AdaptError("an evaluation file belongs to one task; give one file with it, or leave rows over with --shots")
    places = _places(files, Path(output) if output else None, several)
    meta = MetaAdapter.from_pretrained(adapter)
    longest = max_length or meta.max_length
    spec = replace(meta.base, source=base_source or meta.base.source)
    renderer = Renderer(load_tokenizer(spec), longest, spec.chat_template_kwargs)
    campaign = _Campaign(meta, reading, settings, longest, several, console, renderer)
    campaign.read(places)
    if campaign.waiting:
        require_writable(next(iter(places.values())))
        base = load_base(spec)
        meta.require_base(base, allow_base_variant)
        _require_positions(base, longest)
        campaign.adapt(base)
    rows = campaign.rows(places)
    if several:
        write_json(next(iter(places.values())).parent / "results.json", {"schema_version": 1, "adapters": rows})
        console.print(many(rows))
    return campaign.close(rows)


def find_files(data: Sequence[str | Path]) -> list[Path]:
    """The files that names, patterns and folders stand for, each once, in the order given, those of a pattern sorted.

    Raises:
        AdaptError: one stands for nothing.
    """
    found: dict[Path, Path] = {}
    for each in data:
        path = Path(each)
        if path.is_dir():
            files = tables_in(path)
        elif not path.exists() and has_magic(str(each)):
            files = sorted(Path(file) for file in glob(str(each), recursive=True))
        else:
            files = [path]
        if not files:
            raise AdaptError(f"{each}: there is no {', '.join(READERS)} file here; give a file, a folder of files, or a pattern in quotes")
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise AdaptError("no data; give a file, a folder of files, or a pattern in quotes")
    return list(found.values())


def _stands_for_many(data: str | Path) -> bool:
    return Path(data).is_dir() or (has_magic(str(data)) and not Path(data).exists())


def _places(files: Sequence[Path], output: Path | None, several: bool) -> dict[Path, Path]:
    """File -> the folder of its adapter.

    Raises:
        AdaptError: two files have one folder.
    """
    if not several:
        return {files[0]: output or DEFAULT_OUTPUT / table_name(files[0])}
    places: dict[Path, Path] = {}
    # two names that a file system may not tell apart are one
    taken: dict[str, Path] = {}
    for file in files:
        other = taken.setdefault(table_name(file).casefold(), file)
        if other is not file:
            raise AdaptError(f"{other} and {file} would both be saved as {table_name(file)!r}; rename one of them, or adapt to them apart")
        places[file] = (output or DEFAULT_OUTPUT) / table_name(file)
    return places


def _require_positions(base: Base, max_length: int) -> None:
    most = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if most and max_length > most:
        raise AdaptError(f"max_length is {max_length}, but {base.spec.id} has positions for {most} tokens; lower --max-length")


@dataclass
class _Campaign:
    """Files on their way to adapters.

    Args:
        meta: where they start.
        reading: what is said about the rows.
        settings: how to adapt.
        max_length: the most tokens of a row.
        several: whether there may be more than one file, of which one that fails fails alone.
        console: prints.
        renderer: looks at rows before the base is loaded.
    """

    meta: MetaAdapter
    reading: Reading
    settings: Settings
    max_length: int
    several: bool
    console: Console
    renderer: Renderer
    waiting: dict[Path, Job] = field(default_factory=dict)
    told: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def read(self, places: Mapping[Path, Path]) -> None:
        """Read every file; what is done already is noted, what cannot be used fails."""
        for file, place in places.items():
            with self._failing_alone(place):
                job = replace(read_job(file, self.reading, self.settings, self.renderer), name=place.name)
                if not self._is_done(place, job):
                    self.waiting[place] = job
                    self._say(*(note if str(file) in note else f"{file}: {note}" for note in job.notes))

    def adapt(self, base: Base) -> None:
        """Adapt to what is waiting, in batches that memory holds; each is saved as soon as it is done."""
        store = Store(self._store_folder(), f"{base.fingerprint} {base.spec} {self.meta.lora} {self.max_length} {torch.__version__}")
        with passes_over(base, self.meta.lora, self.max_length) as passes, interruptible() as interrupt:
            store.asked = lambda: interrupt.asked
            done, count, places = 0, len(self.waiting), {job.name: place for place, job in self.waiting.items()}
            with meter("adapt", self.console, units=count if count > 1 else 100) as progress:
                for jobs in list(batches(self.waiting.values(), self.settings, passes)):
                    batch = {places[job.name]: job for job in jobs}

                    def told(share: float, note: str, done: int = done, size: int = len(batch)) -> None:
                        # the whole of it is told once it is saved
                        if share < 1:
                            progress.advance((done + share * size) / count, note if count == 1 else f"{done} of {count} done")

                    self._batch(batch, base, passes, store, interrupt, told)
                    done += len(batch)
                    progress.advance(done / count)
        store.clear()

    def rows(self, places: Mapping[Path, Path]) -> list[dict[str, Any]]:
        """What came of every file, in the order given."""
        return [{"name": place.name, "output": str(place), **self.told[place]} for place in places.values()]

    def close(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Say what failed, as an error if anything did."""
        failed = [row for row in rows if "failed" in row]
        if failed:
            raise AdaptError(
                f"{len(failed)} of {len(rows)} files failed, the first {failed[0]['name']}: {failed[0]['failed']}; the others are "
                "saved, and the same command again does only what is missing"
            )
        return rows

    def _batch(self, batch: Mapping[Path, Job], base: Base, passes: Passes, store: Store, interrupt: Interrupt, tick: Tick) -> None:
        if interrupt.asked:
            raise Stopped
        with ExitStack() as locks:
            held: dict[Path, Job] = {}
            for place, job in batch.items():
                with self._failing_alone(place):
                    locks.enter_context(_locked(place))
                    # another process may have been at it since the file was read
                    if not self._is_done(place, job):
                        held[place] = job
            outcomes = adapt_batch(list(held.values()), self.meta, passes, self.settings, store, tick) if held else []
            for place, outcome in zip(held, outcomes, strict=True):
                with self._failing_alone(place):
                    if outcome.failed:
                        raise AdaptError(outcome.failed)
                    self._save(place, outcome, base, passes)

    def _save(self, place: Path, outcome: Outcome, base: Base, passes: Passes) -> None:
        found = results(outcome)
        about = {"name": place.name, "digest": self._digest(outcome.job), "settings": asdict(self.settings), "results": found}
        adapted = adapted_adapter(outcome, self.meta, base, self.max_length, about)
        with whole_folder(place) as fresh:
            adapted.write(fresh)
            if not self.several:
                plot_adapting(outcome, fresh / "curves.png")
        self.told[place] = found
        if not self.several:
            self._show(place, outcome, passes)

    def _show(self, place: Path, outcome: Outcome, passes: Passes) -> None:
        if outcome.sides:
            self.console.print(comparison(outcome))
            self.console.print(predictions(samples(outcome, passes), outcome.sides))
        if len(outcome.sides) > 2:
            self._say(self.told[place]["verdict"])
        if self.settings.choosing and outcome.steps == max(outcome.curves.get(HEAD_START, {0: 0.0})) > 0:
            self._say("the held-out loss was lowest at the last look; --steps N --early-stopping K looks further")
        kept = "kept" if self.settings.choosing else "after"
        self._say(f"saved a plain PEFT adapter, {kept} {outcome.steps} steps on {len(outcome.job.rows)} rows, to {place}")

    def _is_done(self, place: Path, job: Job) -> bool:
        """Whether this very job's adapter is there; noted if so.

        Raises:
            AdapterError: something else is there.
        """
        if not place.exists():
            return False
        record = _recorded(place)
        if record.get("digest") != self._digest(job):
            raise AdapterError(
                f"{place} exists already and is of other rows, settings or another meta-adapter; give another folder with "
                "--output, or remove it"
            )
        self.told[place] = {**record["results"], "note": "was there"}
        if not self.several:
            self._say(f"{place}: was there already, of these rows and settings")
        return True

    def _digest(self, job: Job) -> str:
        """Of all that an adapter depends on, but for the library's versions."""
        parts = (job.task.instruction, job.task.labels, job.rows, job.validation, job.test, self.settings, self.max_length)
        return hashlib.sha256(repr((parts, self._start)).encode()).hexdigest()[:24]

    @cached_property
    def _start(self) -> tuple[Any, ...]:
        """What tells the meta-adapter from others."""
        return (self.meta.fingerprint, self.meta.base, self.meta.adaptation, digest_of(self.meta.theta), digest_of(self.meta.rates))

    def _store_folder(self) -> Path:
        place = next(iter(self.waiting))
        return place.parent / ".adapting" if self.several else place.parent / f".{place.name}.adapting"

    @contextmanager
    def _failing_alone(self, place: Path) -> Iterator[None]:
        """Note what goes wrong with one of several files; raise it where there is one."""
        try:
            yield
        except HeadstartError as error:
            if not self.several:
                raise
            self.told[place] = {"failed": str(error)}

    def _say(self, *lines: str) -> None:
        say(self.console, *lines)


def batches(jobs: Iterable[Job], settings: Settings, passes: Passes) -> Iterator[list[Job]]:
    """Jobs of like length together, as many at once as fill a micro-batch and as memory has room for."""
    sized = sorted(((_tokens(job, settings, passes), job) for job in jobs), key=lambda one: one[0])
    most, batch, filled, width = most_lanes(passes), list[Job](), 0, 0
    for tokens, job in sized:
        wide = lanes(job, settings)
        if batch and (filled + wide * tokens > passes.tokens or width + wide > most):
            yield batch
            batch, filled, width = [], 0, 0
        batch.append(job)
        filled, width = filled + wide * tokens, width + wide
    if batch:
        yield batch


def most_lanes(passes: Passes) -> int:
    """How many adapters memory has room for at once."""
    one = LANE_COPIES * sum(4 * rows * columns for rows, columns in passes.learner.shapes().values())
    device = passes.batcher.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, int(MEMORY_SHARE * free / one))


def _tokens(job: Job, settings: Settings, passes: Passes) -> int:
    """Tokens of a step's rows of one adapter, roughly."""
    size = passes.batcher.sizes(Draw(job.task, (), job.rows[: settings.batch_size]))
    return size.prefix + sum(size.examples)


def _recorded(place: Path) -> dict[str, Any]:
    try:
        record = json.loads((place / "headstart.json").read_text(encoding="utf-8"))["record"]
        return dict(record) if isinstance(record["results"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Keep other processes from adapting into the same folder.

    Raises:
        AdapterError: one does.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.parent / f".{place.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise AdapterError(f"{place}: another process is adapting into it; wait for it, or give another folder with --output") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
