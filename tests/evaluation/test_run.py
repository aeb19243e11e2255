"""A whole evaluation on a toy run: every arm measured alike, kept as it goes, told whole."""

import io
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from headstart import shipped
from headstart.adapter.files import read_json
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.rates import as_matrices
from headstart.evaluation import campaign as campaign_module
from headstart.evaluation import kept as kept_module
from headstart.evaluation import run as evaluation_run
from headstart.evaluation.arms import SEEDLESS, USUAL_ARMS
from headstart.evaluation.campaign import Stopped
from headstart.evaluation.errors import EvaluationError
from headstart.evaluation.ledger import default_ledger, read_looks
from headstart.evaluation.plan import Plan
from headstart.evaluation.records import Record
from headstart.evaluation.report.schema import read_results
from headstart.evaluation.statistics import macro_mean
from headstart.files import WriteError
from headstart.model.base import fingerprint
from headstart.tasks.reading.source import of_suite

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = {0, 1, 3}


@pytest.fixture
def look(run_folder, quiet):
    """Evaluates the toy run on its one test task."""

    def evaluate(*adapters, **options):
        options = {"split": "meta_test", "final": True, "console": quiet, **options}
        return evaluation_run.evaluate(list(adapters) or run_folder / "adapter", **options)

    return evaluate


def cells(results, arm):
    return {(r["task"], r["draw"], r["seed"], r["step"]) for r in results["records"] if r["arm"] == arm}


def test_every_arm_is_measured_on_the_same_tasks_and_draws(look):
    results = look(draws=2)
    assert list(results["summary"]) == ["zero_shot", "icl", "random", "multitask", "meta_adamw", "meta"]
    for arm in ("random", "multitask", "meta_adamw", "meta"):
        assert cells(results, arm) == {("twice", draw, 0, step) for draw in (0, 1) for step in STEPS}
    for arm in ("zero_shot", "icl"):
        assert cells(results, arm) == {("twice", draw, 0, 0) for draw in (0, 1)}
    assert set(results["pairs"]) == {
        *("meta_adamw-multitask", "meta-multitask", "meta-meta_adamw", "meta_adamw-random", "meta-random", "multitask-random", "meta-icl")
    }
    protocol = results["protocol"]
    assert (protocol["measured"], protocol["tuning"]["tasks"], protocol["seeds"]) == (["twice"], ["vowel"], [0])
    assert "multitask_rates" in protocol["skipped"]
    assert set(protocol["arms"]) == set(results["summary"])


def test_an_adapter_whose_rates_mix_ranks_is_measured_under_them(look, run_folder):
    """Times the identity they are the same rates; exchanged ranks are another rule, from the same start."""

    def losses(change):
        adapter = replace(meta, rates={name: change(as_matrices(name, rate, meta.theta[name])) for name, rate in meta.rates.items()})
        adapter.save_pretrained(run_folder / "adapter")
        return measured()

    def measured():
        return {record["step"]: record["loss"] for record in look(arms=["meta"])["records"]}

    meta, plain = MetaAdapter.from_pretrained(run_folder / "adapter"), measured()
    assert losses(lambda rate: rate) == pytest.approx(plain, rel=1e-4)
    exchanged = losses(lambda rate: rate.flip(-1))
    assert exchanged[0] == pytest.approx(plain[0], rel=1e-4)
    assert exchanged[3] != pytest.approx(plain[3], rel=1e-4)


def test_the_headline_is_the_primary_pair_at_the_primary_step(look):
    results = look()
    assert results["headline"] == {
        **{"regime": "instructed", "k": 4, "pair": "meta_adamw-multitask", "metric": "accuracy", "step": 3},
        **results["pairs"]["meta_adamw-multitask"]["3"]["accuracy"],
    }
    assert look(arms=["random", "meta"])["headline"] is None


def test_all_settings_are_told_with_codes_for_labels_under_house_rules(look, toy_suite):
    results = look(overrides=["evaluation.regimes=[instructed, house_rules]"], shots=[2, 4], split="meta_validation", final=False)
    assert [(each["regime"], each["k"]) for each in results["settings"]] == [
        *(("instructed", 2), ("instructed", 4), ("house_rules", 2), ("house_rules", 4))
    ]


@pytest.fixture
def toy_suite(toy_suite):
    """Two validation tasks, so that one is left to be measured on."""
    splits = {**toy_suite.splits, "meta_validation": ("vowel", "sorted"), "meta_train": ("upper", "title", "reverse")}
    return replace(toy_suite, splits=splits)


