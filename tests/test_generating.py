"""`headstart generate`: what adapters answer side by side, where it goes, what a failure leaves, which mistakes are told at once."""

import json
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from headstart import generating
from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.stored import StoredAdapter
from headstart.cli import MISTAKE, STOPPED, main
from headstart.files import WriteError
from headstart.generating import generate
from headstart.model.decode import DecodeError, Sampling
from headstart.model.learner import Learner, LoraSpec
from headstart.tasks.task import SuiteError

SHORT = Sampling(max_new_tokens=6)
INPUTS = ["abc", "a longer word", "e", "zz"]


@pytest.fixture
def adapt(dense_base, random_phi):
    """Builds adapted adapters, random with B away from zero."""

    def build(seed=0, lora=None, **told):
        with Learner(dense_base, lora or LoraSpec(r=4, lora_alpha=8)) as learner:
            phi = {name: tensor[0] for name, tensor in random_phi(learner, 1, seed).items()}
            return AdaptedAdapter(phi, learner.spec, dense_base, **{"instruction": f"Do {seed}.", **told})

    return build


@pytest.fixture
def folders(adapt, tmp_path):
    """Three adapters: two that write, of other ranks and targets, and one that chooses among labels."""
    made = {"one": adapt(0), "two": adapt(1, LoraSpec(2, 6, ("q_proj",))), "kind": adapt(2, labels=("yes", "no", "perhaps"))}
    for name, adapter in made.items():
        adapter.save_pretrained(tmp_path / name)
    return tmp_path, made


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"input": f"w{n}", "output": f"W{n}"}) + "\n" for n in range(5)))
    return path


@pytest.fixture
def unloaded(monkeypatch):
    """The base must not be loaded."""
    monkeypatch.setattr(generating, "load_base", lambda *_: pytest.fail("the base was loaded"))


def failing_in_batch(monkeypatch, number, error):
    real, calls = generating.decode, []

    def decode(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise error
        return real(*arguments)

    monkeypatch.setattr(generating, "decode", decode)


def answers(found, name):
    return [row["output"] for row in found if row["adapter"] == name]


def bare(adapter):
    return replace(adapter, phi={name: tensor * 0 for name, tensor in adapter.phi.items()}, instruction="")


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_side_by_side_each_answers_as_it_does_alone(folders, quiet, batch_size):
    folder, made = folders
    paths = [folder / "two", "base", folder / "kind", folder / "one"]
    found = generate(paths, prompts=INPUTS, sampling=SHORT, batch_size=batch_size, console=quiet)
    assert [(row["input"], row["adapter"]) for row in found] == [(text, name) for text in INPUTS for name in ("two", "base", "kind", "one")]
    for name in ("one", "two"):
        assert answers(found, name) == made[name].generate(INPUTS, max_new_tokens=6)
    assert answers(found, "base") == bare(made["one"]).generate(INPUTS, max_new_tokens=6)
    assert len({tuple(answers(found, name)) for name in ("one", "two", "base")}) == 3
    for row, wanted in zip([row for row in found if row["adapter"] == "kind"], made["kind"].classify(INPUTS), strict=True):
        assert row["probabilities"] == pytest.approx(wanted, rel=1e-4)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-9)
        assert list(row["probabilities"].values()) == sorted(row["probabilities"].values(), reverse=True)
        assert row["output"] == next(iter(wanted)) == next(iter(row["probabilities"]))


def test_an_instruction_given_is_everyones(folders, quiet):
    folder, made = folders
    found = generate([folder / "one", "base"], prompts=INPUTS, instruction="Sing.", sampling=SHORT, console=quiet)
    singing = replace(made["one"], instruction="Sing.")
    assert answers(found, "one") == singing.generate(INPUTS, max_new_tokens=6)
    assert answers(found, "base") == replace(bare(singing), instruction="Sing.").generate(INPUTS, max_new_tokens=6)


