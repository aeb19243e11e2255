"""The results document survives a round trip and is refused by name where it is not what the schema says."""

import copy
import json
from pathlib import Path

import pytest
from evaluation.report.synthetic import make_results

from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.records import Record
from headstart.evaluation.report.page import report_html
from headstart.evaluation.report.schema import RecordRow, read_results, results_schema, write_results
from headstart.evaluation.report.tables import headline, results_markdown
from headstart.files import WriteError, write_atomically
from headstart.shipped import shipped_adapters

SCHEMA = Path(__file__).parents[3] / "docs" / "results.schema.json"


def schema_text():
    return json.dumps(results_schema(), indent=1) + "\n"


@pytest.fixture(scope="module")
def made():
    return make_results(tasks=3, draws=1, steps=(0, 10))


@pytest.fixture
def results(made):
    return copy.deepcopy(made)


def test_round_trip_keeps_everything(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    assert write_results(results, path) == results
    assert read_results(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_records_stand_one_a_line(results, tmp_path):
    path = tmp_path / "results.json"
    write_results(results, path)
    lines = [line for line in path.read_text().splitlines() if line.startswith('{"arm"')]
    assert [json.loads(line.rstrip(",")) for line in lines] == results["records"]
    assert json.loads(path.read_text()) == results


def test_a_document_without_records_is_one(results, tmp_path):
    results["records"] = []
    assert write_results(results, tmp_path / "results.json")["records"] == []


def test_tuples_become_lists(results, tmp_path):
    results["protocol"]["steps"] = (0, 10)
    assert write_results(results, tmp_path / "results.json")["protocol"]["steps"] == [0, 10]


def test_a_record_row_has_the_fields_of_a_record(results):
    assert list(RecordRow.__annotations__) == list(Record.__dataclass_fields__)
    assert [Record.from_json(row).to_json() for row in results["records"]] == results["records"]


def spoil(results, path, value):
    *way, last = path
    for key in way:
        results = results[key]
    if value is ...:
        del results[last]
    else:
        results[last] = value


INTERVAL = ("settings", 0, "summary", "meta", "10", "loss")
FAULTS = [
    ((*INTERVAL, "mean"), float("nan"), "settings.0.summary.meta.10.loss.mean: .*finite"),
    (("records", 5, "loss"), float("inf"), "records.5.loss: .*finite"),
    (("protocol", "recipe", "rate"), float("nan"), "protocol.recipe: .*JSON compliant"),
    ((*INTERVAL, "low"), 1e9, "settings.0.summary.meta.10.loss: .*low lies above high"),
    (("records", 0, "accuracy"), 1.5, "records.0.accuracy: .*between 0 and 1"),
    (("records", 0, "draw"), "1", "records.0.draw"),
    (("records", 0, "step"), True, "records.0.step"),
    (("records", 0, "gaps"), [0.1, 0.2], "records.0.gaps"),
    (("records", 0, "regime"), "mixed", "records.0.regime"),
    (("settings", 0, "summary", "meta", "ten"), {}, "settings.0.summary.meta.ten"),
    (("settings", 0, "summary", "meta", "10", "speed"), {"mean": 1.0, "low": 1.0, "high": 1.0}, "settings.0.summary.meta.10.speed"),
    (("surplus",), 1, "surplus: Extra"),
    (("protocol", "surplus"), 1, "protocol.surplus: Extra"),
    (("protocol", "primary", "pair"), ..., "protocol.primary.pair: Field required"),
    (("settings",), [], "settings: "),
    *(
        ((key,), ..., f"{key}: Field required")
        for key in ("protocol", "headline", "settings", "summary", "pairs", "tasks", "looks", "notes")
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS, ids=[".".join(map(str, fault[0])) for fault in FAULTS])
def test_a_fault_is_told_with_its_place_and_nothing_is_written(results, tmp_path, path, value, message):
    spoil(results, path, value)
    with pytest.raises(EvaluationError, match=message):
        write_results(results, tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


def test_a_last_bit_beyond_its_range_is_no_fault(results, tmp_path):
    results["settings"][0]["curves"]["meta"]["steps_to_target"]["censored"] = -2.2e-16
    results["settings"][0]["summary"]["meta"]["10"]["loss"] |= {"low": 1.0 + 2.2e-16, "high": 1.0}
    results["records"][0]["accuracy"] = 1 + 2.2e-16
    assert write_results(results, tmp_path / "results.json") == results


def test_many_faults_are_counted(results, tmp_path):
    for record in results["records"]:
        record["loss"] = "much"
    with pytest.raises(EvaluationError, match=f"; and {len(results['records']) - 3} more$"):
        write_results(results, tmp_path / "results.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[]", "no schema_version"),
        ("{}", "no schema_version"),
        ('{"schema_version": 1}', "of an older headstart; .*run headstart evaluate again"),
        ('{"schema_version": 4}', "of a newer headstart; .*update headstart"),
        ('{"schema_version": 3}', "protocol: Field required"),
        ('{"schema_version": 2}', "protocol: Field required"),
        ('{"schema_version": 2, "settings": 1}', "settings: "),
        ('{"schema_version": 2, "settings": ["none"]}', "settings.0: "),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EvaluationError, match=message) as raised:
        read_results(path)
    assert str(raised.value).startswith(f"{path}: ")


def of_version_2(results):
    """The document as version 2 had it."""
    found = copy.deepcopy(results)
    found["schema_version"] = 2
    for setting in found["settings"]:
        del setting["multitask_target"]
        for numbers in setting["curves"].values():
            numbers.pop("steps_to_multitask", None)
    return found


def test_version_2_is_read_without_steps_to_multitask(results, tmp_path):
    older = of_version_2(results)
    (tmp_path / "results.json").write_text(json.dumps(older))
    read = read_results(tmp_path / "results.json")
    assert read["schema_version"] == 3
    assert [setting["multitask_target"] for setting in read["settings"]] == [None] * len(results["settings"])
    assert of_version_2(read) == older


def test_version_2_is_not_written(results, tmp_path):
    for older in (of_version_2(results), {**results, "schema_version": 2}):
        with pytest.raises(EvaluationError, match="schema_version: Input should be 3"):
            write_results(older, tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(shipped_adapters()))
def test_shipped_evaluations_are_read_and_told(name):
    results = read_results(shipped_adapters()[name] / "evaluation" / "results.json")
    assert headline(results)
    assert '<section id="aims">' in report_html(results)
    assert "### Aims" in results_markdown(results)


def test_a_file_with_nan_is_refused(results, tmp_path):
    path = tmp_path / "results.json"
    write_results(results, path)
    loss = json.dumps(results["records"][0]["loss"])
    path.write_text(path.read_text().replace(f'"loss": {loss}', '"loss": NaN'))
    with pytest.raises(EvaluationError, match=r"records\.0\.loss"):
        read_results(path)


def test_failed_write_leaves_the_old_file_and_nothing_else(results, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(results, path)

    def fail(*_):
        raise OSError("disk")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(WriteError, match="disk"):
        write_atomically(path, b"half")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert read_results(path) == results


def test_the_schema_in_the_documentation_is_the_models():
    assert SCHEMA.read_text() == schema_text(), "PYTHONPATH=tests python tests/evaluation/report/test_schema.py writes it anew"


def test_the_schema_forbids_what_the_document_does_not_have():
    schema = results_schema()
    closed = [about for about in (schema, *schema["$defs"].values()) if about.get("type") == "object"]
    assert len(closed) > 15
    assert all(about["additionalProperties"] is False for about in closed)


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
