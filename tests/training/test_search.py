"""Searches: every trial is the run that it would be alone, the best is kept, and a stopped search goes on where it was."""

import json
import signal

import pytest

import headstart.training.run as run_module
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.recipe import RecipeError, load_recipe, parse_recipe
from headstart.training.equal_compute import control_recipe
from headstart.training.errors import DivergedError, RunError, Stopped
from headstart.training.outer import OuterOptimizer
from headstart.training.run import Session, meta_train, run_recipe

PHASES = ({"algorithm": "multitask", "steps": 2}, {"algorithm": "fomaml", "steps": 2, "inner": {"steps": 1, "learning_rate": 0.01}})
GRID = {"outer.learning_rate": [0.01, 0.1], "phases.1.inner.steps": [1, 2]}


@pytest.fixture
def searching(tiny_recipe):
    """Builds the recipe of a search."""

    def build(folder="search", grid=None, **sections):
        run = {"save_steps": 1, **sections.pop("run", {})}
        return tiny_recipe(*PHASES, folder=folder, search={"grid": grid or GRID}, run=run, **sections)

    return build


def kept(folder):
    """What a search leaves as its own, without its trials."""
    names = ("adapter/adapter_model.safetensors", "adapter/rates.safetensors", "phases/0-multitask/adapter_model.safetensors")
    return [(folder / name).read_bytes() for name in names], [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def final_loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["validation/loss_adapted"]


def test_the_best_of_all_combinations_is_kept(searching, quiet):
    recipe = searching()
    adapter = meta_train(recipe, quiet)
    folder = recipe.run.output_dir
    about = adapter.record["search"]
    assert about["trials"] == [{"outer.learning_rate": rate, "phases.1.inner.steps": steps} for rate in (0.01, 0.1) for steps in (1, 2)]
    losses = [final_loss(folder / "trials" / str(number)) for number in range(4)]
    assert about["losses"] == losses
    assert len(set(losses)) == 4
    assert about["chosen"] == losses.index(min(losses))
    trial = folder / "trials" / str(about["chosen"])
    assert kept(folder) == kept(trial)
    assert (folder / "curves.png").read_bytes() == (trial / "curves.png").read_bytes()
    assert {path.name for path in (folder / "phases").iterdir()} == {"0-multitask", "1-fomaml"}


def test_the_record_is_the_chosen_trials_and_tells_of_the_others(searching, quiet):
    recipe = searching()
    record = meta_train(recipe, quiet).record
    records = [MetaAdapter.from_pretrained(recipe.run.output_dir / "trials" / str(number) / "adapter").record for number in range(4)]
    chosen = records[record["search"]["chosen"]]
    assert record["cost"] == chosen["cost"]
    assert record["search"]["flops"] == sum(each["cost"]["flops"] for each in records)
    assert record["search"]["tokens"] == sum(each["cost"]["tokens"] for each in records)
    assert record["recipe"] == chosen["recipe"]
    assert record["recipe"]["outer"]["learning_rate"] == record["search"]["trials"][record["search"]["chosen"]]["outer.learning_rate"]
    assert record["name"] == "search"


def test_a_trial_is_the_run_that_it_would_be_alone(searching, tiny_recipe, quiet, outcome):
    recipe = searching(grid={"outer.learning_rate": [0.02, 0.03]})
    meta_train(recipe, quiet)
    alone = tiny_recipe(*PHASES, folder="alone", run={"save_steps": 1}, outer={"learning_rate": 0.03, "warmup_steps": 1})
    meta_train(alone, quiet)
    assert outcome(recipe.run.output_dir / "trials" / "1") == outcome(alone.run.output_dir)


@pytest.mark.parametrize("row", [1, 4, 5, 6, 11])
def test_a_search_that_was_stopped_goes_on_with_its_trial(searching, quiet, monkeypatch, outcome, row):
    """A trial takes four steps; those that are finished are not done again."""
    whole, broken = searching("whole"), searching("broken")
    meta_train(whole, quiet)
    done = []
    log = Session.log

    def logging(self, values, step):
        log(self, values, step)
        done.extend([step] * bool(step))
        if step and len(done) == row:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "log", logging)
    with pytest.raises(Stopped) as caught:
        meta_train(broken, quiet)
    assert f"run.output_dir being {broken.run.output_dir}" in str(caught.value)
    meta_train(broken, quiet, resume=True)
    assert len(done) == 16
    assert outcome(broken.run.output_dir) == outcome(whole.run.output_dir)
    records = [MetaAdapter.from_pretrained(recipe.run.output_dir / "adapter").record["search"] for recipe in (whole, broken)]
    assert all(records[0][key] == records[1][key] for key in ("trials", "chosen", "losses", "flops", "tokens"))