def test_a_rows_own_instruction_comes_first(folders, tmp_path, quiet):
    folder, made = folders
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"input": "abc"}\n{"input": "abc", "instruction": "Sing."}\n')
    found = generate([folder / "one"], file=path, instruction="Dance.", sampling=SHORT, console=quiet)
    wanted = [replace(made["one"], instruction=own).generate("abc", max_new_tokens=6)[0] for own in ("Dance.", "Sing.")]
    assert answers(found, "one") == wanted


def test_labels_can_be_given_and_taken_away(folders, quiet):
    folder, made = folders
    written = generate([folder / "kind"], prompts=INPUTS, labels=(), sampling=SHORT, console=quiet)
    assert not any("probabilities" in row for row in written)
    assert answers(written, "kind") == made["kind"].generate(INPUTS, max_new_tokens=6)
    ranked = generate([folder / "one", "base"], prompts=["abc"], labels=("x", " y", "x"), console=quiet)
    wanted = [*replace(made["one"], labels=("x", "y")).classify("abc"), *replace(bare(made["one"]), labels=("x", "y")).classify("abc")]
    for row, own in zip(ranked, wanted, strict=True):
        assert row["probabilities"] == pytest.approx(own, rel=1e-4)


def test_draws_repeat_with_the_seed_and_differ_between_batches(folders, quiet):
    folder, _ = folders
    hot = {"sampling": Sampling(max_new_tokens=8, temperature=3.0, seed=2**63 - 1), "batch_size": 1, "console": quiet}
    first, second = (generate([folder / "one"], prompts=["abc", "abc", "abc"], **hot) for _ in range(2))
    assert first == second
    assert len(set(answers(first, "one"))) > 1


def test_two_folders_of_one_name_keep_apart(folders, adapt, tmp_path, quiet):
    folder, made = folders
    (tmp_path / "elsewhere").mkdir()
    other = adapt(7)
    other.save_pretrained(tmp_path / "elsewhere" / "one")
    paths = [str(folder / "one"), str(tmp_path / "elsewhere" / "one"), str(folder / "one")]
    found = generate([*paths, folder / "two"], prompts=INPUTS, sampling=SHORT, console=quiet)
    assert {row["adapter"] for row in found} == {*paths, "two"}
    assert len(found) == 3 * len(INPUTS), "an adapter named twice answers once"
    for path, wanted in zip(paths, (made["one"], other), strict=False):
        assert answers(found, path) == wanted.generate(INPUTS, max_new_tokens=6)


def test_an_adapter_in_a_folder_called_base_is_not_the_base(adapt, tmp_path, quiet):
    own = adapt(3)
    own.save_pretrained(tmp_path / "base")
    found = generate([tmp_path / "base", "base"], prompts=["abc"], sampling=SHORT, console=quiet)
    assert [row["adapter"] for row in found] == [str(tmp_path / "base"), "base"]
    assert [row["output"] for row in found] == own.generate("abc", max_new_tokens=6) + bare(own).generate("abc", max_new_tokens=6)


def test_the_base_is_loaded_as_an_adapter_tells_that_tells(folders, adapt, tmp_path, quiet):
    """A plain PEFT folder says neither where its base lies nor how it was loaded."""
    folder, made = folders
    (folder / "one" / "headstart.json").unlink()
    found = generate([folder / "one", folder / "two"], prompts=INPUTS, instruction="Do 0.", sampling=SHORT, console=quiet)
    assert answers(found, "one") == made["one"].generate(INPUTS, max_new_tokens=6)


def test_a_file_becomes_a_file_of_json_lines(folders, rows, tmp_path, quiet):
    folder, _ = folders
    output = tmp_path / "new" / "answers.jsonl"
    found = generate([folder / "one", folder / "kind"], file=rows, output=output, sampling=SHORT, batch_size=2, console=quiet)
    assert [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]] == found
    assert [(row["input"], row["expected"]) for row in found[::2]] == [(f"w{n}", f"W{n}") for n in range(5)]
    assert list(found[0]) == ["adapter", "input", "expected", "output"]
    assert list(found[1]) == ["adapter", "input", "expected", "output", "probabilities"]
    assert [path.name for path in output.parent.iterdir()] == ["answers.jsonl"]


