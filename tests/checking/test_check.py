"""`headstart check`: what a word stands for, exit codes, JSON, previews and pages."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from headstart.checking.check import CheckError, check, kind_of
from headstart.cli import FOUND, MISTAKE, main
from headstart.shipped import shipped_recipes

VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture
def run(monkeypatch, capsys, tiny_spec):
    """The command in this process: exit code, what it printed, and what it printed as errors."""

    def command(*arguments, base=True):
        tiny = ["--base", "test/tiny", "--base-source", tiny_spec().source] if base else []
        monkeypatch.setattr(sys, "argv", ["headstart", "check", *map(str, arguments), *tiny])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return stopped.value.code, printed.out, printed.err

    return command


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"input": f"ask [{number}]", "output": f"say {number}"}) + "\n" for number in range(6)))
    return path


@pytest.fixture
def bad_file(rows_file):
    with rows_file.open("a") as file:
        file.write('{"input": "[/b]"}\n{"input": 3, "output": "[x]"}\n')
    return rows_file


@pytest.fixture
def recipe_file(recipe_content, tmp_path):
    def write(*phases, **sections):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_content(*phases, **sections)))
        return path

    return write


class Page(HTMLParser):
    """Reads a page and sees that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_what_a_word_stands_for(tmp_path, rows_file, monkeypatch):
    assert kind_of("quickstart") == kind_of("any.yaml") == kind_of("any.yml") == "recipe"
    assert kind_of(str(rows_file)) == "file"
    assert kind_of("builtin") == kind_of(str(tmp_path)) == kind_of("someone/dataset") == kind_of("gone.jsonl") == "suite"
    # what lies here goes first
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert kind_of("quickstart") == "suite"


def test_nothing_wrong_is_exit_code_0(run, toy_folder, rows_file, recipe_file):
    for target, base in ((toy_folder, True), (rows_file, True), (recipe_file(), False)):
        code, printed, errors = run(target, base=base)
        assert (code, errors) == (0, "")
        assert printed.splitlines()[-1] == f"{target}: nothing wrong"


def test_an_error_in_what_was_looked_at_is_exit_code_1(run, bad_file):
    code, printed, errors = run(bad_file)
    assert (code, errors) == (FOUND, "")
    assert f"error: {bad_file}, line 7: `output` is missing" in printed
    assert f"error: {bad_file}, line 8: `input` is a number, not text" in printed
    assert printed.splitlines()[-1] == f"{bad_file}: 2 errors"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["builtin", "suite.support=3"], "'suite.support=3' changes a recipe, and 'builtin' is none"),
        (["builtin", "--columns", "input"], "not of the form input=NAME"),
        (["builtin", "--turns", "some"], "neither all nor last"),
    ],
)
def test_a_mistake_in_the_command_is_exit_code_2(run, arguments, words):
    code, printed, errors = run(*arguments)
    assert (code, printed) == (MISTAKE, "")
    assert words in errors


def test_warnings_alone_are_exit_code_0(run, write_suite):
    rows = [{"input": f"ask {number}", "output": "same"} for number in range(4)]
    other = [{**row, "input": f"other {row['input']}"} for row in rows]
    code, printed, _ = run(write_suite({"a": rows, "b": other}, {"meta_train": ["a"], "meta_validation": ["b"]}))
    assert code == 0
    assert printed.count("warning: ") == 2


@pytest.mark.parametrize("kind", ["recipe", "suite", "file"])
def test_json_is_all_that_is_printed_and_holds_every_problem(kind, run, bad_file, toy_folder, recipe_file, tiny_spec):
    with (toy_folder / "upper.jsonl").open("a") as file:
        file.write('\n{"output": "é"}')
    target = {"recipe": recipe_file(), "suite": toy_folder, "file": bad_file}[kind]
    code, printed, errors = run(target, "--json", base=kind != "recipe")
    content = json.loads(printed)
    assert (code, errors) == (FOUND, "")
    assert (content["kind"], content["target"], content["schema_version"]) == (kind, str(target), 1)
    findings = check(target, base=tiny_spec())
    assert content["problems"] == [problem.as_json() for problem in findings.problems]
    assert content["errors"] == findings.errors == (2 if kind == "file" else 1)