def test_validation_is_the_default_split_and_measures_what_does_not_tune(run_folder, quiet):
    results = evaluation_run.evaluate(run_folder / "adapter", arms=["random"], console=quiet)
    assert (results["protocol"]["tuning"]["tasks"], results["protocol"]["measured"]) == (["vowel"], ["sorted"])
    assert results["looks"] == []
    assert not default_ledger().exists()


def test_every_look_at_the_test_split_is_in_the_ledger_and_in_the_results(look, run_folder):
    look(arms=["random"])
    results = look(arms=["random", "meta"])
    looks = read_looks(default_ledger())
    assert results["looks"] == looks
    assert [each["arms"] for each in looks] == [["random"], ["random", "meta"]]
    assert looks[0]["adapters"] == [results["protocol"]["adapters"][0]["sha256"]]
    assert "2 looks" in (run_folder / "adapter" / "README.md").read_text()


def test_a_look_that_ends_early_is_counted(look, monkeypatch):
    monkeypatch.setattr(campaign_module, "run_piece", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
    with pytest.raises(RuntimeError, match="cut"):
        look(arms=["random"])
    assert len(read_looks(default_ledger())) == 1


def test_what_was_measured_is_not_measured_again(look, monkeypatch):
    first = look(arms=["random", "meta"])
    monkeypatch.setattr(campaign_module, "run_piece", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(campaign_module, "tune", lambda *_: pytest.fail("tuned again"))
    again = look(arms=["random", "meta"])
    assert again["records"] == first["records"]
    assert again["summary"] == first["summary"]
    assert again["protocol"]["cost"] == first["protocol"]["cost"]


def test_another_arm_costs_that_arm_alone(look, monkeypatch):
    first, ran = look(arms=["random"]), []
    real = campaign_module.run_piece
    monkeypatch.setattr(campaign_module, "run_piece", lambda arm, *rest: ran.append(arm.name) or real(arm, *rest))
    both = look(arms=["random", "meta"])
    assert set(ran) == {"meta"}
    assert [r for r in both["records"] if r["arm"] == "random"] == first["records"]


def test_a_control_that_was_trained_anew_is_measured_anew(look, run_folder, monkeypatch):
    look(arms=["random", "multitask"])
    weights = run_folder / "control" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    ran, real = [], campaign_module.run_piece
    monkeypatch.setattr(campaign_module, "run_piece", lambda arm, *rest: ran.append(arm.name) or real(arm, *rest))
    look(arms=["random", "multitask"])
    assert set(ran) == {"multitask"}


def test_a_stopped_evaluation_goes_on_to_the_same_numbers(look, tmp_path, monkeypatch):
    whole = look(arms=["random", "meta"], output=tmp_path / "whole", draws=3)
    shutil.rmtree(tmp_path / "kept")
    real, count = campaign_module.run_piece, iter(range(100))

    def interrupted(*given):
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*given)

    monkeypatch.setattr(campaign_module, "run_piece", interrupted)
    with pytest.raises(Stopped):
        look(arms=["random", "meta"], output=tmp_path / "parted", draws=3)
    assert not (tmp_path / "parted").exists()
    parted = look(arms=["random", "meta"], output=tmp_path / "parted", draws=3)
    assert parted["records"] == whole["records"]
    assert parted["protocol"]["tuning"] == whole["protocol"]["tuning"]


def test_results_are_written_whole_and_into_the_card(look, run_folder):
    results = look()
    for folder in (run_folder / "evaluation", run_folder / "adapter" / "evaluation"):
        assert read_results(folder / "results.json") == results
        assert {path.name for path in folder.iterdir()} == {"results.json", "report.html", "report.md", "curves.png"}
    card = (run_folder / "adapter" / "README.md").read_text()
    assert "kinds of tasks that training never saw" in card
    assert "meta_adamw" in card
    recorded = read_json(run_folder / "adapter" / "headstart.json")["record"]["evaluation"]
    assert recorded["suite"]["split"] == "meta_test"
    assert recorded["summary"] == results["summary"]
    assert MetaAdapter.from_pretrained(run_folder / "adapter").rates


def test_named_output_leaves_the_adapter_alone(look, run_folder, tmp_path):
    before = {path: path.read_bytes() for path in (run_folder / "adapter").rglob("*") if path.is_file()}
    look(output=tmp_path / "elsewhere", arms=["random"])
    assert (tmp_path / "elsewhere" / "results.json").exists()
    assert {path: path.read_bytes() for path in (run_folder / "adapter").rglob("*") if path.is_file()} == before


def test_several_adapters_are_training_seeds(look, run_of, tmp_path):
    folders = [run_of(seed) / "adapter" for seed in (1, 2)]
    results = look(*folders, output=tmp_path / "both")
    assert results["protocol"]["seeds"] == [1, 2]
    for arm in results["summary"]:
        assert {r["seed"] for r in results["records"] if r["arm"] == arm} == {1, 2}
    by_seed = {arm: {r["seed"]: r["loss"] for r in results["records"] if r["arm"] == arm and r["step"] == 0} for arm in results["summary"]}
    for arm, losses in by_seed.items():
        # nothing is drawn by a seed in these, nor does a fresh adapter with B = 0 change the base
        assert (losses[1] == losses[2]) == (arm in (*SEEDLESS, "random")), arm
    assert not any("training variance" in note for note in results["notes"])
    alone = look(folders[0], arms=["meta"], output=tmp_path / "one")
    own = [r["loss"] for r in results["records"] if r["arm"] == "meta" and r["seed"] == 1]
    assert own == [r["loss"] for r in alone["records"]]


def test_several_adapters_all_get_their_cards(look, run_of):
    folders = [run_of(seed) / "adapter" for seed in (1, 2)]
    look(*folders, arms=["meta_adamw"])
    assert all("## Evaluation" in (folder / "README.md").read_text() for folder in folders)
    assert (folders[0].parent / "evaluation" / "report.html").exists()


def test_a_mean_is_the_macro_mean_of_its_records(look):
    results = look(arms=["random"], draws=2)
    own = [Record.from_json(r) for r in results["records"] if r["step"] == 3]
    assert results["summary"]["random"]["3"]["loss"]["mean"] == pytest.approx(macro_mean(own, "loss"))


def test_arms_at_step_0_start_where_they_say(look):
    """A fresh LoRA is the bare base, and the meta-adapter's two rules start from one initialisation."""
    results = look(split="meta_validation", final=False)
    loss = {arm: results["summary"][arm]["0"]["loss"]["mean"] for arm in results["summary"]}
    assert loss["random"] == pytest.approx(loss["zero_shot"], rel=1e-5)
    assert loss["meta"] == pytest.approx(loss["meta_adamw"], rel=1e-6)
    assert loss["meta"] != loss["zero_shot"]


def test_other_weights_are_refused_unless_allowed_and_then_recorded(look, run_folder, tiny_folder, tmp_path):
    variant = shutil.copytree(tiny_folder, tmp_path / "variant")
    weights = load_file(variant / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1e-3}, variant / "model.safetensors", {"format": "pt"})
    options = {"arms": ["random"], "base_source": str(variant)}
    with pytest.raises(AdapterError, match="--allow-base-variant"):
        look(**options)
    assert not default_ledger().exists()
    protocol = look(allow_base_variant=True, **options)["protocol"]
    trained = MetaAdapter.from_pretrained(run_folder / "adapter").fingerprint
    assert protocol["base"]["fingerprint"] == fingerprint(variant)
    assert protocol["base_variant_of"] == {"source": str(tiny_folder), "fingerprint": trained}
    card = (run_folder / "adapter" / "README.md").read_text()
    assert f"Measured on other weights than it was trained on: from `{variant}`" in card


