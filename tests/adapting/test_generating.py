"""Answers of several adapters side by side, and adapters read from folders of any maker."""

import json
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from headstart import generating
from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.stored import read_adapter, together
from headstart.algorithms.inner import expand
from headstart.generating import generate
from headstart.model.decode import Sampling
from headstart.model.learner import LoraSpec
from headstart.passes import passes_over
from headstart.tasks.episodes import Draw
from headstart.tasks.task import SuiteError

SHORT = Sampling(max_new_tokens=6)


@pytest.fixture
def adapted(meta, dense_base, toy_suite, tmp_path):
    """Two adapters in folders: one that shouts, one that tells vowels."""
    for name, labels in (("upper", ()), ("vowel", ("yes", "no"))):
        task = toy_suite.tasks[name]
        one = meta.adapt(task.examples[:9], instruction=task.instruction, labels=labels, steps=6, base=dense_base)
        one.save_pretrained(tmp_path / name)
    return tmp_path


def test_an_adapted_adapter_comes_back_as_it_was(adapted, meta, dense_base, toy_suite):
    stored = AdaptedAdapter.from_pretrained(adapted / "vowel", base=dense_base)
    wanted = meta.adapt(
        toy_suite.tasks["vowel"].examples[:9], instruction=stored.instruction, labels=stored.labels, steps=6, base=dense_base
    )
    assert all(torch.equal(stored.phi[name], wanted.phi[name]) for name in wanted.phi)
    assert replace(stored, phi={}, base=None) == replace(wanted, phi={}, base=None)


def test_a_plain_peft_folder_and_a_meta_adapter_are_read_too(adapted, adapter, meta):
    (adapted / "upper" / "headstart.json").unlink()
    plain = read_adapter(adapted / "upper")
    assert (plain.base.id, plain.fingerprint, plain.instruction) == ("test/tiny", None, "")
    whole = read_adapter(adapter)
    assert all(torch.equal(whole.phi[name], meta.theta[name]) for name in meta.theta)


def test_another_base_or_a_newer_file_is_refused(adapted, dense_base):
    stored = read_adapter(adapted / "upper")
    with pytest.raises(AdapterError, match="has others"):
        replace(stored, fingerprint="0").require_base(dense_base)
    replace(stored, fingerprint="0").require_base(dense_base, allow_variant=True)
    path = adapted / "upper" / "headstart.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(AdapterError, match="written by a newer headstart"):
        read_adapter(adapted / "upper")


def test_adapters_of_other_ranks_and_targets_are_side_by_side_what_each_is_alone(adapted, dense_base, toy_suite):
    one = read_adapter(adapted / "upper")
    generator = torch.Generator().manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in one.phi.items() if "q_proj" in name}
    phi = {
        name: torch.randn((2, shape[1]) if name.endswith("A") else (shape[0], 2), generator=generator) * 0.1
        for name, shape in shapes.items()
    }
    other = replace(one, name="other", phi=phi, lora=LoraSpec(2, 6, ("q_proj",)))
    stacked, spec = together([one, other])
    task = toy_suite.tasks["upper"]
    draw = Draw(task, (), task.examples[:5])
    with passes_over(dense_base, spec, 512) as passes:
        both = passes.losses(stacked, [draw, draw])
    for each, found in zip((one, other), both, strict=True):
        with passes_over(dense_base, each.lora, 512) as passes:
            torch.testing.assert_close(found, passes.losses(expand(each.phi, 1), [draw])[0], rtol=1e-5, atol=1e-6)
    same, own = together([one, one])
    assert own == one.lora
    assert all(torch.equal(same[name][1], one.phi[name]) for name in one.phi)