@pytest.fixture
def diverging(monkeypatch):
    """The second step of every trial with a high rate diverges."""
    step = OuterOptimizer.step

    def stepping(self, gradient, number, progress):
        if self.section.learning_rate > 0.05 and number == 1:
            raise FloatingPointError("the meta-gradient is not finite; lower it")
        return step(self, gradient, number, progress)

    monkeypatch.setattr(OuterOptimizer, "step", stepping)


def test_a_trial_that_diverges_is_one_that_lost(searching, quiet, diverging):
    adapter = meta_train(searching(grid={"outer.learning_rate": [0.1, 0.01]}), quiet)
    about = adapter.record["search"]
    assert about["losses"][0] is None
    assert about["chosen"] == 1
    one_step = adapter.record["phases"][0]["flops"] / 2
    assert about["flops"] - adapter.record["cost"]["flops"] == pytest.approx(2 * one_step, rel=0.01), "two steps were computed"


def test_where_all_diverge_there_is_no_best(searching, quiet, diverging):
    recipe = searching(grid={"outer.learning_rate": [0.1, 0.2]})
    with pytest.raises(DivergedError, match="all 2 trials diverged; lower the rates"):
        meta_train(recipe, quiet)
    assert not (recipe.run.output_dir / "adapter").exists()
    assert issubclass(DivergedError, FloatingPointError)