def test_initialisations_that_rewrite_the_base_run_on_a_dense_one(look):
    with pytest.raises(EvaluationError, match="--quantization none"):
        look(arms=["pissa"])
    results = look(arms=["random", "pissa"], quantization="none")
    assert results["protocol"]["base"]["quantization"] == "none"
    assert cells(results, "pissa") == cells(results, "random")
    loss = {arm: results["summary"][arm]["0"]["loss"]["mean"] for arm in ("random", "pissa")}
    assert loss["pissa"] == pytest.approx(loss["random"], rel=1e-3)


def test_a_shipped_adapter_is_measured_and_left_alone(run_folder, quiet, tmp_path, monkeypatch):
    shutil.copytree(run_folder / "adapter", tmp_path / "adapters" / "named")
    monkeypatch.setattr(shipped, "shipped_folder", lambda kind: tmp_path / kind)
    monkeypatch.chdir(run_folder)
    before = (tmp_path / "adapters" / "named" / "README.md").read_bytes()
    # the folder in its record would be one of the machine that it was shipped from
    source = read_json(run_folder / "adapter" / "headstart.json")["base"]["source"]
    evaluation_run.evaluate("named", arms=["random"], base_source=source, console=quiet)
    assert read_results(run_folder / "evaluated" / "named" / "results.json")["protocol"]["base_variant_of"] is None
    assert (tmp_path / "adapters" / "named" / "README.md").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": ["rndom"]}, "unknown arm 'rndom'"),
        ({"arms": ["random", "random"]}, "name each once"),
        ({"arms": ["multitask_rates"]}, r"--equal-compute-of .*run-0 --learn-rates"),
        ({"split": "meta_train"}, "was trained on"),
        ({"overrides": ["evaluation.tuning_tasks=2"]}, "all of them tune rates"),
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"split": "meta_test"}, "add --final"),
        ({"final": True}, "--final is for meta_test"),
        ({"overrides": ["suite.support=3"]}, r"only evaluation\.KEY=VALUE"),
        ({"overrides": ["evaluation.tsks=3"]}, r"did you mean evaluation\.tasks\?"),
        ({"tier": "huge"}, "unknown tier"),
        ({"shots": [100]}, "instructed/100 left out: no task of meta_validation has 100 support and 4 query examples; lower --shots"),
        ({"overrides": ["evaluation.learning_rates=[1e-3, 2e-3]"]}, "give as many of both"),
        ({"base_source": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"output": "/dev/null/results"}, "/dev/null/results: cannot be written"),
    ],
)
def test_mistakes_are_told_before_the_base_is_loaded(run_folder, quiet, monkeypatch, options, words):
    monkeypatch.setattr(evaluation_run, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(ValueError, match=words):
        evaluation_run.evaluate(run_folder / "adapter", console=quiet, **options)
    assert not default_ledger().exists()


def test_without_a_control_the_multitask_arm_is_refused_or_left_out(look, run_folder, tmp_path):
    (run_folder / "control").rename(tmp_path / "gone")
    with pytest.raises(EvaluationError, match=r"--equal-compute-of .*run-0"):
        look(arms=["multitask"])
    results = look()
    assert set(results["summary"]) == set(USUAL_ARMS) - {"multitask", "multitask_rates"}
    assert set(results["protocol"]["skipped"]) == {"multitask", "multitask_rates"}


def test_arms_of_a_recipe_that_cannot_be_run_are_left_out_and_named_ones_refused(look, run_folder):
    """A shipped adapter has lost its control; what its recipe compares must not keep it from being judged."""
    changed = json.loads((run_folder / "adapter" / "headstart.json").read_text())
    changed["record"]["recipe"]["evaluation"]["arms"] = ["random", "multitask"]
    (run_folder / "adapter" / "headstart.json").write_text(json.dumps(changed))
    (run_folder / "control").rename(run_folder / "gone")
    results = look()
    assert (list(results["summary"]), list(results["protocol"]["skipped"])) == (["random"], ["multitask"])
    with pytest.raises(EvaluationError, match="cannot be run"):
        look(overrides=["evaluation.arms=[random, multitask]"])
    changed["record"]["recipe"]["evaluation"]["arms"] = ["multitask"]
    (run_folder / "adapter" / "headstart.json").write_text(json.dumps(changed))
    with pytest.raises(EvaluationError, match="cannot be run"):
        look()


def test_what_is_to_come_is_told_before_it_starts(run_folder, monkeypatch):
    told = Console(record=True, width=200, file=io.StringIO())
    monkeypatch.setattr(campaign_module, "run_piece", lambda *_: pytest.exit("too far", 1))

    def stop(self, progress):
        raise Stopped

    monkeypatch.setattr(campaign_module.Campaign, "run", stop)
    with pytest.raises(Stopped):
        evaluation_run.evaluate(run_folder / "adapter", console=told)
    text = told.export_text()
    assert "zero_shot, icl, random, multitask, meta_adamw, meta on 1 task in 1 cluster of meta_validation" in text
    assert "without multitask_rates: there is no control" in text
    assert "predicted: " in text
    assert "for tuning" in text


def test_shots_that_no_task_has_rows_for_are_left_out_and_told(look):
    results = look(shots=[4, 64], arms=["random"])
    assert [each["k"] for each in results["settings"]] == [4]
    assert "instructed/64 left out: no task of meta_test has 64 support and 4 query examples" in results["notes"]


def test_without_steps_nothing_is_tuned(look):
    results = look(steps=[0], arms=["zero_shot", "random", "meta"])
    assert results["protocol"]["tuning"]["grids"] == {"instructed/4": {}}
    assert all(cells(results, arm) == {("twice", 0, 0, 0)} for arm in results["summary"])
    assert (results["protocol"]["horizons"], results["protocol"]["primary"]["step"]) == ([], 0)


def test_drift_is_against_the_base_as_it_was(look):
    """Also where the first arm that drifts is one that rewrites the base."""
    options = {"quantization": "none", "overrides": ["evaluation.drift_tokens=40"]}
    apart, after = look(arms=["random"], **options), look(arms=["pissa", "random"], **options)
    assert after["summary"]["random"]["3"]["drift"] == apart["summary"]["random"]["3"]["drift"]
    shutil.rmtree(kept_module.kept_folder())
    fresh = look(arms=["pissa", "random"], **options)
    assert fresh["summary"]["random"]["3"]["drift"] == pytest.approx(apart["summary"]["random"]["3"]["drift"])


def test_a_development_run_does_not_replace_a_look_that_counted(look, run_folder, quiet):
    look(arms=["random"])
    with pytest.raises(WriteError, match=r"holds a look at meta_test; name another folder with --output"):
        evaluation_run.evaluate(run_folder / "adapter", arms=["random"], console=quiet)
    look(arms=["random", "meta"])


def test_a_look_that_counted_is_kept_also_where_schema_version_2_tells_of_it(look, run_folder, quiet):
    look(arms=["random"])
    path = run_folder / "evaluation" / "results.json"
    content = read_json(path)
    content["schema_version"] = 2
    for setting in content["settings"]:
        del setting["multitask_target"]
    path.write_text(json.dumps(content))
    with pytest.raises(WriteError, match=r"holds a look at meta_test; name another folder with --output"):
        evaluation_run.evaluate(run_folder / "adapter", arms=["random"], console=quiet)
    assert read_json(path) == content


def test_a_task_that_was_trained_on_under_another_name_is_refused(run_folder, quiet, toy_suite, monkeypatch):
    copied = replace(toy_suite.tasks["upper"], name="loud", cluster="volume")
    suite = replace(toy_suite, name="renamed", tasks={**toy_suite.tasks, "loud": copied})
    suite = replace(suite, splits={**suite.splits, "meta_test": ("loud",)})
    own = toy_suite
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda spec, *_: of_suite(suite if spec.path == "renamed" else own))
    with pytest.raises(EvaluationError, match=r"1 of the tasks were trained on under other names: .*upper"):
        evaluation_run.evaluate(run_folder / "adapter", suite="renamed", split="meta_test", final=True, console=quiet)
    assert not default_ledger().exists()