def test_json_lists_more_problems_than_are_printed(run, tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n' + '{"input": "a", "output": 1}\n' * 200)
    assert "... and 150 more errors; --json lists all" in run(path)[1]
    assert len(json.loads(run(path, "--json")[1])["problems"]) == 200


def test_text_that_is_no_unicode_is_escaped(run, tmp_path, write_suite):
    """A name of a column may hold half of a surrogate pair, and so may a file's."""
    folder = write_suite({"a": [{"\ud800": 1}], "b": [{"input": "x", "output": "y"}]}, {"meta_train": ["a", "b"]})
    for _ in ("looked at", "kept"):
        code, printed, _ = run(folder, "--json")
        assert code == FOUND
        assert "columns found: \\ud800" in json.loads(printed)["problems"][0]["text"]
        assert "columns found: \\ud800" in run(folder)[1]
    odd = tmp_path / os.fsdecode(b"odd-\xff.jsonl")
    odd.write_text('{"input": "a"}\n')
    assert json.loads(run(odd, "--json")[1])["target"].endswith("odd-\\udcff.jsonl")
    assert "odd-\\udcff.jsonl: 1 error" in run(odd)[1]


def test_a_preview_is_printed(run, toy_folder, rows_file, recipe_file):
    for target, base in ((toy_folder, True), (rows_file, True), (recipe_file(), False)):
        code, printed, _ = run(target, "--preview", base=base)
        assert code == 0
        assert "<|im_start|>assistant" in printed
        assert len(printed) > len(run(target, base=base)[1]) + 500


def test_a_page_is_written_and_parses(run, toy_folder, rows_file, recipe_file, tmp_path):
    for number, (target, base) in enumerate(((toy_folder, True), (rows_file, True), (recipe_file(), False))):
        place = tmp_path / f"page-{number}.html"
        code, printed, _ = run(target, "--html", place, base=base)
        assert code == 0
        assert "<|im_start|>" not in printed
        page = Page(place.read_text())
        assert f"What {target} trains" in page.text
    assert "Shout." in Page((tmp_path / "page-0.html").read_text()).text
    assert "say 0" in Page((tmp_path / "page-1.html").read_text()).text


def test_a_page_that_cannot_be_written_is_a_mistake(run, rows_file, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, errors = run(rows_file, "--html", tmp_path / "file" / "page.html")
    assert code == MISTAKE
    assert "cannot be written" in errors


def test_of_what_has_errors_nothing_is_drawn(run, bad_file, tmp_path):
    code, printed, _ = run(bad_file, "--preview", "--html", tmp_path / "page.html")
    assert code == FOUND
    assert "<|im_start|>" not in printed
    assert not (tmp_path / "page.html").exists()


def test_overrides_for_what_is_no_recipe_are_refused(toy_folder, rows_file):
    for target in (toy_folder, rows_file, "builtin", "gone"):
        with pytest.raises(CheckError, match=r"'a\.b=c' changes a recipe"):
            check(target, ["a.b=c"])


def test_every_unknown_key_of_a_recipe_is_a_problem_of_its_own(recipe_file):
    path = recipe_file(suit={}, lora_r=3, run={"save_stps": 3})
    problems = check(path).problems
    assert [problem.place.file for problem in problems] == [str(path)] * 3
    keys = ["lora_r: unknown key", "run.save_stps: unknown key", "suit: unknown key"]
    assert sorted(problem.text.split(";")[0] for problem in problems) == keys


@pytest.mark.parametrize(
    ("content", "words"), [("a: [", "not valid YAML"), ("- 1", "a recipe is a mapping of sections"), ("{}", "phases: missing")]
)
def test_what_is_no_recipe_is_one_error(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    findings = check(path)
    assert (findings.kind, findings.errors) == ("recipe", 1)
    assert words in str(findings.problems[0])
    assert str(path) in str(findings.problems[0])


def test_overrides_go_over_a_recipe(recipe_file, tmp_path):
    path = recipe_file()
    assert check(path, ["adapter.r=4"]).facts["adapter"]["rank"] == 4
    (problem,) = check(path, ["nonsense"]).problems
    assert "write it as a.b=value" in problem.text


@pytest.mark.parametrize("name", ["gone", "gone.jsonl", "gone.yaml", "gone/deeper"])
def test_what_is_not_there_is_an_error_with_what_there_is(run, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, printed, errors = run(name)
    assert (code, errors) == (FOUND, "")
    assert name in printed
    assert all(recipe in printed for recipe in shipped_recipes())


@pytest.mark.parametrize("name", ["locked", "locked/rows.jsonl", "locked/recipe.yaml", "n" * 300])
def test_what_may_not_be_looked_at_is_an_error(name, run, tmp_path, monkeypatch):
    """The system refuses a folder to everyone, root among them."""
    locked, real = str(tmp_path / "locked"), os.stat

    def refusing(path, *rest, **options):
        if str(path).startswith(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "stat", refusing)
    code, printed, _ = run(tmp_path / name)
    assert code == FOUND
    assert ("no permission to read it" if name.startswith("locked") else "File name too long") in printed
    assert len(printed.splitlines()) == 2 + printed.count("note: ")


def test_data_is_looked_at_a_second_time_without_torch(toy_folder, tiny_spec, own_cache):
    check(toy_folder, base=tiny_spec())
    code = (
        "import sys; from headstart.checking.check import check; from headstart.bases import BaseSpec; "
        f"found = check({str(toy_folder)!r}, base=BaseSpec(**{asdict(tiny_spec())!r})); "
        "print(found.errors, found.facts['splits']['meta_train']['tasks'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["0", "4", "False"]
