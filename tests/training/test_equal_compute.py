"""The control of a finished run: alike in all but how it is trained, for as many operations, within a step."""

import hashlib
import json
import re
import signal
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import headstart.training.run as run_module
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.cli import app
from headstart.errors import HeadstartError
from headstart.recipe import RecipeError, parse_recipe
from headstart.tasks.reading.source import of_suite
from headstart.training.equal_compute import control_recipe, multitask_rate, spaced
from headstart.training.errors import RunError, Stopped
from headstart.training.run import Session, meta_train, run_recipe

WARM = {"algorithm": "multitask", "steps": 2}
FOMAML = {"algorithm": "fomaml", "steps": 3, "inner": {"steps": 2, "learning_rate": 0.01}}


@pytest.fixture
def finished(tiny_recipe, quiet):
    """A finished run of both phases, and its adapter."""
    recipe = tiny_recipe(WARM, FOMAML, seed=3)
    return recipe, meta_train(recipe, quiet)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_spent_within_a_step(adapter, folder, budget):
    """The last step began within the budget and ended at or past it."""
    last = rows_of(folder)[-1]["flops"]
    spent = adapter.record["cost"]["flops"]
    assert spent == adapter.record["control_of"]["spent"] == sum(row.get("flops", 0) for row in rows_of(folder))
    assert adapter.record["control_of"]["flops"] == budget
    assert 1 <= spent / budget < 1 + last / budget


@pytest.mark.parametrize("learn_rates", [False, True])
def test_a_control_spends_what_its_run_took_within_a_step(finished, quiet, learn_rates):
    recipe, adapter = finished
    control, control_of = control_recipe(recipe.run.output_dir, learn_rates=learn_rates)
    assert control_of.flops == adapter.record["cost"]["flops"] == sum(leg["flops"] for leg in adapter.record["phases"])
    trained = run_recipe(control, quiet, control_of=control_of)
    folder = recipe.run.output_dir / ("control_rates" if learn_rates else "control")
    assert control.run.output_dir == folder
    assert_spent_within_a_step(trained, folder, control_of.flops)
    assert MetaAdapter.from_pretrained(folder / "adapter").record["control_of"] == trained.record["control_of"]


