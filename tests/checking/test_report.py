"""Findings as they are printed."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from headstart.checking.findings import Findings
from headstart.checking.report import BAR, SHOWN, duration, in_words, print_findings
from headstart.checking.suite import length_facts
from headstart.tasks.problems import Place, Problem

STATES = {"kept": "offload", "device": 2_000_000, "host": 3_000_000_000, "tasks": 4}
TOKENS = {"packed": 2023.4, "padded": 3837.0}
FACTS = {
    "base": {
        "id": "someone/a-base",
        "source": "/a/folder",
        "quantization": "nf4",
        "dtype": "bfloat16",
        "weights": "weights take 0.1 MB: 0.1 million in 4 bit (0.1 MB with their scales), 0.0 million dense (0.1 MB)",
    },
    "adapter": {"rank": 8, "layers": 14, "targets": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj"], "values": 2_440_000},
    "suite": {"name": "a suite", "revision": "e7112e6a5ce6", "regime": "instructed"},
    "licences": {f"licence-{number}": 10 - number for number in range(8)},
    "data_terms": {"research [only]": 3, "none named": 120},
    "languages": {"English": 52},
    "splits": {"meta_train": {"tasks": 123, "clusters": 24, "examples": 15704}, "[odd]": {"tasks": 1, "clusters": 1, "examples": 2}},
    "lengths": length_facts({80: 1000, 140: 30, 200: 1, 600: 7}, 512),
    "sampler": {"sampler": "cluster", "likeliest": {"task": "[often]", "share": 0.5}, "least_likely": {"task": "seldom", "share": 0.001}},
    "phases": [
        {"algorithm": "multitask", "steps": 28, "tokens": TOKENS, "operations": 2.5e12, "seconds": 30.0},
        {"algorithm": "maml", "steps": 10, "tokens": TOKENS, "operations": 1.5e10, "seconds": 4000.0, "inner_states": STATES},
    ],
    "memory": {"parts": {"weights": 100_000, "activations": 2_000_000_000}, "total": 2_000_100_000, "free": 20_000_000_000},
    "time": {"seconds": 4030.0, "operations_per_second": 1e10, "device": "CPU, 2 threads"},
    "rows": {"read_as": "messages (messages from `messages`)", "examples": 1038, "instruction": "", "labels": ["yes", "[/no]"]},
}


@pytest.fixture
def printed():
    """Prints findings and gives the text."""

    def show(findings, width=120):
        file = io.StringIO()
        print_findings(findings, Console(file=file, width=width))
        return file.getvalue()

    return show


def test_every_fact_is_printed(printed):
    text = printed(Findings("a target", "recipe", facts=FACTS))
    for wanted in (
        "base someone/a-base from /a/folder, nf4, bfloat16; weights take 0.1 MB",
        "adapter of rank 8 on 14 layers (down_proj, gate_proj, k_proj, o_proj, q_proj), 2.44 million values",
        "suite a suite e7112e6a5ce6, regime instructed",
        "licence-0 (10), licence-1 (9), licence-2 (8), licence-3 (7), licence-4 (6), licence-5 (5), 2 more",
        "terms of the underlying data: none named (120), research [only] (3)",
        "tasks are drawn by cluster: [often] 50.00%, seldom 0.10%",
        "a target: 1,038 examples, read as messages (messages from `messages`)",
        "labels noticed: yes, [/no]",
        "tokens of an example: median 80, longest 600, limit 512",
        "phase 1, inner states (offload): up to 2.0 MB on the device and 3.00 GB in the host's memory, 4 tasks computed together",
        "2.00 GB of 20.00 GB free",
        "about 67 min of training on this machine (CPU, 2 threads)",
        "a target: nothing wrong",
    ):
        assert wanted in text, wanted
    assert text.count("inner states") == 1
    lines = [line.split() for line in text.splitlines()]
    assert ["meta_train", "123", "24", "15,704"] in lines
    assert ["[odd]", "1", "1", "2"] in lines
    assert ["0", "multitask", "28", "2,023", "3,837", "(1.9", "times)", "2.5", "30", "s"] in lines
    assert ["1", "maml", "10", "2,023", "3,837", "(1.9", "times)", "0.015", "67", "min"] in lines


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_facts_are_no_wider_than_the_terminal(printed, width):
    lines = printed(Findings("a target", "recipe", facts=FACTS), width).splitlines()
    assert max(map(cell_len, lines)) <= width


def test_words_are_never_broken(printed):
    long = "/a/long/path" * 20
    text = printed(Findings("x", "recipe", facts={"base": {**FACTS["base"], "source": long}}), 80)
    assert long in text


def test_bars_are_as_long_as_their_counts(printed):
    lines = printed(Findings("a", "suite", facts={"lengths": FACTS["lengths"]})).splitlines()
    bars = {line.split()[-1]: line.count("█") for line in lines if "█" in line or "▏" in line}
    # few are seen all the same
    assert bars == {"1,000": BAR, "30": 1, "1": 0, "7": 0}
    assert sum("▏" in line for line in lines) == 2
    assert lines[-2].split()[:2] == ["over", "512"]


def test_a_suite_without_examples_is_printed(printed):
    assert "median 0, longest 0" in printed(Findings("a", "suite", facts={"lengths": length_facts({}, 512)}))


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", ":smile:", "[link=http://a]b[/link]", "a\\[b]"])
def test_names_come_through_as_they_are(printed, name):
    problem = Problem(f"the task {name} is odd", Place(f"{name}.jsonl", 3), name)
    rows = {"read_as": name, "examples": 1, "instruction": name, "labels": [name]}
    text = printed(Findings(name, "file", [problem], {"rows": rows}))
    assert f"error: {name}.jsonl, line 3: `{name}` the task {name} is odd" in text
    assert f"{name}: 1 examples, read as {name}" in text
    assert f"labels noticed: {name}" in text
    assert f"{name}: 1 error" in text


def test_nothing_moves_the_cursor(printed):
    nasty = "a\x1b[2J\r\nb\u202e\ud800"
    text = printed(Findings(nasty, "file", [Problem(nasty)], {"rows": {**FACTS["rows"], "instruction": nasty, "labels": [nasty]}}))
    assert "error: a\\x1b[2J\\r\\nb\\u202e\\ud800" in text
    assert set(text) - {"\n"} == {each for each in text if each.isprintable()}
    assert len(text.splitlines()) == 5


def test_long_instructions_and_labels_are_begun(printed):
    rows = {**FACTS["rows"], "instruction": "do this " * 40, "labels": ["label " * 30]}
    text = printed(Findings("a", "file", facts={"rows": rows}))
    assert "instruction: do this do this" in text
    assert max(map(len, text.splitlines())) < 100


def test_problems_stand_one_a_line_the_gravest_first_and_the_last_is_the_verdict(printed):
    levels = ("note", "error", "warning", "error")
    problems = [Problem(f"problem {number} " + "very " * 40 + "long", level=level) for number, level in enumerate(levels)]
    lines = printed(Findings("a target", "suite", problems), 80).splitlines()
    assert [line[: line.index(" very")] for line in lines[:-1]] == [
        "error: problem 1",
        "error: problem 3",
        "warning: problem 2",
        "note: problem 0",
    ]
    assert lines[-1] == "a target: 2 errors, 1 warning, 1 note"


@pytest.mark.parametrize("level", SHOWN)
def test_of_many_problems_the_first_are_shown_and_the_rest_counted(printed, level):
    most = SHOWN[level]
    lines = printed(Findings("a", "suite", [Problem(f"number {number}", level=level) for number in range(most + 3)])).splitlines()
    assert lines[:most] == [f"{level}: number {number}" for number in range(most)]
    assert lines[most] == f"... and 3 more {level}s; --json lists all"


def test_sizes_and_times_in_words():
    assert [in_words(count) for count in (0, 123_456, 999_999_999, 1_000_000_000)] == ["0.0 kB", "0.1 MB", "1000.0 MB", "1.00 GB"]
    assert [duration(seconds) for seconds in (0.2, 89.4, 90, 5399, 5400)] == ["0 s", "89 s", "2 min", "90 min", "1.5 h"]
