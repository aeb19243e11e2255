"""What tests of checking share: a cache of their own, suites written as folders, and small recipes over them."""

import json
from dataclasses import asdict

import pytest

from headstart.checking.check import check
from headstart.recipe import parse_recipe

TERMS = {"licence": "CC0-1.0", "language": "English"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch, one_thread):
    """Findings are kept where only this test finds them."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    # what is measured is measured where the tests' own bases lie
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return folder / "headstart"


@pytest.fixture
def write_suite(tmp_path):
    """Writes a suite's folder from rows by task, splits, and what else its index says of a task."""

    def write(rows, splits, folder="suite", **about):
        place = tmp_path / folder
        place.mkdir()
        for name, each in rows.items():
            (place / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in each))
        entries = [{"name": name, "file": f"{name}.jsonl", "cluster": name, **TERMS, **about.get(name, {})} for name in rows]
        (place / "tasks.json").write_text(json.dumps(entries))
        (place / "splits.json").write_text(json.dumps(splits))
        return place

    return write


@pytest.fixture
def toy_folder(toy_suite, write_suite):
    """The toy suite as a folder without faults."""
    tasks = toy_suite.tasks.values()
    rows = {task.name: [{"input": each.input, "output": each.output} for each in task.examples] for task in tasks}
    about = {task.name: {"instruction": task.instruction, "cluster": task.cluster, "labels": list(task.labels)} for task in tasks}
    return write_suite(rows, toy_suite.splits, folder="toy", **about)


@pytest.fixture
def look(tiny_spec):
    """Checks what is no recipe with the tiny base."""
    return lambda target, **options: check(target, base=tiny_spec(), **options)


@pytest.fixture
def recipe_content(tiny_spec, toy_folder, tmp_path):
    """Builds a small recipe over the toy suite, as it stands in a file."""

    def build(*phases, **sections):
        base = asdict(tiny_spec())
        del base["revision"], base["chat_template_kwargs"]
        return {
            "base": {**base, **sections.pop("base", {})},
            "suite": {"source": str(toy_folder), "support": 4, "query": 5, "tasks_per_step": 3, **sections.pop("suite", {})},
            "phases": list(phases or ({"algorithm": "multitask", "steps": 2},)),
            "run": {"output_dir": str(tmp_path / "run"), "eval_tasks": 1, **sections.pop("run", {})},
            **sections,
        }

    return build


@pytest.fixture
def tiny_recipe(recipe_content):
    """Builds a small recipe over the toy suite."""
    return lambda *phases, **sections: parse_recipe(recipe_content(*phases, **sections))
