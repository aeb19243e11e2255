"""Findings on a terminal: sizes, a histogram of lengths, estimates, then what is wrong."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from headstart.checking.findings import Findings
from headstart.files import in_words
from headstart.progress import printable, say
from headstart.tasks.problems import Level, Problem

BAR = 40
"""Cells of the longest bar."""
SHOWN: dict[Level, int] = {"error": 50, "warning": 20, "note": 5}
"""So many problems of a kind are printed; all of them are in the JSON."""
STYLES: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "dim"}


def print_findings(findings: Findings, console: Console) -> None:
    """Print what was found."""
    facts = findings.facts
    for line in _lines(findings):
        _wrapped(line, console)
    if "splits" in facts:
        console.print(_splits(facts["splits"]))
    if "lengths" in facts:
        _histogram(facts["lengths"], console)
    if "phases" in facts:
        console.print(_phases(facts["phases"]))
        for line in _inner_states(facts["phases"]):
            _wrapped(line, console)
    if "memory" in facts:
        console.print(_memory(facts["memory"]))
    if "time" in facts:
        time = facts["time"]
        line = f"about {duration(time['seconds'])} of training on this machine ({time['device']}), looks at validation not counted"
        _wrapped(line, console)
    _problems(findings, console)


def _wrapped(line: str, console: Console) -> None:
    """Print a line, broken between words where the terminal is too narrow; never within one, which may be a path."""
    say(console, fill(printable(line), console.width, break_long_words=False, break_on_hyphens=False))


def _lines(findings: Findings) -> Iterator[str]:
    facts = findings.facts
    if "base" in facts:
        base = facts["base"]
        yield f"base {base['id']} from {base['source']}, {base['quantization']}, {base['dtype']}; {base['weights']}"
    if "adapter" in facts:
        adapter = facts["adapter"]
        size = f"{adapter['values'] / 1e6:.2f} million values"
        yield f"adapter of rank {adapter['rank']} on {adapter['layers']} layers ({', '.join(adapter['targets'])}), {size}"
    if "suite" in facts:
        suite = facts["suite"]
        yield f"suite {suite['name']} {suite['revision']}, regime {suite['regime']}"
        yield f"licences: {_counted(facts['licences'])}"
        if "data_terms" in facts:
            yield f"terms of the underlying data: {_counted(facts['data_terms'])}"
    if "sampler" in facts:
        sampler = facts["sampler"]
        often, seldom = sampler["likeliest"], sampler["least_likely"]
        yield f"tasks are drawn by {sampler['sampler']}: {often['task']} {often['share']:.2%}, {seldom['task']} {seldom['share']:.2%}"
    if "rows" in facts:
        rows = facts["rows"]
        yield f"{findings.target}: {rows['examples']:,} examples, read as {rows['read_as']}"
        yield f"instruction: {_begun(rows['instruction']) or '(none)'}"
        if rows["labels"]:
            yield f"labels noticed: {', '.join(map(_begun, rows['labels']))}"


def _begun(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _counted(counts: Mapping[str, int], most: int = 6) -> str:
    first = sorted(counts.items(), key=lambda item: -item[1])
    more = f", {len(first) - most} more" if len(first) > most else ""
    return ", ".join(f"{name} ({count})" for name, count in first[:most]) + more


def _splits(splits: Mapping[str, Mapping[str, int]]) -> Table:
    table = _table("split", "tasks", "clusters", "examples")
    for name, part in splits.items():
        table.add_row(Text(name), *(f"{part[key]:,}" for key in ("tasks", "clusters", "examples")))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def _histogram(lengths: Mapping[str, Any], console: Console) -> None:
    """Examples by their length, up to the limit and over it."""
    say(console, f"tokens of an example: median {lengths['median']}, longest {lengths['longest']}, limit {lengths['limit']}")
    edges, bars = lengths["edges"], [*lengths["examples"], lengths["over"]]
    names = [*(f"{low + 1} to {high}" for low, high in pairwise(edges)), f"over {lengths['limit']}"]
    most, width = max(bars) or 1, max(map(len, names))
    for name, count in zip(names, bars, strict=True):
        over = name.startswith("over")
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        console.print(Text(f"  {name:>{width}} ").append(bar, "red" if over else "cyan").append(f" {count:,}"), highlight=False)


def _phases(phases: list[Mapping[str, Any]]) -> Table:
    table = _table("phase", "steps", "tokens an episode, packed", "padded", "TFLOP a step", "time")
    for number, phase in enumerate(phases):
        tokens = phase["tokens"]
        padded = f"{tokens['padded']:,.0f} ({tokens['padded'] / tokens['packed']:.1f} times)"
        when = duration(phase["seconds"]) if "seconds" in phase else "?"
        table.add_row(
            f"{number} {phase['algorithm']}",
            str(phase["steps"]),
            f"{tokens['packed']:,.0f}",
            padded,
            f"{phase['operations'] / 1e12:.3g}",
            when,
        )
    return table


def _inner_states(phases: list[Mapping[str, Any]]) -> Iterator[str]:
    for number, phase in enumerate(phases):
        if "inner_states" in phase:
            states = phase["inner_states"]
            away = f" and {in_words(states['host'])} in the host's memory" if states["host"] else ""
            held = f"up to {in_words(states['device'])} on the device{away}, {states['tasks']} tasks computed together"
            yield f"phase {number}, inner states ({states['kept']}): {held}"


def _memory(memory: Mapping[str, Any]) -> Table:
    table = _table("memory, estimated", "")
    for part, count in memory["parts"].items():
        table.add_row(part, in_words(count))
    table.add_row(Text("together", style="bold"), f"{in_words(memory['total'])} of {in_words(memory['free'])} free")
    return table


def _problems(findings: Findings, console: Console) -> None:
    levels: tuple[Level, ...] = ("error", "warning", "note")
    for level in levels:
        found = [problem for problem in findings.problems if problem.level == level]
        for problem in found[: SHOWN[level]]:
            console.print(_told(problem), soft_wrap=True, highlight=False, emoji=False)
        if len(found) > SHOWN[level]:
            say(console, f"... and {len(found) - SHOWN[level]} more {level}s; --json lists all")
    style = "bold red" if findings.errors else "bold green"
    console.print(Text(printable(f"{findings.target}: {findings.verdict}"), style=style), soft_wrap=True, highlight=False)


def _told(problem: Problem) -> Text:
    return Text(f"{problem.level}: ", style=STYLES[problem.level]).append(printable(str(problem)), style="default")


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
