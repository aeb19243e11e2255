"""Preparing large suites: seconds and memory of a first start, which reads and renders everything, and of a second, which finds it kept.

A suite of short synthetic tasks is written into a temporary folder. Each start is a process of its own, with the base's tokenizer and
no weights; it prepares the suite and takes some training episodes, as a run does. `grown` is the peak of its resident memory over
what it had when its libraries and its tokenizer were loaded; pages of the store that it mapped count, though the system may take
them back.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from headstart.files import write_json
from headstart.provenance import provenance

SCHEMA_VERSION = 1
TEXT = "a big cat ran over the old red hill and saw two small dogs near some quiet water under tall green trees"
WORDS = TEXT.split()
CLUSTERS = 50
COLUMNS = {
    "tasks": "tasks",
    "examples": "examples",
    "start": "start",
    "seconds": "seconds",
    "peak_mb": "peak, MB",
    "grown_mb": "grown, MB",
    "episode_ms": "an episode, ms",
    "grown_with_episodes_mb": "grown with episodes, MB",
    "store_mb": "store, MB",
}
"""What is shown of a row, and its title."""
EPISODES, TASKS_PER_STEP, SHOTS = 10, 16, 16


def write_suite(folder: Path, tasks: int, examples: int) -> None:
    """A suite of tasks that are each a way of its own to change some words; a tenth of them is held out."""
    (folder / "tasks").mkdir(parents=True)
    names = [f"task_{number:05}" for number in range(tasks)]
    entries = []
    for number, name in enumerate(names):
        instruction = f"Apply the rule of number {number} to the words."
        entries.append({"name": name, "file": f"tasks/{name}.jsonl", "instruction": instruction, "cluster": f"kind {number % CLUSTERS}"})
        (folder / "tasks" / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in _rows(number, examples)))
    (folder / "tasks" / "tasks.json").write_text(json.dumps(entries))
    held = [name for number, name in enumerate(names) if number % 10 == 9]
    splits = {"meta_train": [name for name in names if name not in set(held)], "meta_validation": held[::2], "meta_test": held[1::2]}
    (folder / "splits.json").write_text(json.dumps(splits))


def _rows(task: int, examples: int) -> list[dict[str, str]]:
    chance = random.Random(task)
    words = [chance.choices(WORDS, k=chance.randint(6, 14)) for _ in range(examples)]
    return [{"input": f"{number}: {' '.join(each)}", "output": " ".join(sorted(each)[: 3 + task % 4])} for number, each in enumerate(words)]


def start(suite: str, tokenizer: str) -> dict[str, float]:
    """What one start of a run takes, in this process."""
    from transformers import AutoTokenizer

    from headstart.tasks.episodes import training_episode
    from headstart.tasks.prepare import prepare_suite
    from headstart.tasks.render import Renderer
    from headstart.tasks.spec import SourceSpec

    renderer = Renderer(AutoTokenizer.from_pretrained(tokenizer))
    before = _peak()
    prepared, seconds = _timed(lambda: prepare_suite([SourceSpec(suite)], "instructed", renderer, 2 * SHOTS)[0])
    after = _peak()

    def episodes() -> None:
        for step in range(EPISODES):
            for draw in training_episode(prepared, seed=0, step=step, tasks=TASKS_PER_STEP, support=SHOTS, query=SHOTS):
                renderer.render(draw.task.instruction, (*draw.support[0], *draw.query))

    _, drawing = _timed(episodes)
    return {
        "tasks": len(prepared.tasks),
        "seconds": seconds,
        "peak_mb": after,
        "grown_mb": after - before,
        "episode_ms": 1000 * drawing / EPISODES,
        "grown_with_episodes_mb": _peak() - before,
    }


def _peak() -> float:
    """The largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # what getrusage tells counts the parent's, in a process that was forked from it
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def measure(tasks: int, examples: int, tokenizer: Path) -> list[dict[str, Any]]:
    """The first and the second start of one suite, each in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="headstart-suites-") as scratch:
        suite, cache = Path(scratch) / "suite", Path(scratch) / "cache"
        write_suite(suite, tasks, examples)
        command = [sys.executable, __file__, "--start", str(suite), str(tokenizer)]
        found = []
        for which in ("first", "second"):
            told = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, check=True, stdout=subprocess.PIPE, text=True)
            found.append({"start": which, "examples": tasks * examples, **json.loads(told.stdout.splitlines()[-1])})
        store = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        return [{**row, "store_mb": store / 1e6} for row in found]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="preparing suites")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(f"{row[name]:,.1f}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS))
    Console(width=140).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and show; write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[200, 1000, 2000], help="sizes of suites (200 1000 2000)")
    parser.add_argument("--examples", type=int, default=400, help="of a task (400)")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--start", nargs=2, metavar=("SUITE", "TOKENIZER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.start:
        print(json.dumps(start(*options.start)))
        return
    from headstart.bases import BUNDLED_ID, BaseSpec, load_tokenizer

    with tempfile.TemporaryDirectory(prefix="headstart-tokenizer-") as tokenizer:
        load_tokenizer(BaseSpec(BUNDLED_ID, source="bundled")).save_pretrained(tokenizer)
        rows = [row for tasks in options.tasks for row in measure(tasks, options.examples, Path(tokenizer))]
    show(rows)
    if options.json:
        write_json(options.json, {"schema_version": SCHEMA_VERSION, "provenance": provenance(), "rows": rows})


if __name__ == "__main__":
    main()
