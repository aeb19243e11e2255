"""Whole runs on a tiny base: every shipped recipe, determinism, pieces and ranks, the control."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import headstart.training.run as run_module
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.rates import joined, parted
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.targets import TargetError
from headstart.recipe import load_recipe, parse_recipe
from headstart.tasks.episodes import training_episode
from headstart.tasks.reading.source import of_suite
from headstart.training.errors import RunError
from headstart.training.loop import Trainer, add, starting_rates
from headstart.training.outer import OuterOptimizer
from headstart.training.run import meta_train
from headstart.training.state import State

ALL_RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
# those for bases of the hub take their step in test_ready_recipes.py, on the architectures that they are for
RECIPES = [path for path in ALL_RECIPES if load_recipe(path).base.source != "hub"]
FOMAML = {"algorithm": "fomaml", "steps": 3, "inner": {"steps": 2, "learning_rate": 0.01}}
REPTILE = {"algorithm": "reptile", "steps": 2, "inner": {"steps": 2, "learning_rate": 0.01, "learn_rates": False}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_takes_one_step(path, tiny_folder, tmp_path, quiet):
    """As it is, but for its base, its number of steps, what a step costs, and tasks that are not shipped."""
    recipe = load_recipe(path)
    overrides = [f"phases.{number}.{key}" for number in range(len(recipe.phases)) for key in ("steps=1", "flops=null")]
    overrides += ["suite.sources=null"] if recipe.suite.sources else []
    overrides += [f"base.source={tiny_folder}", "base.id=test/tiny", "base.dtype=float32", f"run.output_dir={tmp_path / 'run'}"]
    overrides += ["suite.tasks_per_step=2", "suite.support=2", "suite.query=2", "run.eval_tasks=1", "suite.max_length=400"]
    adapter = meta_train(load_recipe(path, overrides), quiet)
    assert all(torch.isfinite(tensor).all() for tensor in adapter.theta.values())
    assert any(tensor.any() for name, tensor in adapter.theta.items() if name.endswith("lora_B")), "no step moved B away from zero"


def test_run_leaves_what_it_promises(tiny_recipe, quiet):
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 2}, FOMAML, run={"control": True})
    returned = meta_train(recipe, quiet)
    folder = recipe.run.output_dir
    saved = MetaAdapter.from_pretrained(folder / "adapter")
    assert all(torch.equal(saved.theta[name], tensor) for name, tensor in returned.theta.items())
    assert {path.name for path in folder.iterdir()} >= {
        "adapter",
        "phases",
        "control",
        "curves.png",
        "metrics.jsonl",
        "recipe.yaml",
        "tensorboard",
    }
    assert not (folder / "checkpoints").exists()
    assert {path.name for path in (folder / "phases").iterdir()} == {"0-multitask", "1-fomaml"}
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == recipe.model_dump(mode="json")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    looks = [row for row in rows if "validation/gain" in row]
    assert [row["step"] for row in looks] == [0, 2, 4, 5]
    for row in looks:
        assert row["validation/gain"] == pytest.approx(row["validation/loss_0"] - row["validation/loss_adapted"])


@pytest.mark.parametrize("sampler", ["cluster", "uniform", "size"])
def test_the_log_names_the_tasks_that_the_sampler_drew(tiny_recipe, toy_suite, quiet, sampler):
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 4}, suite={"sampler": sampler, "sampler_alpha": 1.0, "layout": "packed"})
    meta_train(recipe, quiet)
    rows = [json.loads(line) for line in (recipe.run.output_dir / "metrics.jsonl").read_text().splitlines()]
    drawn = [row["tasks"].split(", ") for row in rows if "tasks" in row]
    wanted = (training_episode(toy_suite, seed=0, step=step, tasks=2, support=4, query=4, sampler=sampler, alpha=1.0) for step in range(4))
    assert drawn == [[draw.task.name for draw in episode] for episode in wanted]


def test_several_sources_are_one_suite(recipe_content, suite_folder, tmp_path, quiet):
    rows = "".join(json.dumps({"prompt": f"p {n}", "completion": f"c {n}"}) + "\n" for n in range(20))
    for name in ("one", "two", "three"):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{name}.jsonl").write_text(rows)
    content = recipe_content({"algorithm": "multitask", "steps": 2})
    del content["suite"]["source"]
    content["suite"]["sources"] = [{"path": str(suite_folder), "weight": 3}, {"path": str(tmp_path / "files"), "max_examples": 10}]
    adapter = meta_train(parse_recipe(content), quiet)
    splits = adapter.record["suite"]["splits"]
    assert len([name for name in splits["meta_train"] if name.startswith("files/")]) == 1
    assert {"suite/upper", "suite/title", "suite/reverse", "suite/sorted"} < set(splits["meta_train"])
    assert adapter.record["user_turn"] == "{instruction}\n{input}"
    assert adapter.record["chat_template_kwargs"] == {}


def test_learned_rates_start_at_the_recipes_and_move(tiny_recipe, quiet):
    adapter = meta_train(tiny_recipe(FOMAML), quiet)
    rates = torch.cat(list(adapter.rates.values()))
    assert all(rate.shape == (2,) for rate in adapter.rates.values())
    assert not torch.allclose(rates, torch.full_like(rates, 0.01))
    assert ((rates > 0.005) & (rates < 0.02)).all(), "a few steps at 0.03 in log space stay near the start"


def test_control_starts_at_the_fork_and_spends_the_same(tiny_recipe, quiet):
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 2}, FOMAML, run={"control": True})
    meta_train(recipe, quiet)
    main, control = (MetaAdapter.from_pretrained(recipe.run.output_dir / name).record["phases"] for name in ("adapter", "control/adapter"))
    assert control[0] == main[0]
    assert control[1]["algorithm"] == "multitask"
    one_step = control[1]["flops"] / control[1]["steps"]
    assert main[1]["flops"] <= control[1]["flops"] < main[1]["flops"] + 1.5 * one_step


@pytest.mark.parametrize("phase", [{"algorithm": "multitask", "steps": 2}, REPTILE, FOMAML], ids=lambda phase: phase["algorithm"])
def test_runs_repeat_to_the_bit(tiny_recipe, quiet, phase):
    first, second = (meta_train(tiny_recipe(phase, folder=folder), quiet) for folder in ("a", "b"))
    for name in first.theta:
        assert torch.equal(first.theta[name], second.theta[name])
    assert all(torch.equal(first.rates[name], second.rates[name]) for name in first.rates)


def test_a_finished_run_is_never_overwritten(tiny_recipe, quiet):
    recipe = tiny_recipe({"algorithm": "multitask", "steps": 1})
    meta_train(recipe, quiet)
    before = {path: path.read_bytes() for path in recipe.run.output_dir.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already holds a finished run"):
        meta_train(recipe, quiet)
    assert {path: path.read_bytes() for path in recipe.run.output_dir.rglob("*") if path.is_file()} == before


def test_faults_in_the_data_come_before_the_base_is_loaded(tiny_recipe, quiet, monkeypatch):
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(ValueError, match=r"lower suite\.tasks_per_step"):
        meta_train(tiny_recipe(FOMAML, suite={"tasks_per_step": 5}), quiet)
    with pytest.raises(ValueError, match=r"lower suite\.support"):
        meta_train(tiny_recipe(FOMAML, suite={"support": 30}), quiet)


class Rank:
    """A runtime's number without its process."""

    def __init__(self, rank):
        self.rank = rank


