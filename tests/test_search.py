"""The search script, on a tiny base: what it goes on from, what it keeps, and how it compares."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.recipe import parse_recipe
from headstart.tasks.builtin import builtin_suite
from headstart.training.run import meta_train

SCRIPTS = Path(__file__).parents[1] / "scripts"
MULTITASK = {"algorithm": "multitask", "steps": 2, "learning_rate": 0.01}
FOMAML = {"algorithm": "fomaml", "steps": 2, "inner": {"steps": 2, "learning_rate": 0.01}}


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return __import__("search")


@pytest.fixture
def plan(tiny_folder, tmp_path):
    """A plan of two trials, the second behind the first, as the file that it is."""
    recipe = {
        "base": {"id": "test/tiny", "source": str(tiny_folder), "quantization": "none", "dtype": "float32"},
        "adapter": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]},
        "suite": {"support": 2, "query": 2, "tasks_per_step": 2, "max_length": 400, "row_costs": "counted"},
        "phases": [MULTITASK],
        "run": {"eval_tasks": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tasks = [task.name for task in builtin_suite().split("meta_validation")[:2]]
    rates = {"instructed": [0.001, 0.01], "house_rules": [0.01]}
    measure = {"tasks": tasks, "max_length": 400, "support": 2, "query": 3, "draws": 2, "steps": [0, 2], "rates": rates}
    measure["less_momentum"] = {"beta1": 0.5, "rates": {"house_rules": [0.02]}, "trials": ["meta"]}
    trials = {"warm": {"phases": [MULTITASK]}, "meta": {"from": "warm", "phases": [FOMAML], "set": ["outer.rates_learning_rate=0.1"]}}
    path = tmp_path / "trials.yaml"
    path.write_text(yaml.safe_dump({"recipe": str(tmp_path / "recipe.yaml"), "measure": measure, "trials": trials}))
    return path


def run(search, plan, monkeypatch, *options):
    output, runs = plan.parent / "kept", plan.parent / "runs"
    monkeypatch.setattr("sys.argv", ["search.py", str(plan), "--output", str(output), "--runs", str(runs), *options])
    search.main()
    return {path.stem: json.loads(path.read_text()) for path in output.glob("*.json")}


def test_a_trial_goes_on_to_the_bits_of_its_whole_recipe(search, plan, monkeypatch, quiet, tmp_path, capsys):
    kept = run(search, plan, monkeypatch)
    recipe = kept["meta"]["record"]["recipe"]
    assert [phase["algorithm"] for phase in recipe["phases"]] == ["multitask", "fomaml"]
    assert recipe["outer"]["rates_learning_rate"] == 0.1
    assert "run" not in recipe
    recipe["run"] = {"output_dir": str(tmp_path / "whole"), "eval_tasks": 1}
    whole, parts = meta_train(parse_recipe(recipe), quiet), MetaAdapter.from_pretrained(plan.parent / "runs" / "meta" / "adapter")
    assert all(torch.equal(whole.theta[name], tensor) for name, tensor in parts.theta.items())
    assert all(torch.equal(whole.rates[name], tensor) for name, tensor in parts.rates.items())
    assert whole.record["cost"]["flops"] == kept["meta"]["record"]["cost"]["flops"] > kept["warm"]["record"]["cost"]["flops"]
    # two tasks, two draws; of every rule in its regime the last step, and step 0 once a regime
    assert len(kept["warm"]["rows"]) == 4 * (3 + 2)
    assert len(kept["meta"]["rows"]) == 4 * (4 + 4)
    assert {row["rule"] for row in kept["meta"]["rows"] if not row["step"]} == {"adamw 0.001", "adamw 0.01"}
    assert {row["rule"] for row in kept["meta"]["rows"]} == {"adamw 0.001", "adamw 0.01", "adam 0.02", "learned"}
    losses = {row["rule"]: row["loss"] for row in kept["meta"]["rows"] if row["regime"] == "house_rules" and row["step"] == 2}
    assert len(set(losses.values())) == 3
    before = {path: path.stat().st_mtime_ns for path in (plan.parent / "kept").iterdir()}
    run(search, plan, monkeypatch)
    assert {path: path.stat().st_mtime_ns for path in (plan.parent / "kept").iterdir()} == before
    run(search, plan, monkeypatch, "--table", "warm")
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("| warm | instructed")]
    assert len(told) == 1
    assert told[0].count("+0.0") == 6
    assert sum(line.startswith("| meta |") for line in lines) == 5


def test_the_best_rule_is_that_of_the_lowest_loss_at_the_last_step(search):
    place = {"regime": "instructed", "cluster": "c", "dataset": "d", "task": "t", "draw": 0}
    rows = [
        {**place, "rule": rule, "step": step, "loss": loss, "exact": 0.0}
        for rule, step, loss in [("adamw 1", 0, 0.1), ("adamw 1", 5, 3.0), ("adamw 2", 5, 2.0), ("adam 2", 5, 1.5), ("learned", 5, 1.0)]
    ]
    assert search.best(rows, "instructed", "adamw") == [rows[2]]
    assert search.best(rows, "instructed", "adam") == [rows[3]]
    assert search.best(rows, "instructed", "learned") == [rows[4]]
    assert search.best(rows, "house_rules", "adamw") == []
