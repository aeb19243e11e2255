"""Files of rows: every format reads alike, and every fault is told by file and row, whether reading goes on or not."""

import errno
import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tasks.reading.formats import as_bytes

from headstart.tasks.problems import DataError, Place
from headstart.tasks.reading import text
from headstart.tasks.reading.tables import PARQUET_ROWS, is_table, kind, read_json, read_rows, table_name

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
ROWS = [
    {"input": "a, b", "output": 'say "x"'},
    {"input": "two\nlines\r\n", "output": "tab\there"},
    {"input": "; grün 日本 \u2028", "output": "'"},
]


def written(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def rows_of(path):
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("ending", [*ENDINGS, ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".CSV", ".Parquet"])
def test_formats_give_the_same_rows(tmp_path, ending):
    content = as_bytes(ROWS, ending.removesuffix(".gz").lower())
    path = written(tmp_path, f"a.b{ending}", gzip.compress(content) if ending.endswith(".gz") else content)
    assert rows_of(path) == ROWS
    assert is_table(path)
    assert table_name(path) == "a.b"


# what no format can hold: half of a surrogate pair, and NUL, which is refused
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize("ending", ENDINGS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@example(texts=[("", "")])
@example(texts=[('"', "\r"), ("\n", ","), ("\ufeff", ";"), ("a\tb", "\u2028\x1c")])
def test_what_is_written_is_read_back(tmp_path, ending, texts):
    rows = [{"input": first, "output": second} for first, second in texts]
    assert rows_of(written(tmp_path, f"a{ending}", as_bytes(rows, ending))) == rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_marks_of_byte_order_and_dos_line_ends_do_no_harm(tmp_path, name):
    rows = [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    content = as_bytes(rows, name[1:]).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert rows_of(written(tmp_path, name, b"\xef\xbb\xbf" + content)) == rows


@pytest.mark.parametrize("content", [{"data": ROWS}, {"version": "1", "rows": ROWS, "size": 3}])
def test_a_document_may_hold_its_rows_in_the_only_list_of_an_object(tmp_path, content):
    assert rows_of(written(tmp_path, "a.json", json.dumps(content))) == ROWS


def test_columns_may_be_parted_by_semicolons_or_tabs(tmp_path):
    for mark in ";\t":
        path = written(tmp_path, "a.csv", f"input{mark}output\na, b{mark}c\n")
        assert rows_of(path) == [{"input": "a, b", "output": "c"}]
    assert rows_of(written(tmp_path, "a.csv", "in;put,output\na;b,c\n")) == [{"in;put": "a;b", "output": "c"}]


def test_blank_lines_count_as_lines_and_are_no_rows(tmp_path):
    places = [place.row for place, _ in read_rows(written(tmp_path, "a.jsonl", '\n{"a": 1}\n  \n{"a": 2}\n'))]
    assert places == [2, 4]
    table = written(tmp_path, "a.csv", '\n\ninput,output\na,b\n\n"c\nd",e\nf,g\n')
    assert [(place.row, row["input"]) for place, row in read_rows(table)] == [(4, "a"), (6, "c\nd"), (8, "f")]


def test_one_column_may_be_without_a_name(tmp_path):
    """As pandas writes an index."""
    assert rows_of(written(tmp_path, "a.csv", ",input,output\n0,a,b\n")) == [{"": "0", "input": "a", "output": "b"}]


def test_rows_are_numbered_where_there_are_no_lines(tmp_path):
    many = [{"input": str(number)} for number in range(PARQUET_ROWS + 2)]
    for name in ("a.json", "a.parquet"):
        places = [place for place, _ in read_rows(written(tmp_path, name, as_bytes(many, name[1:])))]
        assert places == [Place(str(tmp_path / name), number, "row") for number in range(1, len(many) + 1)]


GOOD = {"input": "a", "output": "b"}
LINE = json.dumps(GOOD)
DEEP = "[" * 100_000 + "]" * 100_000
FAULTS = {
    "empty lines": ("a.jsonl", "", ["a.jsonl: the file has no rows"], 0),
    "empty document": ("a.json", "", ["a.json: not valid JSON (Expecting value: line 1 column 1 (char 0))"], 0),
    "empty list": ("a.json", "[]", ["a.json: the file has no rows"], 0),
    "empty table": ("a.csv", "", ["a.csv: the file has no rows"], 0),
    "header alone": ("a.csv", "input,output\n", ["a.csv: the file has no rows"], 0),
    "empty parquet": ("a.parquet", "", ["a.parquet: no whole Parquet file ("], 0),
    "blank lines": ("a.jsonl", "\n \n\t\n\n", ["a.jsonl: the file has no rows"], 0),
    "blank table": ("a.csv", "\n\n\n", ["a.csv: the file has no rows"], 0),
    "blank lines of tabs": ("a.tsv", "\n \n", ["a.tsv: the file has no rows"], 0),
    "not json": ("a.jsonl", f"{LINE}\n{{'a': 1}}\n{LINE}\n{{\n", ["line 2: not valid JSON (", "line 4: not valid JSON ("], 2),
    "no objects": (
        "a.jsonl",
        f'{LINE}\n"text"\n7\nnull\n',
        [f"line {row}: is {what}; a row is a JSON object with" for row, what in ((2, "text"), (3, "a number"), (4, "empty"))],
        1,
    ),
    "no objects in a list": ("a.json", f"[{LINE}, [1], {LINE}]", ["a.json, row 2: is a list; a row is a JSON object with"], 2),
    "list named lines": (
        "a.jsonl",
        f"[{LINE}]\n",
        [
            "line 1: is a list; a row",
        ],
        0,
    ),
    "list over lines": (
        "a.jsonl",
        f"[\n{LINE},\n{LINE}\n]\n",
        ["a.jsonl, line 1: not valid JSON lines; the file looks like one JSON list, so give it the ending .json"],
        0,
    ),
    "list over lines, closer": (
        "a.jsonl",
        f"[{LINE},\n{LINE}]\n",
        ["a.jsonl, line 1: not valid JSON lines; the file looks like one JSON list"],
        0,
    ),
    "lines named list": (
        "a.json",
        f"{LINE}\n{LINE}\n",
        [
            "a.json: not valid JSON (Extra data: line 2 column 1",
        ],
        0,
    ),
    "one object": ("a.json", LINE, ["a.json: expected a JSON list of rows, or an object with one list in it; found an object"], 0),
    "two lists": ("a.json", '{"a": [], "b": []}', ["or an object with one list in it; found an object"], 0),
    "deep line": ("a.jsonl", f"{LINE}\n{DEEP}\n{LINE}\n", ["line 2: JSON that is nested too deeply"], 2),
    "deep document": ("a.json", DEEP, ["a.json: JSON that is nested too deeply"], 0),
    "number of many digits": ("a.jsonl", f'{LINE}\n{{"a": {"9" * 5000}}}\n', ["line 2: not valid JSON (Exceeds the limit"], 1),
    "one name twice": (
        "a.jsonl",
        f'{LINE}\n{{"input": "a", "input": "b"}}\n',
        ["line 2: not valid JSON ('input' is twice in one object)"],
        1,
    ),
    "one name twice in a document": ("a.json", '[{"x": 1, "x": 2}]', ["a.json: not valid JSON ('x' is twice in one object)"], 0),
    "two columns of one name": (
        "a.csv",
        "input, input,output\na,b,c\n",
        ["a.csv, line 1: two columns are called 'input'; give every column"],
        0,
    ),
    "two columns without a name": ("a.csv", ",,output\na,b,c\n", ["a.csv, line 1: two columns have no name; give every column"], 0),
    "too many cells": (
        "a.csv",
        'input,output\na,b\nhello, world,b\n"c\nd",e\nf,g,h\ni,j\n',
        [f"a.csv, line {row}: 3 cells, more than the 2 columns; put a cell that has commas or line ends in quotes" for row in (3, 6)],
        3,
    ),
    "too few cells": (
        "a.csv",
        "input,output\na\nb,c\n",
        ["line 2: 1 cells, fewer than the 2 columns; fill the row up, if with empty cells"],
        1,
    ),
    "unclosed quote": (
        "a.csv",
        'input,output\na,b\n"c,d\ne,f\n',
        ["a.csv, line 3: the row that begins here is not whole CSV (unexpected end of data); a quote that opens a cell must close it too"],
        1,
    ),
    "text behind a quote": (
        "a.csv",
        'input,output\n"a"b,c\n',
        ["a.csv, line 2: the row that begins here is not whole CSV (',' expected after '\"')"],
        0,
    ),
    "latin-1 lines": (
        "a.jsonl",
        f'{LINE}\n{{"input": "ü"}}\n{LINE}\n{{"input": "é"}}\n'.encode("latin-1"),
        ["line 2: not UTF-8", "line 4: not UTF-8"],
        2,
    ),
    "latin-1 table": (
        "a.csv",
        "input,output\na,b\nü,c\nd,e\n".encode("latin-1"),
        ["a.csv, line 3: not UTF-8 text (byte 0xfc); save the file as UTF-8"],
        1,
    ),
    "latin-1 document": ("a.json", '[\n{"a": "ü"}]'.encode("latin-1"), ["a.json, line 2: not UTF-8 text (byte 0xfc)"], 0),
    "utf-16": ("a.csv", "input,output\na,b\n".encode("utf-16"), ["a.csv: is UTF-16, not UTF-8 text"], 0),
    "nul bytes": ("a.jsonl", f"{LINE}\n\0\0\0\n{LINE}\n", ["a.jsonl, line 2: holds a NUL byte"], 2),
    "nul bytes in a table": ("a.csv", "input,output\na,b\n\0,c\n", ["a.csv, line 3: holds a NUL byte"], 1),
    "long line": ("a.jsonl", f"{LINE}\n{' ' * (17 * 2**20)}\n{LINE}\n", ["a.jsonl, line 2: the line is longer than 16 MiB"], 2),
    "gzip ends early": ("a.jsonl.gz", gzip.compress(LINE.encode())[:-4], ["a.jsonl.gz, line 1: the gzip ends early"], 0),
    "no gzip": ("a.csv.gz", "input,output\na,b\n", ["a.csv.gz, line 1: is no whole gzip"], 0),
    "truncated parquet": (
        "a.parquet",
        as_bytes(ROWS, ".parquet")[:-20],
        [
            "a.parquet: no whole Parquet file (",
        ],
        0,
    ),
    "text named parquet": ("a.parquet", LINE, ["a.parquet: no whole Parquet file ("], 0),
    "unknown ending": ("a.txt", "x", ["a.txt: cannot read '.txt'; give a .jsonl, .json, .csv, .tsv, .parquet file"], 0),
    "no ending": ("a", "x", ["a: cannot read a file without an ending; give a .jsonl, "], 0),
    "parquet in a gzip": (
        "a.parquet.gz",
        gzip.compress(as_bytes(ROWS, ".parquet")),
        ["a.parquet.gz: cannot read a Parquet file in a gzip; unpack it"],
        0,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_told_and_the_good_rows_are_read(tmp_path, both_ways, fault):
    name, content, told, good = FAULTS[fault]
    path = written(tmp_path, name, content)
    assert len(both_ways(lambda report: read_rows(path, report), *told)) == good


def test_the_end_that_a_file_should_have_is_told(tmp_path):
    with pytest.raises(DataError, match=r"so give it the ending \.jsonl$"):
        rows_of(written(tmp_path, "a.json", f"{LINE}\n{LINE}\n"))
    with pytest.raises(DataError, match=r"the file looks like one JSON list, so give it the ending \.json$"):
        rows_of(written(tmp_path, "a.jsonl", f"[{LINE}]"))


def test_a_parquet_file_without_rows_and_one_with_a_column_twice(tmp_path, both_ways):
    pq.write_table(pa.table({"input": pa.array([], pa.string())}), tmp_path / "a.parquet")
    both_ways(lambda report: read_rows(tmp_path / "a.parquet", report), "a.parquet: the file has no rows")
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], ["input", "input"]), tmp_path / "b.parquet")
    both_ways(lambda report: read_rows(tmp_path / "b.parquet", report), "b.parquet: two columns are called 'input'")


def test_texts_of_parquet_that_are_no_utf8_are_told(tmp_path, both_ways):
    pq.write_table(pa.table({"input": pa.array([b"a", b"\xff"]).view(pa.string())}), tmp_path / "a.parquet")
    both_ways(lambda report: read_rows(tmp_path / "a.parquet", report), "a.parquet, row 1: not UTF-8 text (byte 0xff)")


def test_what_is_no_file_is_told(tmp_path, both_ways, denied):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "folder.json").mkdir()
    shut = written(tmp_path, "shut.parquet", as_bytes(ROWS, ".parquet"))
    denied(text.os, "stat", shut, errno.EACCES)
    for name, words in (
        ("pipe.jsonl", "is no regular file"),
        ("loop.csv", "a symbolic link that leads back to itself; remove it, or point it to the data"),
        ("folder.json", "is a folder; give a file"),
        ("none.tsv", "no such file"),
        ("shut.parquet", "no permission to read it; change its mode or its owner (chmod, chown)"),
    ):
        assert both_ways(lambda report, name=name: read_rows(tmp_path / name, report), f"{name}: {words}") == []


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    rows = read_rows(written(tmp_path, "a.jsonl", f"{LINE}\n{{broken\n"))
    assert next(rows)[1] == GOOD
    with pytest.raises(DataError, match="line 2"):
        next(rows)


def test_documents_are_read_whole(tmp_path):
    assert read_json(written(tmp_path, "a.json", '{"a": [1, {"b": null}]}')) == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "empty"),
        ("", "text"),
        (True, "true or false"),
        (1, "a number"),
        (1.5, "a number"),
        (float("nan"), "NaN, as pandas writes where a value is missing"),
        ([], "a list"),
        ({}, "an object"),
        (b"", "bytes"),
    ],
)
def test_values_are_called_in_a_users_words(value, told):
    assert kind(value) == told
