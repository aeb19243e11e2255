"""Files to adapters: one or many, run again, stopped, or with something wrong with them."""

import json
import os
import shutil

import pytest
import torch
from filelock import FileLock
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapting import run as running
from headstart.adapting.data import Reading
from headstart.adapting.fit import Stopped
from headstart.adapting.run import adapt_files, find_files
from headstart.adapting.settings import AdaptError, Settings
from headstart.tasks.task import SuiteError


@pytest.fixture
def go(adapter, quiet):
    """Adapts quietly, few steps and nothing measured unless told."""

    def go(data, output, settings=None, console=None, **options):
        settings = settings or Settings(steps=2, measure=False)
        return adapt_files(adapter, data, output=output, settings=settings, console=console or quiet, **options)

    return go


@pytest.fixture
def tenants(write, shouted):
    """Three files of unlike length."""
    for number, count in enumerate((5, 9, 3)):
        write(f"tenants/t{number}.jsonl", shouted(count, 10 * number))
    return "tenants/*.jsonl"


@pytest.fixture
def pattern(tenants, tmp_path):
    return str(tmp_path / tenants)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_many_files_are_each_as_if_alone(go, pattern, tmp_path, assert_same):
    rows = go([pattern], tmp_path / "out")
    assert [row["name"] for row in rows] == ["t0", "t1", "t2"]
    assert names(tmp_path / "out") == ["results.json", "t0", "t1", "t2"]
    for number in range(3):
        go([tmp_path / f"tenants/t{number}.jsonl"], tmp_path / f"alone{number}")
        assert_same(weights(tmp_path / "out" / f"t{number}"), weights(tmp_path / f"alone{number}"), 2e-5)


def test_an_adapter_whose_rates_mix_ranks_adapts_to_many_files_as_to_each(go, meta, mixing, pattern, tmp_path, quiet, assert_same):
    """Past its trained steps too, where AdamW goes on at one rate."""
    mixing(meta).save_pretrained(tmp_path / "mixing")
    settings = Settings(steps=5, learning_rate=1e-3, measure=False)

    def adapt(data, output):
        adapt_files(tmp_path / "mixing", data, output=tmp_path / output, settings=settings, console=quiet)

    adapt([pattern], "out")
    adapt([tmp_path / "tenants/t1.jsonl"], "alone")
    go([tmp_path / "tenants/t1.jsonl"], tmp_path / "plain", settings)
    mixed, plain = weights(tmp_path / "alone"), weights(tmp_path / "plain")
    assert_same(weights(tmp_path / "out" / "t1"), mixed, 1e-4)
    assert all(not torch.allclose(mixed[name], plain[name], atol=1e-4) for name in mixed)
    assert AdaptedAdapter.from_pretrained(tmp_path / "alone").steps == 5


def test_each_is_a_plain_peft_adapter(go, pattern, tmp_path, tiny_folder):
    go([pattern], tmp_path / "out")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), tmp_path / "out" / "t1")
    assert model.peft_config["default"].base_model_name_or_path == "test/tiny"
    loaded = AdaptedAdapter.from_pretrained(tmp_path / "out" / "t1")
    assert (loaded.instruction, loaded.steps) == ("Shout.", 2)


def test_a_bad_file_fails_alone_with_its_reason(go, pattern, write, tmp_path):
    write("tenants/empty.jsonl", [])
    (tmp_path / "tenants" / "broken.jsonl").write_text('{"input": "a"')
    write("tenants/same.jsonl", [("a", "x"), ("b", "x")])
    with pytest.raises(AdaptError, match=r"3 of 6 files failed, the first broken: .*not valid JSON"):
        go([pattern], tmp_path / "out")
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["adapters"]}
    assert "the file has no rows" in rows["empty"]["failed"]
    assert "nothing to tell apart" in rows["same"]["failed"]
    assert names(tmp_path / "out") == ["results.json", "t0", "t1", "t2"]


