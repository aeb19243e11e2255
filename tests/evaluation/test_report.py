"""The results document survives a round trip, refuses what it does not know, and its tables show its numbers."""

import json

import pytest
from rich.console import Console

from headstart.evaluation.report import (
    build_results,
    describe_design,
    read_results,
    results_markdown,
    results_table,
    write_results,
)
from headstart.evaluation.statistics import ONE_SEED_NOTE, Record
from headstart.files import WriteError, write_atomically

STEPS = (0, 1, 10)


def make_records():
    """Two adapting arms and one measured at step 0 alone, over three tasks in two clusters; `meta` gains 0.1 more a step."""
    records = []
    for t, cluster in enumerate(("a", "a", "b")):
        for arm, gain in (("random", 0.0), ("meta", 0.1)):
            records += [Record(arm, f"t{t}", cluster, f"d{t}", 0, 0, 16, step, 2.0 + t - gain * step, 0.25) for step in STEPS]
        records.append(Record("icl", f"t{t}", cluster, f"d{t}", 0, 0, 16, 0, 1.5, 0.75))
    return records


@pytest.fixture
def results():
    return build_results(make_records(), [("meta", "random")], {"split": "meta_validation", "steps": list(STEPS)})


def test_document_has_every_part(results):
    assert results["schema_version"] == 1
    assert results["protocol"] == {"split": "meta_validation", "steps": [0, 1, 10]}
    assert results["notes"][0] == ONE_SEED_NOTE
    assert len(results["notes"]) == 2
    assert len(results["records"]) == len(make_records())
    # cluster a: (2 + 3) / 2 = 2.5, cluster b: 4
    assert results["summary"]["random"]["10"]["loss"]["mean"] == pytest.approx(3.25)
    assert results["pairs"]["meta-random"]["10"]["loss"]["mean"] == pytest.approx(-1.0)


def test_round_trip_keeps_everything(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results(results, path)
    assert read_results(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_the_document_can_be_rebuilt_from_its_own_records(results):
    assert build_results(results["records"], [("meta", "random")], results["protocol"]) == results


def test_extra_fields_of_a_record_are_kept():
    rows = build_results(make_records(), [], {})["records"]
    rows[0]["regime"] = "instructed"
    assert build_results(rows, [], {})["records"][0]["regime"] == "instructed"


def test_failed_write_leaves_the_old_file_and_nothing_else(results, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(results, path)
    with pytest.raises(ValueError, match="JSON"):
        write_results({**results, "protocol": {"rate": float("nan")}}, path)

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(WriteError, match="disk"):
        write_atomically(path, b"half")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert read_results(path) == results


def test_newer_schema_is_refused(results, tmp_path):
    path = tmp_path / "results.json"
    write_results({**results, "schema_version": 2}, path)
    with pytest.raises(ValueError, match="has schema version 2; this version of headstart reads up to 1"):
        read_results(path)


@pytest.mark.parametrize("key", ["records", "summary", "pairs", "notes", "protocol"])
def test_missing_key_is_refused_by_name(results, tmp_path, key):
    path = tmp_path / "results.json"
    del results[key]
    write_results(results, path)
    with pytest.raises(ValueError, match=f"lacks {key}$"):
        read_results(path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "no schema_version"), ("{}", "no schema_version")])
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_design_is_counted_from_the_records(results):
    assert describe_design(results) == "3 tasks in 2 clusters, K = 16"
    assert describe_design({"records": results["records"][:1]}) == "1 task in 1 cluster, K = 16"


def test_markdown_shows_every_arm_and_number(results):
    lines = results_markdown(results).splitlines()
    table = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in table]
    assert {len(row) for row in cells} == {2 + len(STEPS)}
    assert cells[0] == ["metric", "arm", "step 0", "step 1", "step 10"]
    rows = {(row[0], row[1]): row[2:] for row in cells[2:]}
    assert len(rows) == 2 * 3 + 2 * 1
    interval = results["summary"]["random"]["0"]["loss"]
    assert rows["loss", "random"][0] == f"3.250 [{interval['low']:.3f}, {interval['high']:.3f}]"
    assert rows["accuracy", "icl"] == ["0.750 [0.750, 0.750]", "-", "-"]
    assert rows["loss difference", "meta-random"][2] == "-1.000 [-1.000, -1.000]"
    assert rows["accuracy difference", "meta-random"][0] == "+0.000 [+0.000, +0.000]"
    assert f"- {ONE_SEED_NOTE}" in lines
    assert "3 tasks in 2 clusters, K = 16" in lines[0]


def test_markdown_without_pairs_has_no_differences():
    assert "difference" not in results_markdown(build_results(make_records(), [], {}))


def test_markdown_escapes_the_column_separator():
    rows = [{**row, "arm": "a|b"} for row in build_results(make_records()[:3], [], {})["records"]]
    assert "| a\\|b |" in results_markdown(build_results(rows, [], {}))


def test_rich_table_shows_the_same_numbers(results):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(results_table(results))
    text = captured.get()
    for expected in ("random", "meta-random", "loss difference", "-1.000", "3.250", "3 tasks in 2 clusters, K = 16", ONE_SEED_NOTE):
        assert expected in text
    assert text.index("loss") < text.index("accuracy") < text.index("loss difference")


def test_rich_table_does_not_cut_names_in_a_narrow_terminal(results):
    console = Console(width=60)
    with console.capture() as captured:
        console.print(results_table(results))
    assert "meta-random" in captured.get()


def test_document_is_plain_json(results):
    assert json.loads(json.dumps(results)) == results
