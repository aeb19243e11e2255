"""The results document: built from records, written and read as JSON, shown as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from headstart.evaluation.statistics import METRICS, Record, RecordLike, summarise
from headstart.files import write_atomically

SCHEMA_VERSION = 1
REQUIRED_KEYS = ("schema_version", "records", "summary", "pairs", "notes", "protocol")

Results: TypeAlias = dict[str, Any]


def build_results(
    records: Iterable[RecordLike],
    pairs: Sequence[tuple[str, str]],
    protocol: Mapping[str, Any],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Results:
    """The results document of one evaluation at one K; a pair (first, second) is reported as first minus second.

    `protocol` says how the records were made and is kept as it is; its values must be JSON's. Raises `ValueError` as `summarise` does.
    """
    rows = [asdict(record) if isinstance(record, Record) else dict(record) for record in records]
    summary = summarise(rows, pairs, resamples=resamples, seed=seed).to_json()
    return {"schema_version": SCHEMA_VERSION, "protocol": dict(protocol), **summary, "records": rows}


def write_results(results: Mapping[str, Any], path: str | Path) -> None:
    """Write the document as JSON, whole or not at all; raises `ValueError` on NaN and infinity, which JSON does not have."""
    write_atomically(Path(path), (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: str | Path) -> Results:
    """Read a results document; raises `ValueError` if it is not one, lacks a key, or has a schema version newer than this code's."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("schema_version"), int):
        raise ValueError(f"{path} is not a results document: it has no schema_version")
    if results["schema_version"] > SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {results['schema_version']}; this version of headstart reads up to {SCHEMA_VERSION}")
    missing = [key for key in REQUIRED_KEYS if key not in results]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return results


def describe_design(results: Mapping[str, Any]) -> str:
    """How many tasks, clusters and shots the records cover, such as "24 tasks in 12 clusters, K = 16"."""
    records = results["records"]
    tasks = len({(record["cluster"], record["dataset"], record["task"]) for record in records})
    clusters = len({record["cluster"] for record in records})
    shots = ", ".join(str(k) for k in sorted({record["k"] for record in records}))
    return f"{_count(tasks, 'task')} in {_count(clusters, 'cluster')}, K = {shots}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def summary_steps(results: Mapping[str, Any]) -> list[int]:
    """All steps at which some arm was measured, ascending."""
    return sorted({int(step) for by_step in results["summary"].values() for step in by_step})


def results_table(results: Mapping[str, Any]) -> Table:
    """The document as a `rich` table: every arm's loss and accuracy by step, then the paired differences."""
    notes = "\n".join(results["notes"]) or None
    table = Table(title=f"{describe_design(results)}: mean and 95% interval", caption=notes, box=SIMPLE_HEAD, show_edge=False)
    table.add_column("step", no_wrap=True, overflow="fold")
    steps = summary_steps(results)
    for step in steps:
        table.add_column(str(step), justify="right")
    for title, curves, metric, signed in _blocks(results):
        table.add_section()
        table.add_row(Text(title, style="bold"))
        for name, by_step in curves.items():
            table.add_row(Text(name), *(Text(_cell(by_step, step, metric, signed, "\n")) for step in steps))
    return table


def results_markdown(results: Mapping[str, Any]) -> str:
    """The same as a GitHub Markdown table, with its heading line above it and the notes below it."""
    steps = summary_steps(results)
    lines = [f"{describe_design(results)}: mean [95% interval]", "", _markdown_row(["metric", "arm", *(f"step {step}" for step in steps)])]
    lines.append(_markdown_row(["---", "---", *("---:" for _ in steps)]))
    for title, curves, metric, signed in _blocks(results):
        for name, by_step in curves.items():
            lines.append(_markdown_row([title, name, *(_cell(by_step, step, metric, signed, " ") for step in steps)]))
    if results["notes"]:
        lines += ["", *(f"- {note}" for note in results["notes"])]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _blocks(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str, bool]]:
    """The table's blocks in order: title, curves by name, metric, and whether values carry their sign."""
    for metric in METRICS:
        yield metric, results["summary"], metric, False
    if results["pairs"]:
        for metric in METRICS:
            yield f"{metric} difference", results["pairs"], metric, True


def _cell(by_step: Mapping[str, Any], step: int, metric: str, signed: bool, separator: str) -> str:
    """`mean [low, high]`, or a dash where the arm was not measured at this step."""
    if str(step) not in by_step:
        return "-"
    interval = by_step[str(step)][metric]
    mean, low, high = (f"{interval[key]:{'+' if signed else ''}.3f}" for key in ("mean", "low", "high"))
    return f"{mean}{separator}[{low}, {high}]"