def test_another_search_is_not_gone_on_with(searching, quiet, monkeypatch):
    recipe = searching()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "finish", lambda *_: pytest.fail("a trial ended"))
        patch.setattr(Session, "go_on", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            meta_train(recipe, quiet)
    monkeypatch.setattr(run_module, "load_base", lambda *_: pytest.fail("the base was loaded"))
    with pytest.raises(RunError, match="add --resume"):
        meta_train(recipe, quiet)
    with pytest.raises(RunError, match=r"search\.grid\.outer\.learning_rate\.1: 0\.1 then, 0\.3 now"):
        meta_train(searching(grid={**GRID, "outer.learning_rate": [0.01, 0.3]}), quiet, resume=True)
    with pytest.raises(RunError, match="there is no search to resume"):
        meta_train(searching("none"), quiet, resume=True)


def test_trials_over_different_suites_do_not_compare(searching, quiet, monkeypatch):
    recipe = searching(grid={"outer.learning_rate": [0.01, 0.1]})
    meta_train(recipe, quiet)
    folder = recipe.run.output_dir
    for path in (folder / "adapter").iterdir():
        if path.is_file():
            path.unlink()
    (folder / "adapter").rmdir()
    about = folder / "trials" / "0" / "adapter" / "headstart.json"
    content = json.loads(about.read_text())
    content["record"]["suite"]["revision"] = "another"
    about.write_text(json.dumps(content))
    with pytest.raises(RunError, match="different suites, bases or ranks"):
        meta_train(recipe, quiet, resume=True)


def test_a_finished_search_is_never_overwritten(searching, quiet):
    recipe = searching(grid={"outer.learning_rate": [0.01]})
    meta_train(recipe, quiet)
    for resume in (False, True):
        with pytest.raises(RunError, match="already holds a finished run"):
            meta_train(recipe, quiet, resume=resume)


def test_the_control_of_a_search_has_as_many_trials(searching, quiet):
    recipe = searching(grid={"outer.learning_rate": [0.02, 0.04, 0.01]})
    adapter = meta_train(recipe, quiet)
    folder = recipe.run.output_dir
    rate = adapter.record["recipe"]["outer"]["learning_rate"]
    control, control_of = control_recipe(folder)
    assert control.search.grid == {"outer.learning_rate": (rate / 2, rate, 2 * rate)}
    assert control_of.flops == adapter.record["cost"]["flops"]
    trained = run_recipe(control, quiet, control_of=control_of)
    assert len(trained.record["search"]["losses"]) == 3
    assert trained.record["name"] == "search-control"
    assert trained.record["control_of"]["spent"] == trained.record["cost"]["flops"] >= control_of.flops
    for number in range(3):
        record = MetaAdapter.from_pretrained(folder / "control" / "trials" / str(number) / "adapter").record
        assert control_of.flops <= record["cost"]["flops"] < 1.2 * control_of.flops
    with pytest.raises(RunError, match=r"search\.grid: 2 trial\(s\), but .* is the best of 3"):
        control_recipe(folder, ["search.grid.outer.learning_rate=[0.1, 0.2]"])
    own = control_recipe(folder, ["search.grid.outer.learning_rate=[0.1, 0.2, 0.3]", "outer.warmup_steps=0"])[0]
    assert own.search.grid == {"outer.learning_rate": (0.1, 0.2, 0.3)}


def test_a_run_without_a_search_has_a_control_without(tiny_recipe, quiet):
    meta_train(recipe := tiny_recipe(*PHASES), quiet)
    assert control_recipe(recipe.run.output_dir)[0].search is None
    with pytest.raises(RunError, match=r"2 trial\(s\), but .* is the best of 1"):
        control_recipe(recipe.run.output_dir, ["search.grid={outer.learning_rate: [0.1, 0.2]}"])


def test_the_best_look_of_a_trial_is_what_it_is_judged_by(searching, quiet):
    recipe = searching(grid={"outer.learning_rate": [0.5, 0.01]}, run={"eval_steps": 1, "load_best_model_at_end": True})
    record = meta_train(recipe, quiet).record
    for number, loss in enumerate(record["search"]["losses"]):
        lines = (recipe.run.output_dir / "trials" / str(number) / "metrics.jsonl").read_text().splitlines()
        looks = [row["validation/loss_adapted"] for row in map(json.loads, lines) if row["step"] > 2]
        assert loss == min(looks)
    assert record["phases"][-1]["loss"] == min(record["search"]["losses"])


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"grid": {"outer.lerning_rate": [1, 2]}}, r"search\.grid: outer\.lerning_rate: unknown key; did you mean outer\.learning_rate\?"),
        ({"grid": {"phases.0.steps": [1, -2]}}, r"search\.grid: phases\.0\.steps: expected a number of at least 1, got -2"),
        ({"grid": {"phases.7.steps": [1]}}, r"search\.grid: phases\.7\.steps: phases\.7 needs an index from 0 to 0"),
        ({"grid": {"seed": [1, 2]}}, r"search\.grid: seed cannot be searched over; only keys of phases, outer, adapter can"),
        ({"grid": {"run.output_dir": ["a"]}}, r"search\.grid: run\.output_dir cannot be searched over"),
        ({"grid": {}}, r"search\.grid: an empty list"),
        ({"grid": {"outer.learning_rate": []}}, r"search\.grid\.outer\.learning_rate: an empty list"),
    ],
)
def test_every_trial_is_checked_before_anything_runs(search, words):
    with pytest.raises(RecipeError, match=words):
        parse_recipe({"phases": [PHASES[0]], "search": search})


def test_a_search_has_no_control_of_its_own():
    with pytest.raises(RecipeError, match=r"run\.control: not beside a search.*--equal-compute-of"):
        load_recipe("quickstart", ["search.grid.outer.learning_rate=[1e-4, 2e-4]", "run.control=true"])
    recipe = load_recipe("quickstart", ["search.grid.outer.learning_rate=[1e-4, 2e-4]", "run.control=false"])
    assert [recipe.trial(number).outer.learning_rate for number in (0, 1)] == [1e-4, 2e-4]
    assert recipe.trial(1).run.output_dir == recipe.run.output_dir / "trials" / "1"
