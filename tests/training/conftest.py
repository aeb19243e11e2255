"""Small runs over the toy suite, in this process and as commands of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from headstart.recipe import parse_recipe
from headstart.tasks.reading.source import of_suite


@pytest.fixture
def recipe_content(tiny_folder, tmp_path):
    """Builds a small recipe as it stands in a file."""

    def build(*phases, folder="run", **sections):
        return {
            "base": {"id": "test/tiny", "source": str(tiny_folder), "quantization": "none", "dtype": "float32"},
            "suite": {"source": "toy", "support": 4, "query": 4, "tasks_per_step": 2, "layout": "packed", **sections.pop("suite", {})},
            "phases": list(phases),
            "outer": {"learning_rate": 0.01, "warmup_steps": 1},
            "run": {"output_dir": str(tmp_path / folder), "eval_steps": 2, "eval_tasks": 1, "save_steps": 2, **sections.pop("run", {})},
            **sections,
        }

    return build


@pytest.fixture
def tiny_recipe(recipe_content, toy_suite, monkeypatch):
    """Builds a small recipe over the toy suite."""
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(toy_suite))
    return lambda *phases, **sections: parse_recipe(recipe_content(*phases, **sections))


@pytest.fixture
def suite_folder(toy_suite, tmp_path):
    """The toy suite as a folder, for processes that share no memory with this one."""
    folder = tmp_path / "suite"
    folder.mkdir()
    about = []
    for task in toy_suite.tasks.values():
        rows = [json.dumps({"input": example.input, "output": example.output}) for example in task.examples]
        (folder / f"{task.name}.jsonl").write_text("\n".join(rows))
        entry = {"name": task.name, "file": f"{task.name}.jsonl", "instruction": task.instruction, "cluster": task.cluster}
        about.append({**entry, "labels": list(task.labels), "dataset": task.name})
    (folder / "tasks.json").write_text(json.dumps(about))
    (folder / "splits.json").write_text(json.dumps({split: list(names) for split, names in toy_suite.splits.items()}))
    return folder


@dataclass
class Command:
    """`python -m headstart meta-train` on one recipe file, perhaps under a launcher."""

    recipe: Path
    launcher: tuple[str, ...] = (sys.executable,)

    def start(self, *arguments, **environment):
        command = [*self.launcher, "-m", "headstart", "meta-train", str(self.recipe), *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
        )

    def run(self, *arguments, **environment):
        """Exit code, what was printed, and what was printed as errors."""
        process = self.start(*arguments, **environment)
        printed, errors = process.communicate(timeout=240)
        return process.returncode, printed, errors


@pytest.fixture
def command(recipe_content, suite_folder, tmp_path):
    """Builds the command for a recipe."""

    def build(*phases, launcher=(sys.executable,), **sections):
        content = recipe_content(*phases, suite={"source": str(suite_folder), **sections.pop("suite", {})}, **sections)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return Command(path, launcher)

    return build


@pytest.fixture
def outcome():
    """Reads what a run leaves that has to be the same whether or not it was stopped: its tensors' bytes, its metrics but for seconds."""

    def read(folder):
        tensors = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
        metrics = {}
        for path in folder.rglob("metrics.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            metrics[str(path.relative_to(folder))] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        return tensors, metrics

    return read