def test_a_control_says_what_it_is_a_control_of(finished, quiet):
    recipe, _ = finished
    control = run_recipe(*with_console(quiet, control_recipe(recipe.run.output_dir)))
    about = control.record["control_of"]
    weights = recipe.run.output_dir / "adapter" / "adapter_model.safetensors"
    assert about["name"] == "run"
    assert about["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert control.record["name"] == "run-control"
    assert "control_of" not in MetaAdapter.from_pretrained(recipe.run.output_dir / "adapter").record


def with_console(console, prepared):
    recipe, control_of = prepared
    return recipe, console, False, control_of


def test_a_control_starts_fresh_and_shares_all_but_its_phases(finished):
    recipe, _ = finished
    control, _ = control_recipe(recipe.run.output_dir / "adapter", ["outer.learning_rate=0.02", "run.save_steps=7"])
    for section in ("seed", "base", "adapter", "suite", "evaluation"):
        assert getattr(control, section) == getattr(recipe, section)
    assert (control.outer.learning_rate, control.run.save_steps) == (0.02, 7)
    assert [phase.algorithm for phase in control.phases] == ["multitask"]
    # looks and the shipped rule are the run's, at its rate
    assert control.inner.model_dump() == recipe.inner.model_dump() | {"learn_rates": False}


@pytest.mark.parametrize(
    ("own", "rate"),
    [((None, None, None), 0.1), ((0.2, 0.3, 0.4), 0.2), ((None, 0.3, 0.4), 0.4), ((None, 0.3, None), 0.1)],
    ids=["none", "the first", "the first that has one", "fomaml's is not for multi-task training"],
)
def test_a_control_has_the_rate_of_the_runs_multitask_training(own, rate):
    algorithms = ("multitask", "fomaml", "multitask")
    phases = [{"algorithm": name, "steps": 1, "learning_rate": each} for name, each in zip(algorithms, own, strict=True)]
    assert multitask_rate(parse_recipe({"phases": phases, "outer": {"learning_rate": 0.1}})) == rate


def test_controls_of_a_run_whose_phases_have_rates_of_their_own(tiny_recipe, quiet):
    """The rate stands where overrides reach it; a control of the run's own has it too."""
    recipe = tiny_recipe({**WARM, "learning_rate": 0.04}, {**FOMAML, "learning_rate": 0.002}, run={"control": True})
    meta_train(recipe, quiet)
    folder = recipe.run.output_dir
    for learn_rates in (False, True):
        control, _ = control_recipe(folder, learn_rates=learn_rates)
        assert control.outer == recipe.outer.model_copy(update={"learning_rate": 0.04})
        assert all(phase.learning_rate is None for phase in control.phases)
    assert control_recipe(folder, ["outer.learning_rate=0.02"])[0].outer.learning_rate == 0.02
    # the first of the warm-up's steps
    assert rows_of(folder / "control")[0]["learning_rate"] == pytest.approx(0.04 / 2)


def test_controls_of_a_run_with_preconditioners(tiny_recipe, quiet):
    """The plain one learns nothing beside its initialisation; the other all that the run did."""
    recipe = tiny_recipe(WARM, {**FOMAML, "inner": {**FOMAML["inner"], "precondition": True}})
    meta_train(recipe, quiet)
    plain, _ = control_recipe(recipe.run.output_dir)
    assert plain.inner == recipe.inner.model_copy(update={"learn_rates": False, "precondition": False})
    with_rates, control_of = control_recipe(recipe.run.output_dir, learn_rates=True)
    assert with_rates.phases[-1].inner == recipe.inner
    trained = run_recipe(with_rates, quiet, control_of=control_of)
    assert all(rate.shape == (2, 8, 8) for rate in trained.rates.values())


def test_a_control_sees_the_tasks_that_its_run_saw(finished, quiet):
    recipe, _ = finished
    run_recipe(*with_console(quiet, control_recipe(recipe.run.output_dir)))
    theirs, ours = (rows_of(folder) for folder in (recipe.run.output_dir, recipe.run.output_dir / "control"))
    assert len(ours) > len(theirs), "plain steps are cheaper"
    assert [row["tasks"] for row in ours[1 : len(theirs)]] == [row["tasks"] for row in theirs[1:]]
    assert ours[0]["validation/loss_0"] == theirs[0]["validation/loss_0"], "both begin with the same fresh adapter"


def test_rates_are_learned_on_the_frozen_initialisation_for_their_share(finished, quiet):
    recipe, adapter = finished
    control, control_of = control_recipe(recipe.run.output_dir, learn_rates=True, rates_share=0.4)
    trained = run_recipe(control, quiet, control_of=control_of)
    plain = MetaAdapter.from_pretrained(control.run.output_dir / "phases" / "0-multitask")
    assert all(torch.equal(trained.theta[name], plain.theta[name]) for name in plain.theta)
    assert trained.rates.keys() == adapter.rates.keys()
    assert trained.adaptation == adapter.adaptation
    assert not torch.allclose(torch.cat(list(trained.rates.values())), torch.tensor(0.01))
    multitask, rates = trained.record["phases"]
    steps = rows_of(control.run.output_dir)
    # each leg ends within one of its own steps
    assert 0.6 <= multitask["flops"] / control_of.flops <= 0.6 + steps[multitask["steps"]]["flops"] / control_of.flops
    assert rates["algorithm"] == "fomaml"


def test_a_run_without_an_inner_loop_has_a_control_with_rates(tiny_recipe, quiet):
    meta_train(recipe := tiny_recipe(WARM), quiet)
    control, control_of = control_recipe(recipe.run.output_dir, learn_rates=True, rates_share=0.5)
    assert run_recipe(control, quiet, control_of=control_of).rates


def test_a_control_that_was_stopped_goes_on_to_the_same_bits(finished, quiet, monkeypatch, outcome):
    recipe, _ = finished
    whole, broken = (control_recipe(recipe.run.output_dir, [f"run.output_dir={recipe.run.output_dir}-{name}"], True) for name in "ab")
    run_recipe(*with_console(quiet, whole))
    log = Session.log

    def stopping(self, values, step):
        log(self, values, step)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "log", stopping)
        with pytest.raises(Stopped):
            run_recipe(*with_console(quiet, broken))
    run_recipe(broken[0], quiet, True, broken[1])
    assert outcome(broken[0].run.output_dir) == outcome(whole[0].run.output_dir)


def test_the_recipe_in_its_folder_trains_the_same_control(finished, quiet):
    """What makes a control a control of this run is in its recipe, but for the record's line."""
    recipe, _ = finished
    control, control_of = control_recipe(recipe.run.output_dir)
    first = run_recipe(control, quiet, control_of=control_of)
    second = meta_train(
        control.model_copy(update={"run": control.run.model_copy(update={"output_dir": recipe.run.output_dir.parent / "again"})}), quiet
    )
    assert all(torch.equal(first.theta[name], second.theta[name]) for name in first.theta)
    assert first.adaptation == second.adaptation