def test_run_again_it_does_only_what_is_missing(go, pattern, tmp_path, monkeypatch):
    go([pattern], tmp_path / "out")
    before = {name: (tmp_path / "out" / name / "adapter_model.safetensors").stat().st_mtime_ns for name in ("t0", "t1", "t2")}
    shutil.rmtree(tmp_path / "out" / "t1")
    asked = []
    real = running.adapt_batch
    monkeypatch.setattr(running, "adapt_batch", lambda jobs, *rest: asked.extend(job.name for job in jobs) or real(jobs, *rest))
    rows = go([pattern], tmp_path / "out")
    assert asked == ["t1"]
    assert [row.get("note") for row in rows] == ["was there", None, "was there"]
    after = {name: (tmp_path / "out" / name / "adapter_model.safetensors").stat().st_mtime_ns for name in ("t0", "t2")}
    assert after == {name: before[name] for name in after}


def test_nothing_missing_loads_no_base(go, pattern, tmp_path, monkeypatch):
    go([pattern], tmp_path / "out")
    monkeypatch.setattr(running, "load_base", lambda *_: pytest.fail("the base was loaded"))
    assert len(go([pattern], tmp_path / "out")) == 3


def test_other_rows_or_settings_do_not_pass_for_done(go, write, shouted, tmp_path):
    path = write("one.jsonl", shouted(5))
    go([path], tmp_path / "out")
    assert go([path], tmp_path / "out")[0]["note"] == "was there"
    with pytest.raises(AdapterError, match="exists already and is of other rows"):
        go([path], tmp_path / "out", Settings(steps=3, measure=False))
    write("one.jsonl", shouted(6))
    with pytest.raises(AdapterError, match="exists already and is of other rows"):
        go([path], tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(go, write, shouted, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(AdapterError, match="give another folder with --output"):
        go([write("one.jsonl", shouted(5))], tmp_path / "out")
    assert names(tmp_path / "out") == ["mine.txt"]


def test_two_files_with_one_output_are_refused_before_anything(go, write, shouted, tmp_path):
    files = [write("a/x.jsonl", shouted(4)), write("b/X.jsonl", shouted(5))]
    with pytest.raises(AdaptError, match=r"a/x.jsonl and .*b/X.jsonl would both be saved as 'X'"):
        go(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_process_writes_fails_alone(go, pattern, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".t1.lock"), pytest.raises(AdaptError, match=r"t1: .*another process is adapting into it"):
        go([pattern], tmp_path / "out")
    assert {"t0", "t2"} <= set(names(tmp_path / "out"))
    go([pattern], tmp_path / "out")
    assert names(tmp_path / "out") == ["results.json", "t0", "t1", "t2"]


class Answers:
    """Interrupts that ask for a stop from the n-th question on."""

    def __init__(self, after):
        self.after = after

    @property
    def asked(self):
        self.after -= 1
        return self.after < 0


@pytest.mark.parametrize("after", [1, 4, 6])
def test_stopped_in_the_middle_nothing_is_lost(go, pattern, tmp_path, monkeypatch, after):
    """Batches of one, so that some are done, one is under way and others have not begun."""
    monkeypatch.setattr(running, "most_lanes", lambda *_: 1)
    go([pattern], tmp_path / "wanted")
    real = running.interruptible

    class Once:
        def __enter__(self):
            return Answers(after)

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(running, "interruptible", Once)
    with pytest.raises(Stopped):
        go([pattern], tmp_path / "out")
    done = [name for name in names(tmp_path / "out") if not name.startswith(".")]
    assert len(done) < 3
    assert all((tmp_path / "out" / name / "headstart.json").exists() for name in done)
    monkeypatch.setattr(running, "interruptible", real)
    go([pattern], tmp_path / "out")
    assert names(tmp_path / "out") == ["results.json", "t0", "t1", "t2"]
    for name in ("t0", "t1", "t2"):
        wanted = weights(tmp_path / "wanted" / name)
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in weights(tmp_path / "out" / name).items())


def test_one_file_tells_before_and_after_and_shows_predictions(go, write, shouted, tmp_path, png_size, capsys):
    path = write("one.jsonl", shouted(12))
    console = Console(width=120)
    (row,) = go([path], tmp_path / "out", Settings(steps=3, compare=True), console, reading=Reading(shots=8))
    printed = capsys.readouterr().out
    for told in (
        "4 held-out rows",
        "before",
        "head start, 3 steps",
        "fresh LoRA, rate",
        "expected",
        "The head start",
        "saved a plain PEFT adapter",
    ):
        assert told in printed
    assert min(png_size(tmp_path / "out" / "curves.png")) > 300
    record = json.loads((tmp_path / "out" / "headstart.json").read_text())["record"]
    assert record["results"] == {key: value for key, value in row.items() if key not in ("name", "output")}
    assert "## Measured" in (tmp_path / "out" / "README.md").read_text()


def test_the_saved_adapter_gives_what_was_measured(go, write, shouted, tmp_path):
    path = write("one.jsonl", shouted(12))
    (row,) = go([path], tmp_path / "out", Settings(steps=3), reading=Reading(eval_file=write("eval.jsonl", shouted(6, 50))))
    found = AdaptedAdapter.from_pretrained(tmp_path / "out").evaluate(
        [{"input": f"word {n}", "output": f"WORD {n}"} for n in range(50, 56)]
    )
    assert found.loss == pytest.approx(row["measured"]["sides"]["head start"]["loss"], rel=1e-5)


def test_an_evaluation_file_is_for_one_task(go, pattern, write, shouted, tmp_path):
    with pytest.raises(AdaptError, match="belongs to one task"):
        go([pattern], tmp_path / "out", reading=Reading(eval_file=write("eval.jsonl", shouted(4, 90))))


def test_more_tokens_than_positions_are_refused(go, write, shouted, tmp_path):
    with pytest.raises(AdaptError, match="positions for 2048 tokens; lower --max-length"):
        go([write("one.jsonl", shouted(5))], tmp_path / "out", max_length=4096)


def test_an_unusable_only_file_raises_its_own_error(go, write, tmp_path):
    with pytest.raises(SuiteError, match="the file has no rows"):
        go([write("one.jsonl", [])], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_found_by_name_folder_and_pattern(tmp_path, tenants, pattern):
    files = [tmp_path / f"tenants/t{n}.jsonl" for n in range(3)]
    assert find_files([pattern]) == find_files([tmp_path / "tenants"]) == find_files([pattern, files[0]]) == files
    (tmp_path / "tenants" / "a[1].csv").write_text("input,output\nx,y\n")
    assert find_files([tmp_path / "tenants" / "a[1].csv"]) == [tmp_path / "tenants" / "a[1].csv"]
    assert len(find_files([tmp_path / "tenants"])) == 4
    for nothing in (tmp_path / "tenants" / "*.txt", tmp_path):
        with pytest.raises(AdaptError, match=r"there is no \.jsonl, \.json, \.csv, \.tsv, \.parquet file here"):
            find_files([nothing])


def test_nothing_is_left_where_it_cannot_be_written(go, write, shouted, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        go([write("one.jsonl", shouted(5))], tmp_path / "locked" / "out")


def test_a_choice_at_the_horizon_is_told(go, write, shouted, tmp_path, capsys):
    path = write("one.jsonl", shouted(10))
    go([path], tmp_path / "short", Settings(steps=2, early_stopping=1), Console(width=120))
    assert "lowest at the last look" in capsys.readouterr().out
    go([path], tmp_path / "fixed", Settings(steps=2), Console(width=120))
    assert "lowest at the last look" not in capsys.readouterr().out


def test_progress_ends_once(go, pattern, tmp_path, capsys):
    go([pattern], tmp_path / "out", console=Console(width=120))
    assert capsys.readouterr().out.count("adapt: 100%") == 1
