"""The README's example does what it says, on a tiny base."""

import json
import re
from pathlib import Path

import headstart
from headstart.recipe import load_recipe

README = Path(__file__).parents[1] / "README.md"
SMALL = ["phases.0.steps=1", "phases.1.steps=1", "suite.tasks_per_step=2", "suite.support=2", "suite.query=2", "suite.max_length=400"]
SMALL += ["run.eval_tasks=1", "evaluation.tasks=2", "evaluation.tuning_tasks=1", "evaluation.steps=[0, 1]", "evaluation.support=2"]
SMALL += ["evaluation.learning_rates=[1e-3]", "evaluation.rate_factors=[1.0]", "base.id=test/tiny", "base.dtype=float32"]


def example():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_example_is_ten_lines_and_runs(tiny_folder, tmp_path, monkeypatch, capsys):
    assert len([line for line in example().splitlines() if line.strip()]) <= 10
    rows = [{"instruction": "Shout.", "input": f"w{n}", "output": f"W{n}"} for n in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    small = [*SMALL, f"base.source={tiny_folder}"]
    monkeypatch.setattr(headstart, "load_recipe", lambda name, overrides: load_recipe(name, [*overrides, *small]), raising=False)
    exec(compile(example(), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "meta-multitask" in printed
    assert "Metrics(loss=" in printed
    assert "examples=4)" in printed
    assert (tmp_path / "runs" / "python" / "evaluation" / "results.json").exists()
    assert (tmp_path / "adapted" / "mine" / "adapter_model.safetensors").exists()


def test_tree_names_every_file():
    """A new module has its line in the tree, and no line outlives its module."""
    tree = README.read_text(encoding="utf-8").split("## Where things are")[1].split("```")[1]
    named = set(re.findall(r"[\w/]+\.py", tree))
    there = {path.name for folder in ("src", "scripts") for path in (README.parent / folder).rglob("*.py") if "builtin" not in path.parts}
    assert named - {"registry.py"} == there
