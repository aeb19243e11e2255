"""Recipes: what loads, and what every fault says."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from headstart.algorithms import ALGORITHMS, rules
from headstart.recipe import FRESH_EPS_ROOT, Recipe, RecipeError, SourceSection, load_recipe, parse_recipe
from headstart.recipe_errors import known_algorithms
from headstart.shipped import shipped_recipes
from headstart.tasks.episodes import Redrawn
from headstart.tasks.spec import SourceSpec

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))
MINIMAL = {"phases": [{"algorithm": "fomaml", "steps": 2}]}


def test_there_are_recipes_and_all_are_shipped():
    assert {path.stem for path in RECIPES} == set(shipped_recipes())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_strictly(path):
    assert load_recipe(path) == load_recipe(path.stem)


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        (["outer.learning_rate=3e-4"], lambda recipe: recipe.outer.learning_rate == 3e-4),
        (["phases.1.inner.steps=5", "phases.1.inner.rule=sgd"], lambda recipe: (recipe.inner.steps, recipe.inner.rule) == (5, "sgd")),
        (["adapter.target_modules=[q_proj, v_proj]"], lambda recipe: recipe.adapter.target_modules == ("q_proj", "v_proj")),
        (["evaluation.tasks=null"], lambda recipe: recipe.evaluation.tasks is None),
        (["run.output_dir=somewhere"], lambda recipe: recipe.run.output_dir == Path("somewhere")),
    ],
)
def test_overrides_go_through_the_same_door(overrides, read):
    assert read(load_recipe("quickstart", overrides))
    assert not read(load_recipe("quickstart"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["suite.suport=3"], r"suite\.suport: unknown key; did you mean suite\.support\?"),
        (["suite.codes=episode"], r"suite\.codes: no task has codes under regime: instructed; set suite\.regime to house_rules or mixed"),
        (["suite.codes=step", "suite.regime=mixed"], r"suite\.codes: expected task or episode, got the text 'step'"),
        (
            ["suite.paraphrase=true", "suite.regime=house_rules"],
            r"suite\.paraphrase: no task has an instruction under regime: house_rules; set suite\.regime to instructed or mixed",
        ),
        (["suite.support=[]"], r"suite\.support: expected a whole number or a list of at least one item, got the list \[\]"),
        (["suite.support=[4, 0]"], r"suite\.support\.1: expected a number of at least 1, got 0"),
        (
            ["suite.sources=[{path: a, exclude: b}]"],
            r"suite\.sources\.0\.exclude: expected a list, got the text 'b'; write it as a list: \[b\]",
        ),
        (["evaluation.max_length=0"], r"evaluation\.max_length: expected a number of at least 1, got 0"),
        (["phases.1.algorithm=protonet"], r"phases\.1\.algorithm: unknown algorithm 'protonet'; there are .*maml"),
        (["phases.1.algorithm=maml", "phases.1.inner.eps_root=0"], r"phases\.1\.inner\.eps_root: expected a number greater than 0, got 0"),
        (["phases.1.second_order_warmup=0.5"], r"phases\.1\.second_order_warmup: unknown key; this phase's algorithm does not have it"),
        (["phases.1.multi_step_loss=1.5"], r"phases\.1\.multi_step_loss: expected a number of at most 1, got 1\.5"),
        (["phases.7.steps=1"], "needs an index from 0 to 1"),
        (["seed.x=1"], "seed is the value 0, which has no keys"),
        (["phases.x.steps=1"], "needs an index from 0 to 1"),
        (["phases.²=1"], "needs an index from 0 to 1"),
        (["evaluation.steps=[]"], r"evaluation\.steps: an empty list"),
        (["adapter.target_modules=[]"], r"adapter\.target_modules: expected text or a list of at least one item, got the list \[\]"),
        (["run.resume=true"], r"run\.resume: unknown key; not supported: .* --resume"),
        (["evaluation.steps=[0]", "evaluation.steps.0.x=1"], r"evaluation\.steps\.0 is the value 0, which has no keys"),
        (["outer.learning_rate=[1,"], r"'outer\.learning_rate=\[1,': the value is not valid YAML"),
        (["seed"], "write it as a.b=value"),
        (["=3"], "write it as a.b=value"),
        (["base.quantization=int8"], r"base\.quantization: expected none or nf4, got the text 'int8'"),
    ],
)
def test_faults_have_their_dotted_path(overrides, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("quickstart", overrides)


def test_reptile_has_no_learned_rates():
    phase = {"algorithm": "reptile", "steps": 1, "inner": {"learn_rates": True}}
    with pytest.raises(RecipeError, match=r"inner\.learn_rates"):
        parse_recipe({"phases": [phase]})
    assert not parse_recipe({"phases": [{"algorithm": "reptile", "steps": 1}]}).inner.learn_rates


def maml(**inner):
    return {"algorithm": "maml", "steps": 1, "inner": inner}


@pytest.mark.parametrize(
    "before",
    [[], [{"algorithm": "reptile", "steps": 1, "inner": {"steps": 0, "learn_rates": False}}]],
    ids=["nothing", "nothing that moves"],
)
def test_a_nearly_sharp_adam_is_not_differentiated_from_a_fresh_adapter(before):
    number = len(before)
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"phases": [*before, maml()]})
    said = str(caught.value)
    assert f"phases.{number}.inner.eps_root: 1e-08 is too little for a fresh adapter" in said
    for mend in ("put a multitask phase before", "0.0001 or more", f"set phases.{number}.inner.rule to sgd"):
        assert mend in said
    for fine in (maml(eps_root=1e-4), maml(rule="sgd"), maml(steps=0)):
        parse_recipe({"phases": [*before, fine]})


@pytest.mark.parametrize(
    "before",
    [
        {"algorithm": "multitask", "steps": 1},
        {"algorithm": "fomaml", "steps": 1},
        maml(rule="sgd"),
        {"algorithm": "reptile", "steps": 1, "inner": {"learn_rates": False}},
    ],
    ids=lambda phase: phase["algorithm"],
)
def test_after_a_phase_that_moves_b_it_is(before):
    assert parse_recipe({"phases": [before, maml()]}).inner.eps_root == 1e-8


def test_the_floor_is_the_algorithms():
    assert FRESH_EPS_ROOT == rules.FRESH_EPS_ROOT


def test_only_an_exact_inner_loop_is_smooth_unasked():
    assert parse_recipe(MINIMAL).inner.eps_root == 0
    assert parse_recipe({"phases": [{"algorithm": "fomaml", "steps": 2, "inner": {"eps_root": 1e-6}}]}).inner.eps_root == 1e-6


def test_every_fault_is_reported_at_once():
    with pytest.raises(RecipeError) as caught:
        parse_recipe({**MINIMAL, "nonsense": 1, "seed": -1})
    assert "nonsense" in str(caught.value)
    assert "seed" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"), [("quikstart", "did you mean 'quickstart'"), ("none.yaml", "no recipe file 'none.yaml'.*shipped: .*quickstart")]
)
def test_unknown_recipes_are_named(source, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(source)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(RecipeError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


@pytest.mark.parametrize(("text", "words"), [("a: [", "not valid YAML"), ("- a", "a recipe is a mapping"), ("seed: 1", "phases")])
def test_malformed_files_are_refused(tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(tmp_path / "bad.yaml")


def test_aliases_are_copies(tmp_path):
    (tmp_path / "r.yaml").write_text("phases: [&one {algorithm: multitask, steps: 1}, *one]\n")
    recipe = load_recipe(tmp_path / "r.yaml", ["phases.0.steps=5"])
    assert [phase.steps for phase in recipe.phases] == [5, 1]


def test_a_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "quickstart").write_text("phases: [{algorithm: multitask, steps: 77}]")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").phases[0].steps == 77


def test_a_recipe_written_out_reads_back(tmp_path):
    recipe = load_recipe("quickstart", ["outer.learning_rate=1e-5", "run.output_dir=no"])
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(tmp_path / "r.yaml") == recipe


def test_support_may_be_several_numbers():
    one, several = (load_recipe("quickstart", [f"suite.support={each}"]).suite for each in ("8", "[16, 4, 16]"))
    assert (one.support, one.shots, one.most_shots) == (8, (8,), 8)
    assert (several.shots, several.most_shots) == ((4, 16), 16)


@pytest.mark.parametrize(
    ("overrides", "redrawn"),
    [
        ([], Redrawn()),
        (["suite.regime=mixed", "suite.codes=episode", "suite.paraphrase=true"], Redrawn(codes=True, wording=True)),
        (["suite.regime=house_rules", "suite.codes=episode"], Redrawn(codes=True)),
        (["suite.paraphrase=true"], Redrawn(wording=True)),
        (["suite.codes=task"], Redrawn()),
    ],
)
def test_what_training_draws_anew(overrides, redrawn):
    assert load_recipe("quickstart", overrides).suite.redrawn == redrawn


def test_numbers_without_a_dot_are_numbers(tmp_path):
    (tmp_path / "r.yaml").write_text("phases: [{algorithm: multitask, steps: 1}]\nouter: {learning_rate: 3e-4}\n")
    assert load_recipe(tmp_path / "r.yaml").outer.learning_rate == 3e-4


def test_shipped_inner_loop_is_the_last_phase_that_adapts():
    phases = [{"algorithm": "fomaml", "steps": 1, "inner": {"steps": 4}}, {"algorithm": "multitask", "steps": 1}]
    assert parse_recipe({"phases": phases}).inner.steps == 4


def test_every_algorithm_has_its_phase():
    assert set(known_algorithms(Recipe.model_json_schema())) == set(ALGORITHMS)


def test_a_source_says_in_a_recipe_what_readers_take_and_no_less():
    """Two classes, as readers know nothing of recipes: the same names, the same defaults."""
    told, taken = SourceSection(path="a"), SourceSpec("a")
    assert set(SourceSection.model_fields) == {each.name for each in fields(SourceSpec)}
    assert told.spec == taken


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ({"algorithm": "multitask"}, r"phases\.0\.steps: missing"),
        (
            {"algorithm": "multitask", "steps": 1, "flops": 5},
            r"phases\.0\.steps: a phase ends after its steps or after its flops; remove one",
        ),
        ({"algorithm": "multitask", "flops": 1.5}, r"phases\.0\.flops: expected a whole number, got 1\.5"),
        ({"algorithm": "multitask", "flops": 0}, r"phases\.0\.flops: expected a number of at least 1, got 0"),
        (
            {"algorithm": "multitask", "flops": 1, "adaptation": {"steps": 2}},
            r"multitask learns no rates; set adaptation\.learn_rates to false",
        ),
        ({"algorithm": "fomaml", "steps": 1, "learn": "rates", "inner": {"learn_rates": False}}, "set inner.learn_rates to true"),
        ({"algorithm": "fomaml", "steps": 1, "learn": "rates", "inner": {"steps": 0}}, "inner.steps to 1 or more"),
        (
            {"algorithm": "fomaml", "steps": 1, "inner": {"learn_rates": False, "precondition": True}},
            r"phases\.0\.inner\.precondition: only beside learned rates: set learn_rates to true and steps to 1 or more, or drop this",
        ),
        ({"algorithm": "maml", "steps": 1, "inner": {"steps": 0, "precondition": True}}, r"phases\.0\.inner\.precondition: only beside"),
        (
            {"algorithm": "reptile", "steps": 1, "inner": {"learn_rates": False, "precondition": True}},
            r"phases\.0\.inner\.precondition: .*multitask and reptile learn neither",
        ),
        (
            {"algorithm": "multitask", "steps": 1, "adaptation": {"learn_rates": False, "precondition": True}},
            r"phases\.0\.adaptation\.precondition: .*multitask and reptile learn neither",
        ),
        ({"algorithm": "fomaml", "steps": 1, "learn": "nothing"}, r"phases\.0\.learn: expected all or rates"),
        ({"algorithm": "reptile", "steps": 1, "learn": "rates"}, r"phases\.0\.learn: unknown key; this phase's algorithm does not have it"),
    ],
)
def test_what_a_phase_can_be(phase, words):
    with pytest.raises(RecipeError, match=words):
        parse_recipe({"phases": [phase]})


def test_a_phase_of_operations_may_be_written_as_one_does(tmp_path):
    (tmp_path / "r.yaml").write_text("phases: [{algorithm: multitask, flops: 1.5e+15}, {algorithm: fomaml, flops: 2e3}]\n")
    phases = load_recipe(tmp_path / "r.yaml").phases
    assert [(phase.steps, phase.flops) for phase in phases] == [(None, 1_500_000_000_000_000), (None, 2000)]


def test_a_multitask_phase_may_name_the_rule_that_is_shipped():
    named = {"algorithm": "multitask", "steps": 1, "adaptation": {"steps": 5, "learn_rates": False}}
    assert parse_recipe({"phases": [named]}).inner.steps == 5
    assert parse_recipe({"phases": [named, {"algorithm": "fomaml", "steps": 1}]}).inner.steps == 3, (
        "an inner loop that is trained goes before"
    )
    assert parse_recipe({"phases": [named]}).phases[0].loop.steps == 0


def test_a_search_of_a_searchs_trials_there_is_none():
    recipe = parse_recipe({**MINIMAL, "search": {"grid": {"outer.learning_rate": [0.1, 0.2], "phases.0.inner.steps": [1, 2, 3]}}})
    trials = [recipe.trial(number) for number in range(6)]
    assert [(trial.outer.learning_rate, trial.inner.steps) for trial in trials] == [
        (rate, steps) for rate in (0.1, 0.2) for steps in (1, 2, 3)
    ]
    assert all(trial.search is None for trial in trials)
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