def test_a_csv_file_is_read_too(folders, tmp_path, quiet):
    folder, made = folders
    path = tmp_path / "rows.csv"
    path.write_text('input,note\nabc,1\n"a, b",2\n')
    found = generate([folder / "one"], file=path, sampling=SHORT, console=quiet)
    assert answers(found, "one") == made["one"].generate(["abc", "a, b"], max_new_tokens=6)
    assert "expected" not in found[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DecodeError("no room"), RuntimeError("broken")])
def test_a_failure_in_the_middle_leaves_no_file(folders, rows, tmp_path, quiet, monkeypatch, error):
    folder, _ = folders
    failing_in_batch(monkeypatch, 2, error)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(type(error)):
        generate([folder / "one"], file=rows, output=tmp_path / "new.jsonl", sampling=SHORT, batch_size=2, console=quiet)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_in_the_middle_leaves_the_file_that_was_there(folders, rows, tmp_path, quiet, monkeypatch):
    folder, _ = folders
    (tmp_path / "old.jsonl").write_text("what was there")
    failing_in_batch(monkeypatch, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        generate([folder / "one"], file=rows, output=tmp_path / "old.jsonl", sampling=SHORT, batch_size=2, console=quiet)
    assert (tmp_path / "old.jsonl").read_text() == "what was there"


def test_after_a_failure_the_base_is_plain_again(folders, quiet, monkeypatch, dense_base):
    folder, _ = folders
    monkeypatch.setattr(generating, "load_base", lambda *_: dense_base)
    ids = torch.tensor([[5, 60, 200]])
    wanted = dense_base.model(input_ids=ids).logits
    failing_in_batch(monkeypatch, 1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        generate([folder / "one"], prompts=["a"], console=quiet)
    assert torch.equal(dense_base.model(input_ids=ids).logits, wanted)


FILES = {
    "no input": ('{"input": "a"}\n\n{"text": "b"}\n', r"rows\.jsonl, line 3: `input` is missing; columns found: text"),
    "number": ('{"input": 3}\n', r"rows\.jsonl, line 1: `input` is a number, not text"),
    "instruction that is no text": ('{"input": "a", "instruction": ["b"]}\n', r"line 1: `instruction` is a list"),
    "output that is no text": ('{"input": "a", "output": 5}\n', r"line 1: `output` is a number"),
    "no JSON": ('{"input": "a"}\n{', r"rows\.jsonl, line 2: not valid JSON"),
    "no rows": ("\n", "the file has no rows"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_row_that_cannot_be_read_is_named(folders, unloaded, tmp_path, name):
    content, told = FILES[name]
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(SuiteError, match=told):
        generate([folders[0] / "one"], file=tmp_path / "rows.jsonl")


def test_other_mistakes_are_told_before_the_base_is_loaded(folders, rows, unloaded, adapt, tmp_path):
    folder, made = folders
    foreign = adapt(5)
    replace(foreign, base=replace(foreign.base, spec=replace(foreign.base.spec, id="other/base"))).save_pretrained(tmp_path / "foreign")
    (tmp_path / "file").write_text("")
    one, kind = [folder / "one"], [folder / "kind"]
    edge = "x" * (512 - len(generating.Renderer(made["kind"].base.tokenizer).prompt("Do 2.", "x")))
    for adapters, options, error, told in (
        (one, {}, SuiteError, "give either --prompt or --file$"),
        (one, {"prompts": ["a"], "file": rows}, SuiteError, "give either --prompt or --file, not both"),
        (one, {"file": tmp_path / "gone.jsonl"}, SuiteError, "no such file"),
        (one, {"file": tmp_path / "file"}, SuiteError, r"give a \.jsonl, \.json, \.csv, \.tsv, \.parquet file"),
        (one, {"prompts": ["a", "x" * 900]}, SuiteError, "leaves no room for an answer"),
        (one, {"prompts": [" "], "instruction": ""}, SuiteError, "nothing to answer"),
        # there is room for an answer, yet not for every label
        (kind, {"prompts": ["a", edge]}, SuiteError, "over the limit of 512"),
        (one, {"prompts": ["a"], "labels": ("x", " ")}, SuiteError, "one of the labels .* is empty"),
        (["base"], {"prompts": ["a"]}, AdapterError, "base alone is no adapter"),
        ([], {"prompts": ["a"]}, AdapterError, "give an adapter's folder or name"),
        ([folder / "gone"], {"prompts": ["a"]}, AdapterError, "there is no adapter folder"),
        ([*one, tmp_path / "foreign"], {"prompts": ["a"]}, AdapterError, "one belongs to test/tiny and foreign to other/base"),
        (one, {"prompts": ["a"], "output": tmp_path / "file" / "out"}, WriteError, "cannot be written"),
        (one, {"prompts": ["a"], "output": folder / "two"}, WriteError, "two: cannot be written: a folder is there; name a file"),
    ):
        with pytest.raises(error, match=told):
            generate(adapters, **options)
    assert (folder / "two" / "headstart.json").exists()


def test_other_weights_of_the_base_are_refused_unless_accepted(folders, quiet):
    folder, _ = folders
    path = folder / "one" / "headstart.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "base": {**about["base"], "fingerprint": "0"}}))
    with pytest.raises(AdapterError, match=r"one: the adapter was made on weights of test/tiny.*--allow-base-variant"):
        generate([folder / "two", folder / "one"], prompts=["a"], console=quiet)
    assert len(generate([folder / "two", folder / "one"], prompts=["a"], sampling=SHORT, allow_base_variant=True, console=quiet)) == 2


def test_what_is_no_terminal_gets_lines_of_json_and_nothing_else(folders):
    """As they are: no colours, no smileys, no breaks."""
    folder, _ = folders
    pipe = StringIO()
    inputs = ["[bold]x[/bold]", ":smile: \u00e9\n2", "long " * 60]
    found = generate([folder / "one", folder / "kind"], prompts=inputs, sampling=SHORT, batch_size=2, console=Console(file=pipe, width=80))
    lines = pipe.getvalue().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == found
    assert [row["input"] for row in found[::2]] == inputs


def test_a_terminal_sees_a_table_with_every_answer(folders, rows):
    folder, _ = folders
    terminal = StringIO()
    console = Console(file=terminal, force_terminal=True, width=200, height=50, color_system=None)
    found = generate([folder / "one", folder / "kind"], file=rows, sampling=SHORT, batch_size=3, console=console)
    printed = terminal.getvalue()
    assert not any(line.startswith("{") for line in printed.splitlines())
    for heading in ("input", "expected", "one", "kind"):
        assert heading in printed
    for row in found:
        assert f" {row['expected']} " in printed
        for label, share in row.get("probabilities", {}).items():
            assert f"{label} {share:.1%}" in printed


def test_a_table_shows_texts_as_they_are(tiny_spec):
    texts = ["[red]a[/red]", r"a\[b]", ":smile:", "ends in \\", "[/b]"]
    terminal = StringIO()
    named = [StoredAdapter({}, LoraSpec(), "kind[0]", tiny_spec())]
    Console(file=terminal, width=80).print(generating._table([generating.Question(text) for text in texts], named, [texts]))
    for text in texts:
        assert terminal.getvalue().count(text) == 2
    assert "kind[0]" in terminal.getvalue()


def test_a_terminal_sees_answers_grow(folders, monkeypatch):
    """The table under way holds the tokens so far, each answer up to its end token."""
    folder, made = folders
    shown, real = [], generating._table

    def table(questions, adapters, columns):
        shown.append([list(column) for column in columns])
        return real(questions, adapters, columns)

    monkeypatch.setattr(generating, "_table", table)
    console = Console(file=StringIO(), force_terminal=True, width=200)
    generate([folder / "kind", folder / "one", folder / "two"], prompts=INPUTS[:2], sampling=SHORT, console=console)
    assert shown[0] == [["", ""]] * 3
    written = [made[name].generate(INPUTS[:2], max_new_tokens=6) for name in ("one", "two")]
    assert shown[-2][1:] == shown[-1][1:] == written
    assert shown[-2][0] == ["", ""]
    assert all("%" in answer for answer in shown[-1][0])
    assert len({json.dumps(each) for each in shown}) > 3


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["headstart", "generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stopped.value.code, printed.out, printed.err)

    return run


def test_the_command_answers_prompts(here, folders):
    folder, made = folders
    done = here(folder / "one", "base", folder / "kind", "--prompt", "abc", "--prompt", "e", "--max-new-tokens", 6)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["adapter"] for row in found] == ["one", "base", "kind"] * 2
    assert answers(found, "one") == made["one"].generate(["abc", "e"], max_new_tokens=6)
    assert set(found[2]["probabilities"]) == {"yes", "no", "perhaps"}


def test_the_command_answers_a_file_into_a_file(here, folders, rows, tmp_path):
    folder, made = folders
    options = ["--labels", "none", "--max-new-tokens", 6, "--batch-size", 2, "--instruction", "Do 2."]
    done = here(folder / "kind", "--file", rows, "--output", tmp_path / "out.jsonl", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / 'out.jsonl'}\n"
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert answers(found, "kind") == made["kind"].generate([f"w{n}" for n in range(5)], max_new_tokens=6)
    ranked = here(folder / "one", "--prompt", "abc", "--labels", "x, y")
    assert set(json.loads(ranked.stdout)["probabilities"]) == {"x", "y"}


def test_the_commands_mistakes_have_a_message_and_a_code(here, folders, rows):
    folder, _ = folders
    for arguments, told in (
        ((folder / "one", "--prompt", "a", "--file", rows), "not both"),
        ((folder / "one", "--prompt", "a", "--temperature", -1), "temperature: expected 0"),
        ((folder / "one", "--prompt", "a", "--labels", "x,,y"), "one of the labels"),
        (("base", "--prompt", "a"), "base alone is no adapter"),
        ((folder / "one", "--prompt", "a", "--batch-size", 0), "--batch-size"),
    ):
        done = here(*arguments)
        assert (done.returncode, done.stdout) == (MISTAKE, ""), done
        assert told in done.stderr


def test_the_command_stopped_by_ctrl_c_leaves_nothing(here, folders, rows, tmp_path, monkeypatch):
    folder, _ = folders
    failing_in_batch(monkeypatch, 2, KeyboardInterrupt())
    before = sorted(tmp_path.iterdir())
    done = here(folder / "one", "--file", rows, "--output", tmp_path / "out.jsonl", "--batch-size", 2, "--max-new-tokens", 4)
    assert done.returncode == STOPPED
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_bases_loaded_in_different_ways_are_not_mixed(folders, monkeypatch):
    read = generating.read_adapter

    def differently(folder):
        one = read(folder)
        return replace(one, base=replace(one.base, quantization="nf4")) if str(folder).endswith("two") else one

    monkeypatch.setattr(generating, "read_adapter", differently)
    with pytest.raises(AdapterError, match=r"loaded in more than one way .*nf4 float32"):
        generate([folders[0] / "one", folders[0] / "two"], prompts=["x"])


def test_an_empty_cell_is_no_instruction(folders, tmp_path, quiet):
    path = tmp_path / "rows.csv"
    path.write_text("input,instruction\nabc,\n")
    one = [folders[0] / "one"]
    found = generate(one, file=path, sampling=SHORT, console=quiet)
    assert answers(found, "one") == folders[1]["one"].generate(["abc"], max_new_tokens=6)


def test_more_tokens_than_the_base_has_places_are_told_before_the_first_batch(folders, monkeypatch):
    monkeypatch.setattr(generating, "decode", lambda *_: pytest.fail("it began"))
    with pytest.raises(DecodeError, match="lower max_new_tokens"):
        generate([folders[0] / "one"], prompts=["x"], sampling=Sampling(max_new_tokens=4000))
