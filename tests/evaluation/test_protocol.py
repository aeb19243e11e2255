"""The protocol on a tiny base: every arm measured alike, tuned on other tasks than it is judged on."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from headstart import shipped
from headstart.adapter.files import read_json
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.rules import Adam
from headstart.evaluation import run as evaluation_run
from headstart.evaluation.arms import Arm, EvaluationError
from headstart.evaluation.protocol import Bench, Protocol, run_arm, tune
from headstart.evaluation.report import read_results
from headstart.evaluation.run import evaluate
from headstart.model.base import fingerprint
from headstart.recipe import parse_recipe
from headstart.scoring import measure
from headstart.tasks.episodes import evaluation_draw
from headstart.tasks.reading.source import of_suite
from headstart.training.run import meta_train

STEPS = (0, 1, 3)


@pytest.fixture
def run_folder(tiny_folder, tmp_path, toy_suite, monkeypatch, quiet):
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(toy_suite))
    content = {
        "base": {"id": "test/tiny", "source": str(tiny_folder), "quantization": "nf4", "dtype": "float32"},
        "suite": {"source": "toy", "support": 4, "query": 4, "tasks_per_step": 2},
        "phases": [{"algorithm": "fomaml", "steps": 2, "inner": {"steps": 2}}],
        "run": {"output_dir": str(tmp_path / "run"), "eval_tasks": 1, "control": True},
        "evaluation": {"support": 4, "query": 4, "steps": list(STEPS), "tuning_tasks": 1, "learning_rates": [1e-3], "rate_factors": [1.0]},
    }
    meta_train(parse_recipe(content), quiet)
    return tmp_path / "run"


def test_evaluation_measures_every_arm_on_the_same_grid(run_folder, quiet):
    results = evaluate(run_folder / "adapter", console=quiet)
    cells = {
        arm: {(r["task"], r["draw"], r["step"]) for r in results["records"] if r["arm"] == arm} for arm in ("random", "multitask", "meta")
    }
    assert cells["random"] == cells["multitask"] == cells["meta"] == {("twice", 0, step) for step in STEPS}
    assert set(results["pairs"]) == {"meta-multitask", "meta-random", "multitask-random"}
    assert results["protocol"]["measured"] == ["twice"]
    assert results["protocol"]["tuning"]["tasks"] == ["vowel"]
    flops = results["protocol"]["training_flops"]
    assert flops["multitask"] == pytest.approx(flops["meta"], rel=0.5)


def test_results_go_beside_the_adapter_and_into_its_card(run_folder, quiet):
    results = evaluate(run_folder / "adapter", console=quiet)
    assert read_results(run_folder / "evaluation" / "results.json") == results
    assert read_results(run_folder / "adapter" / "evaluation" / "results.json") == results
    assert (run_folder / "evaluation" / "curves.png").stat().st_size > 0
    assert "| accuracy | meta |" in (run_folder / "adapter" / "README.md").read_text()
    assert read_json(run_folder / "adapter" / "headstart.json")["record"]["evaluation"]["suite"]["split"] == "meta_test"
    assert MetaAdapter.from_pretrained(run_folder / "adapter").rates


def test_named_output_leaves_the_adapter_alone(run_folder, quiet, tmp_path):
    before = {path: path.read_bytes() for path in (run_folder / "adapter").rglob("*") if path.is_file()}
    evaluate(run_folder / "adapter", output=tmp_path / "elsewhere", arms=["random"], console=quiet)
    assert (tmp_path / "elsewhere" / "results.json").exists()
    assert {path: path.read_bytes() for path in (run_folder / "adapter").rglob("*") if path.is_file()} == before


def test_other_weights_are_refused_unless_allowed_and_then_recorded(run_folder, tiny_folder, quiet, tmp_path):
    variant = shutil.copytree(tiny_folder, tmp_path / "variant")
    weights = load_file(variant / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1e-3}, variant / "model.safetensors", {"format": "pt"})
    options = {"arms": ["random"], "base_source": str(variant), "console": quiet}
    with pytest.raises(AdapterError, match="--allow-base-variant"):
        evaluate(run_folder / "adapter", **options)
    protocol = evaluate(run_folder / "adapter", allow_base_variant=True, **options)["protocol"]
    trained = MetaAdapter.from_pretrained(run_folder / "adapter").fingerprint
    assert protocol["base"] == {"id": "test/tiny", "source": str(variant), "fingerprint": fingerprint(variant)}
    assert protocol["base_variant_of"] == {"source": str(tiny_folder), "fingerprint": trained}
    card = (run_folder / "adapter" / "README.md").read_text()
    assert f"Measured on other weights than it was trained on: from `{variant}`" in card
    assert "Trained on the weights" in card


def test_a_shipped_adapter_is_measured_and_left_alone(run_folder, quiet, tmp_path, monkeypatch):
    shutil.copytree(run_folder / "adapter", tmp_path / "adapters" / "named")
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: tmp_path / kind)
    monkeypatch.chdir(run_folder)
    before = (tmp_path / "adapters" / "named" / "README.md").read_bytes()
    evaluate("named", arms=["random"], console=quiet)
    assert read_results(run_folder / "evaluated" / "named" / "results.json")["protocol"]["base_variant_of"] is None
    assert (tmp_path / "adapters" / "named" / "README.md").read_bytes() == before
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["named"]


def test_evaluating_twice_gives_the_same_numbers(run_folder, quiet, tmp_path):
    first, second = (evaluate(run_folder / "adapter", output=tmp_path / name, console=quiet) for name in ("a", "b"))
    assert first["records"] == second["records"]


def test_overrides_change_what_is_measured(run_folder, quiet):
    results = evaluate(run_folder / "adapter", arms=["random"], overrides=["evaluation.steps=[0, 2]", "evaluation.draws=2"], console=quiet)
    assert {(record["draw"], record["step"]) for record in results["records"]} == {(0, 0), (0, 2), (1, 0), (1, 2)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": ["rndom"]}, "unknown arm 'rndom'"),
        ({"arms": ["random", "random"]}, "each once"),
        ({"split": "meta_train"}, "was trained on"),
        ({"split": "meta_validation"}, "all of them tune rates"),
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"overrides": ["suite.support=3"]}, r"only evaluation\.KEY=VALUE"),
        ({"overrides": ["evaluation.tsks=3"]}, r"did you mean evaluation\.tasks\?"),
        ({"base_source": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"output": "/dev/null/results"}, "/dev/null/results: cannot be written"),
    ],
)
def test_mistakes_are_told_before_the_base_is_loaded(run_folder, quiet, monkeypatch, options, words):
    monkeypatch.setattr(evaluation_run, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(ValueError, match=words):
        evaluate(run_folder / "adapter", console=quiet, **options)


def test_without_a_control_the_multitask_arm_is_refused_or_left_out(run_folder, quiet, tmp_path):
    (run_folder / "control").rename(tmp_path / "gone")
    with pytest.raises(EvaluationError, match=r"run\.control=true"):
        evaluate(run_folder / "adapter", arms=["multitask"], console=quiet)
    assert set(evaluate(run_folder / "adapter", console=quiet)["summary"]) == {"random", "meta"}


@pytest.fixture
def bench(learner, batcher):
    return Bench(learner, batcher(learner.base), Protocol(support=4, query=6, steps=STEPS, draws=2, seed=0), lambda work, note: None)


def arm_of(learner, candidates=(0.01,)):
    theta = {name: tensor + 0.01 for name, tensor in learner.fresh_adapter().items()}
    return Arm("random", theta, Adam(), {name: torch.ones(1) for name in theta}, candidates)


def test_records_are_what_adapting_one_task_alone_gives(bench, toy_suite):
    tasks = [toy_suite.tasks[name] for name in ("vowel", "twice", "upper")]
    together = {(r.task, r.draw, r.step): (r.loss, r.accuracy) for r in run_arm(arm_of(bench.learner), 0.01, tasks, bench)}
    alone = {(r.task, r.draw, r.step): (r.loss, r.accuracy) for task in tasks for r in run_arm(arm_of(bench.learner), 0.01, [task], bench)}
    assert together.keys() == alone.keys() == {(task.name, draw, step) for task in tasks for draw in (0, 1) for step in STEPS}
    for cell in alone:
        assert together[cell] == pytest.approx(alone[cell], rel=1e-3), cell


def test_adapting_lowers_the_loss_on_its_task(bench, toy_suite):
    records = list(run_arm(arm_of(bench.learner), 0.01, [toy_suite.tasks["vowel"]], bench))
    mean = {step: sum(r.loss for r in records if r.step == step) / 2 for step in STEPS}
    assert mean[3] < mean[0]


def test_a_winner_at_the_edge_widens_the_grid(bench, toy_suite):
    found = tune(arm_of(bench.learner, (1e-6, 2e-6, 4e-6)), [toy_suite.tasks["vowel"]], bench)
    assert sorted(found) == pytest.approx([1e-6, 2e-6, 4e-6, 8e-6, 1.6e-5])


def test_accuracy_ranks_labels_and_otherwise_wants_the_exact_answer(learner, batcher, random_phi, toy_suite):
    """By the definitions, a conversation at a time."""
    phi, own = random_phi(learner, 1), batcher(learner.base)
    draw = evaluation_draw(toy_suite.tasks["vowel"], draw=0, support=4, query=12)
    right = 0
    for example in draw.query:
        scores = {}
        for label in draw.task.labels:
            one = type(example)(example.input, label)
            rows = own.ranking_rows((type(draw)(draw.task, (), (one,)),))
            scores[label] = float(learner.scores(phi, rows).log_likelihood[0])
        right += max(scores, key=scores.get) == example.output
    assert measure(learner, phi, (draw,), own)[0].accuracy == pytest.approx(right / 12)
    generated = evaluation_draw(toy_suite.tasks["twice"], draw=0, support=4, query=12)
    assert measure(learner, phi, (generated,), own)[0].accuracy == 0