@pytest.mark.parametrize(
    "override",
    ["suite.support=2", "seed=1", "phases.0.flops=3", "adapter.r=4", "base.dtype=bfloat16", "evaluation.draws=3",
     "run.gradient_checkpointing=true", "run.load_best_model_at_end=true", "run.control=true", "run={}"],
)  # fmt: skip
def test_what_both_sides_share_is_refused_by_name(finished, override):
    recipe, _ = finished
    with pytest.raises(RunError, match=rf"override '{override}': {override.partition('=')[0]} is shared by both sides"):
        control_recipe(recipe.run.output_dir, [override])


def test_a_key_that_is_not_there_is_told_as_in_any_recipe(finished):
    recipe, _ = finished
    with pytest.raises(RecipeError, match=r"outer\.lerning_rate: unknown key; did you mean outer\.learning_rate\?"):
        control_recipe(recipe.run.output_dir, ["outer.lerning_rate=1"])


@pytest.mark.parametrize(("count", "rates"), [(1, [1.0]), (2, [1.0, 2.0]), (3, [0.5, 1.0, 2.0]), (4, [0.5, 1.0, 2.0, 4.0])])
def test_rates_are_spaced_by_factors_of_two_about_one(count, rates):
    assert spaced(1.0, count) == rates


def test_another_suite_or_base_is_refused_before_the_base_is_loaded(finished, quiet, monkeypatch, toy_suite):
    recipe, _ = finished
    prepared = control_recipe(recipe.run.output_dir)
    monkeypatch.setattr("headstart.tasks.prepare.open_source", lambda *_: of_suite(replace(toy_suite, revision="new")))
    monkeypatch.setattr(run_module, "fingerprint", lambda folder: "0123")
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(RunError, match="no control of run can be trained here") as caught:
        run_recipe(*with_console(quiet, prepared))
    assert "the suite has changed" in str(caught.value)
    assert "other weights: fingerprint" in str(caught.value)
    assert not prepared[0].run.output_dir.exists()


def test_other_ranks_are_refused(finished, quiet):
    recipe, _ = finished
    control, control_of = control_recipe(recipe.run.output_dir)
    with pytest.raises(RunError, match=r"trained by 2 rank\(s\), this run has 1; start it with `torchrun"):
        run_recipe(control, quiet, control_of=replace(control_of, ranks=2))


def test_a_run_that_is_none_or_is_not_finished_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no finished run"):
        control_recipe(tmp_path)
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(RunError, match="is not finished; go on with it by --resume"):
        control_recipe(tmp_path)


def test_an_adapter_that_left_its_run_needs_a_folder(finished, tmp_path):
    recipe, _ = finished
    (recipe.run.output_dir / "adapter").rename(tmp_path / "mine")
    with pytest.raises(RunError, match=r"say where with run\.output_dir=FOLDER"):
        control_recipe(tmp_path / "mine")
    assert control_recipe(tmp_path / "mine", [f"run.output_dir={tmp_path / 'there'}"])[0].run.output_dir == tmp_path / "there"


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(finished, share):
    with pytest.raises(RunError, match="--rates-share"):
        control_recipe(finished[0].run.output_dir, learn_rates=True, rates_share=share)


def headstart(*arguments):
    return CliRunner().invoke(app, ["meta-train", *map(str, arguments)])


def test_the_command_trains_controls(finished):
    """What stands first behind the option is an override, as there is no recipe."""
    recipe, _ = finished
    folder = recipe.run.output_dir
    done = headstart("--equal-compute-of", folder, "outer.learning_rate=0.02", "run.save_steps=3")
    assert done.exit_code == 0, done.exception
    record = MetaAdapter.from_pretrained(folder / "control" / "adapter").record
    assert (record["recipe"]["outer"]["learning_rate"], record["recipe"]["run"]["save_steps"]) == (0.02, 3)
    assert record["control_of"]["name"] == "run"
    assert headstart("--equal-compute-of", folder / "adapter", "--learn-rates", "--rates-share", "0.5").exit_code == 0
    legs = MetaAdapter.from_pretrained(folder / "control_rates" / "adapter").record["phases"]
    assert 0.7 < legs[0]["flops"] / legs[1]["flops"] < 1.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a recipe .* or --equal-compute-of and a finished run's folder"),
        (["quickstart", "--equal-compute-of", "run"], "'quickstart' and --equal-compute-of run: give one of them"),
        (["quickstart", "--learn-rates"], "--learn-rates and --rates-share are of a control"),
        (["--equal-compute-of", "run", "--rates-share", "0.5"], "add --learn-rates"),
        (["--equal-compute-of", "nowhere"], "nowhere holds no finished run"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, words):
    assert isinstance(error := headstart(*arguments).exception, HeadstartError)
    assert re.search(words, str(error))