def meta_gradient(recipe, learner, batcher, suite, rank=0):
    trainer = Trainer(recipe, suite, learner, batcher, Rank(rank), None, None, None, None)
    phase = recipe.phases[0]
    theta = {name: tensor + 0.02 for name, tensor in learner.fresh_adapter().items()}
    rates = starting_rates(phase.loop, State(theta, {}))
    outer = OuterOptimizer(theta, rates if phase.loop.learn_rates else {}, recipe.outer)
    return trainer.meta_gradient(phase, outer, rates, step=3, done=0.0)


def assert_equal(first, second):
    for group in ("theta", "log_rates", "matrix_rates"):
        mine, other = getattr(first, group), getattr(second, group)
        assert mine.keys() == other.keys()
        for name in mine:
            # reptile's is a difference of adapters of size 0.1, whose last float32 bit is 1e-8
            assert float((mine[name] - other[name]).abs().max()) <= 1e-4 * float(other[name].abs().max()) + 5e-8, name


@pytest.mark.parametrize(
    "phase",
    [
        {"algorithm": "multitask", "steps": 1},
        {**REPTILE, "inner": {**REPTILE["inner"], "rule": "sgd"}},
        {**FOMAML, "inner": {"steps": 2, "rule": "sgd"}},
        {"algorithm": "maml", "steps": 1, "inner": {"steps": 2, "rule": "sgd", "learning_rate": 0.01, "precondition": True}},
    ],
    ids=lambda phase: phase["algorithm"],
)
def test_pieces_and_ranks_change_no_meta_gradient(tiny_recipe, tiny_spec, batcher, toy_suite, phase):
    whole = tiny_recipe(phase, suite={"tasks_per_step": 4})
    half = tiny_recipe(phase, suite={"tasks_per_step": 2})
    with Learner(load_base(tiny_spec(), "cpu"), LoraSpec()) as learner:
        one = meta_gradient(whole, learner, batcher(learner.base, task_micro_batch=4), toy_suite)
        pieces = meta_gradient(whole, learner, batcher(learner.base, task_micro_batch=1), toy_suite)
        ranks = [meta_gradient(half, learner, batcher(learner.base), toy_suite, rank) for rank in (0, 1)]
    assert_equal(pieces, one)
    assert_equal(add(add(None, ranks[0], 0.5), ranks[1], 0.5), one)