def test_side_by_side_answers_are_each_adapters_own(adapted, dense_base, quiet):
    inputs = ["abc", "a longer word", "e"]
    found = generate([adapted / "upper", adapted / "vowel", "base"], prompts=inputs, sampling=SHORT, console=quiet)
    assert [row["adapter"] for row in found[:3]] == ["upper", "vowel", "base"]
    upper = AdaptedAdapter.from_pretrained(adapted / "upper", base=dense_base)
    assert [row["output"] for row in found[::3]] == upper.generate(inputs, max_new_tokens=6)
    vowel = AdaptedAdapter.from_pretrained(adapted / "vowel", base=dense_base)
    for row, wanted in zip(found[1::3], vowel.classify(inputs), strict=True):
        assert row["probabilities"] == pytest.approx(wanted, rel=1e-4)
        assert sum(wanted.values()) == pytest.approx(1)
        assert row["output"] == max(wanted, key=wanted.get) == next(iter(wanted))
    bare = replace(upper, phi={name: tensor * 0 for name, tensor in upper.phi.items()}, instruction="")
    assert [row["output"] for row in found[2::3]] == bare.generate(inputs, max_new_tokens=6)


def test_classifying_is_how_accuracy_is_counted(adapted, dense_base, toy_suite):
    vowel = AdaptedAdapter.from_pretrained(adapted / "vowel", base=dense_base)
    rows = toy_suite.tasks["vowel"].examples[9:]
    right = [next(iter(found)) == row.output for found, row in zip(vowel.classify([row.input for row in rows]), rows, strict=True)]
    assert vowel.evaluate(rows).accuracy == pytest.approx(sum(right) / len(right))
    with pytest.raises(SuiteError, match="has no labels"):
        AdaptedAdapter.from_pretrained(adapted / "upper", base=dense_base).classify("abc")


def test_labels_can_be_given_and_taken_away(adapted, quiet):
    (row,) = generate([adapted / "vowel"], prompts=["abc"], labels=(), sampling=SHORT, console=quiet)
    assert "probabilities" not in row
    (row,) = generate([adapted / "upper"], prompts=["abc"], labels=("x", "y", "z"), console=quiet)
    assert set(row["probabilities"]) == {"x", "y", "z"}


def test_rows_of_a_file_become_lines_of_json(adapted, tmp_path, quiet, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"input": f"w{n}", "output": "W"}) + "\n" for n in range(5)))
    found = generate([adapted / "upper"], file=path, output=tmp_path / "out.jsonl", sampling=SHORT, batch_size=2, console=quiet)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == found
    assert [line["input"] for line in lines] == [f"w{n}" for n in range(5)]
    assert lines[0]["expected"] == "W"
    real, calls = generating.decode, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(generating, "decode", failing)
    with pytest.raises(KeyboardInterrupt):
        generate([adapted / "upper"], file=path, output=tmp_path / "new.jsonl", sampling=SHORT, batch_size=2, console=quiet)
    assert not [each for each in tmp_path.iterdir() if "new.jsonl" in each.name]


def test_mistakes_are_told_before_the_base_is_loaded(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr(generating, "load_base", lambda *_: pytest.fail("the base was loaded"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"input": "a"}\n{"text": "b"}\n')
    for options, error, told in (
        ({}, SuiteError, "give either --prompt or --file"),
        ({"prompts": ["a"], "file": path}, SuiteError, "not both"),
        ({"file": path}, SuiteError, "line 2: `input` is missing"),
        ({"prompts": ["x" * 900]}, SuiteError, "no room for an answer|over the limit|takes"),
    ):
        with pytest.raises(error, match=told):
            generate([adapted / "upper"], **options)
    with pytest.raises(AdapterError, match="alone is no adapter"):
        generate(["base"], prompts=["a"])


def test_a_terminal_sees_a_table_and_a_pipe_lines(adapted):
    terminal, pipe = StringIO(), StringIO()
    found = generate(
        [adapted / "upper", adapted / "vowel"],
        prompts=["abc"],
        sampling=SHORT,
        console=Console(file=terminal, force_terminal=True, width=100),
    )
    assert "upper" in terminal.getvalue()
    assert "yes" in terminal.getvalue()
    assert generate([adapted / "vowel"], prompts=["abc"], console=Console(file=pipe)) == [json.loads(pipe.getvalue())]
    assert found[1]["probabilities"] == pytest.approx(json.loads(pipe.getvalue())["probabilities"], rel=1e-4)


def test_the_card_tells_the_task(adapted):
    card = (adapted / "vowel" / "README.md").read_text()
    for told in ("Does it begin with a vowel?", "one of: yes, no", "test/tiny", "in 6 steps on 9 examples"):
        assert told in card
    assert "More Information Needed" not in card