def test_a_suite_that_changed_since_training_is_told(look, toy_suite, monkeypatch):
    changed = replace(toy_suite, revision="changed")
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(changed))
    assert any("the suite has changed since training" in note for note in look(arms=["random"])["notes"])


def test_a_winner_at_the_edge_of_its_widened_grid_is_told(look):
    results = look(arms=["random"], overrides=["evaluation.learning_rates=[1e-9, 2e-9]", "evaluation.rate_factors=[1, 2]"])
    assert any("instructed/4, random: the best candidate for 3 steps, 8e-09, lies at the edge" in note for note in results["notes"])


def test_near_relatives_and_headroom_stand_beside_every_task(look, monkeypatch):
    monkeypatch.setattr("headstart.evaluation.plan.near_relatives", lambda measured, training: {"twice": ("upper",)})
    facts = look(arms=["random"])["tasks"]
    assert facts["twice"]["relatives"] == ["upper"]
    assert facts["twice"]["kind"] == "generation"
    assert facts["twice"]["headroom"] is False
    assert 0 < facts["twice"]["majority"] <= 1


def test_the_plan_holds_no_test_task_where_tuning_looks(run_folder, quiet):
    """What tuning is handed comes of the validation split alone, also where the test split is measured."""
    from headstart.evaluation.contenders import read_contenders
    from headstart.evaluation.plan import Wishes

    plan = Plan.make(read_contenders([run_folder / "adapter"]), Wishes(split="meta_test", final=True))
    for condition in plan.conditions:
        assert condition.validation.names == ["vowel"]
        assert [task.name for task in condition.measured] == ["twice"]


def test_the_document_is_json_of_its_schema(look, run_folder):
    look(arms=["random"])
    content = json.loads((run_folder / "evaluation" / "results.json").read_text())
    assert content["schema_version"] == 3