def test_reptile_sees_a_fresh_minibatch_at_every_step(toy_suite):
    draws = training_episode(toy_suite, seed=0, step=0, tasks=2, support=4, query=4, minibatches=3)
    for draw in draws:
        assert len(set(draw.support)) == 3
        assert not {example for batch in draw.support for example in batch} & set(draw.query)


def test_suite_without_validation_is_refused(tiny_recipe, quiet, toy_suite, monkeypatch):
    bare = replace(toy_suite, splits={"meta_train": toy_suite.splits["meta_train"]})
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(bare))
    with pytest.raises(ValueError, match="no split 'meta_validation'"):
        meta_train(tiny_recipe(FOMAML), quiet)


def test_sites_that_do_not_adapt_inside_learn_no_rate(tiny_recipe, quiet):
    """ANIL by pattern: only the last layer adapts, in training and wherever the adapter goes."""
    inner = {**FOMAML["inner"], "target_modules": r".*layers\.1\..*"}
    adapter = meta_train(tiny_recipe({**FOMAML, "inner": inner}), quiet)
    assert adapter.rates
    assert all("layers.1." in name for name in adapter.rates)
    loaded = MetaAdapter.from_pretrained(tiny_recipe(FOMAML).run.output_dir / "adapter")
    assert loaded.adaptation.target_modules == inner["target_modules"]
    assert loaded.rates.keys() == adapter.rates.keys()
    assert any(tensor.any() for name, tensor in adapter.theta.items() if "layers.0." in name and name.endswith("lora_B"))


def test_a_pattern_without_sites_is_refused(tiny_recipe, quiet):
    inner = {**FOMAML["inner"], "target_modules": ["layers.9.mlp.up_proj"]}
    with pytest.raises(TargetError, match=r"phases\.0\.inner\.target_modules: .* matches none of the adapter's sites"):
        meta_train(tiny_recipe({**FOMAML, "inner": inner}), quiet)


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "lfm2"])
def test_other_architectures_run_whole(architecture_folder, tiny_recipe, name):
    """And where rows cannot be shared, one line says so."""
    base = {"id": f"test/{name}", "source": str(architecture_folder(name)), "quantization": "none", "dtype": "float32"}
    targets = {"target_modules": ["out_proj", "w1"]} if name == "lfm2" else {}
    console = Console(file=io.StringIO(), width=200)
    recipe = tiny_recipe({**FOMAML, "steps": 1}, base=base, adapter=targets, suite={"layout": "auto"})
    adapter = meta_train(recipe, console)
    assert all(torch.isfinite(tensor).all() for tensor in adapter.theta.values())
    padded = "rows are padded, since examples that share a row are not independent in this architecture" in console.file.getvalue()
    assert padded == (name == "lfm2")


def test_recomputing_layers_changes_no_run(tiny_recipe, quiet):
    first, second = (
        meta_train(tiny_recipe(FOMAML, folder=folder, run={"gradient_checkpointing": again}), quiet)
        for folder, again in (("a", False), ("b", True))
    )
    for name in first.theta:
        torch.testing.assert_close(second.theta[name], first.theta[name], rtol=1e-4, atol=1e-6)


ONLY_V = {**FOMAML, "inner": {**FOMAML["inner"], "target_modules": ["v_proj"]}}
BY_SGD = {**FOMAML, "inner": {**FOMAML["inner"], "rule": "sgd", "learning_rate": 0.5}}


@pytest.mark.parametrize("phases", [(FOMAML, ONLY_V), (ONLY_V, REPTILE), (BY_SGD, FOMAML)], ids=["fewer sites", "no rates", "other rule"])
def test_learned_rates_stay_with_the_rule_and_sites_that_they_were_learned_for(tiny_recipe, quiet, phases):
    """A rate means nothing under another rule; and every folder that a run leaves can be loaded."""
    recipe = tiny_recipe(*phases, run={"control": True})
    adapter = meta_train(recipe, quiet)
    folders = [path.parent for path in recipe.run.output_dir.rglob("headstart.json")]
    assert len(folders) == 4
    for folder in folders:
        loaded = MetaAdapter.from_pretrained(folder)
        assert not loaded.rates or loaded.rates.keys() == set(loaded.adaptation.adapting(loaded.theta))
    assert bool(adapter.rates) == (phases[1] is not REPTILE)
    assert adapter.adaptation.rule == "adam"
    assert all((rate < 0.02).all() for rate in adapter.rates.values()), "they start at the second phase's 0.01"
    first = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "0-fomaml").adaptation
    inner = recipe.phases[0].inner
    assert (first.rule, first.target_modules) == (inner.rule, inner.target_modules)


MIXING = {**FOMAML, "inner": {**FOMAML["inner"], "precondition": True}}


def assert_one_matrix(adapter, rank=8):
    """Every step's rate is a number times the tensor's one matrix, which has left the identity."""
    for rate in adapter.rates.values():
        assert rate.shape == (2, rank, rank)
        numbers, matrix = parted(rate)
        torch.testing.assert_close(rate, joined(numbers, matrix))
    matrices = torch.stack([parted(rate)[1] for rate in adapter.rates.values()])
    mixed = (matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))).abs()
    assert 0 < float(mixed.max()) < 0.2, "a few steps at 0.03 stay near the start"


def test_a_run_learns_what_mixes_its_directions_ranks(tiny_recipe, quiet):
    """From rates that were learned as numbers; what is saved is what was learned, and tasks are adapted to by it in looks too."""
    recipe = tiny_recipe(FOMAML, {**MIXING, "steps": 1})
    adapter = meta_train(recipe, quiet)
    assert_one_matrix(adapter)
    folder = recipe.run.output_dir
    before, saved = (MetaAdapter.from_pretrained(folder / name) for name in ("phases/0-fomaml", "adapter"))
    assert all(torch.equal(saved.rates[name], rate) for name, rate in adapter.rates.items())
    for name, rate in before.rates.items():
        # one outer step at half its rate, as it warms up, moves numbers by exp(0.015) and entries by 0.015
        torch.testing.assert_close(adapter.rates[name].diagonal(dim1=1, dim2=2), rate[:, None].expand(2, 8), rtol=0.04, atol=0)
    assert "times a learned matrix for every tensor that mixes ranks" in (folder / "adapter" / "README.md").read_text()
    assert "mixes ranks" not in (folder / "phases/0-fomaml" / "README.md").read_text()


def test_numbers_do_not_start_from_matrices(tiny_recipe, quiet):
    """A phase that learns no preconditioners starts its rates anew, at the recipe's."""
    adapter = meta_train(tiny_recipe(MIXING, {**FOMAML, "steps": 1}), quiet)
    for rate in adapter.rates.values():
        torch.testing.assert_close(rate, torch.full((2,), 0.01), rtol=0.02, atol=0)


def test_rates_alone_are_learned_with_their_preconditioners(tiny_recipe, quiet):
    warm = {"algorithm": "multitask", "steps": 2}
    recipe = tiny_recipe(warm, {**MIXING, "learn": "rates"})
    adapter = meta_train(recipe, quiet)
    start = MetaAdapter.from_pretrained(recipe.run.output_dir / "phases" / "0-multitask")
    assert all(torch.equal(adapter.theta[name], tensor) for name, tensor in start.theta.items())
    assert_one_matrix(adapter)


def test_a_users_own_recipe_is_not_written_over(tiny_recipe, quiet):
    recipe = tiny_recipe(FOMAML)
    own = recipe.run.output_dir / "recipe.yaml"
    own.parent.mkdir()
    own.write_text("# mine\n")
    with pytest.raises(RunError, match="is not empty and holds no run of headstart"):
        meta_train(recipe, quiet)
    assert own.read_text() == "# mine\n"


@pytest.mark.parametrize("targets", [["up_proj", "typo"], "(up"])
def test_a_pattern_that_cannot_be_is_refused(tiny_recipe, quiet, targets):
    with pytest.raises(TargetError, match=r"typo' matches none|no regular expression"):
        meta_train(tiny_recipe({**FOMAML, "inner": {**FOMAML["inner"], "target_modules": targets}}), quiet)
