"""What a faulty recipe is told: the place, what stands there, what to write."""

import pytest

from headstart.recipe import Recipe, RecipeError, parse_recipe
from headstart.recipe_errors import NOT_SUPPORTED, OTHER_NAMES, VALUES, known_algorithms, known_paths

SCHEMA = Recipe.model_json_schema()
PATHS = known_paths(SCHEMA)
FOMAML = {"algorithm": "fomaml", "steps": 2}
FOREIGN = {name: path for path, names in OTHER_NAMES.items() for name in names.split()}


def said(**sections):
    """The faults of a recipe that is right but for these sections."""
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"phases": [FOMAML], **sections}, "here")
    first, *lines = str(caught.value).splitlines()
    assert first == "here:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"adapter": {"r": True}}, "adapter.r: expected a whole number, got true"),
        ({"adapter": {"r": 8.0}}, "adapter.r: expected a whole number, got 8.0"),
        ({"adapter": {"r": "8"}}, "adapter.r: expected a whole number, got the text '8'; write it without quotes: 8"),
        ({"adapter": {"r": 0}}, "adapter.r: expected a number of at least 1, got 0"),
        ({"adapter": {"r": None}}, "adapter.r: expected a whole number, got nothing (null)"),
        (
            {"outer": {"learning_rate": "3e-4"}},
            "outer.learning_rate: expected a number, got the text '3e-4'; write it without quotes: 3e-4",
        ),
        ({"outer": {"learning_rate": "fast"}}, "outer.learning_rate: expected a number, got the text 'fast'"),
        ({"outer": {"learning_rate": -1}}, "outer.learning_rate: expected a number greater than 0, got -1"),
        ({"outer": {"learning_rate": float("inf")}}, "outer.learning_rate: expected a finite number, got .inf"),
        ({"outer": {"learning_rate": float("nan")}}, "outer.learning_rate: expected a finite number, got .nan"),
        ({"outer": {"weight_decay": False}}, "outer.weight_decay: expected a number, got false"),
        ({"outer": {"proximal": -1}}, "outer.proximal: expected a number of at least 0, got -1"),
        ({"outer": {"ema_decay": 1.0}}, "outer.ema_decay: expected a number less than 1, got 1.0"),
        (
            {"outer": {"lr_scheduler_type": "constant_with_warmups"}},
            "outer.lr_scheduler_type: expected cosine, linear or constant_with_warmup, got the text 'constant_with_warmups'; "
            "did you mean constant_with_warmup?",
        ),
        ({"phases": [{**FOMAML, "learning_rate": 0}]}, "phases.0.learning_rate: expected a number greater than 0, got 0"),
        (
            {"phases": [{**FOMAML, "learn": "rates", "learning_rate": 0.1}]},
            "phases.0: learn: rates leaves the initialisation, whose learning_rate this is; remove it: the rates go by "
            "outer.rates_learning_rate",
        ),
        (
            {"phases": [{**FOMAML, "learning_rate": 0.1}], "outer": {"proximal": 20.0, "learning_rate": 0.01}},
            "outer.proximal: 20 times the learning rate 0.1 is more than 1, so that a step would end past where its phase began; "
            "lower it to 10 or less",
        ),
        ({"run": {"control": "no"}}, "run.control: expected true or false, got the text 'no'; write false, without quotes"),
        ({"run": {"control": 1}}, "run.control: expected true or false, got 1"),
        ({"run": {"output_dir": 7}}, "run.output_dir: expected text, got 7; write it in quotes: '7'"),
        (
            {"run": {"report_to": "tensorboard"}},
            "run.report_to: expected a list, got the text 'tensorboard'; write it as a list: [tensorboard]",
        ),
        ({"base": {"quantization": "int8"}}, "base.quantization: expected none or nf4, got the text 'int8'"),
        ({"suite": {"task_micro_batch": "many"}}, "suite.task_micro_batch: expected a whole number or auto, got the text 'many'"),
        ({"adapter": {"target_modules": 3}}, "adapter.target_modules: expected text or a list, got 3"),
        ({"adapter": {"target_modules": ["a", 1]}}, "adapter.target_modules.1: expected text, got 1; write it in quotes: '1'"),
        ({"evaluation": {"steps": [0, 2.5]}}, "evaluation.steps.1: expected a whole number, got 2.5"),
        ({"seed": 2**63}, f"seed: expected a number less than {2**63:g}, got {2**63}"),
        ({"phases": []}, "phases: an empty list; write at least one item"),
        ({"phases": {"a": 1}}, "phases: expected a list, got a mapping of keys"),
        ({"phases": [{"algorithm": "fomaml"}]}, "phases.0.steps: missing; it has no default"),
        ({"phases": [FOMAML, 3]}, "phases.1: expected a mapping of keys, got 3"),
    ],
)
def test_wrong_values_are_never_made_to_fit(sections, line):
    assert said(**sections) == [line]


def test_a_section_names_its_keys():
    (line,) = said(adapter="qlora")
    assert line.startswith("adapter: expected a section of keys (r, lora_alpha, target_modules")
    assert line.endswith("got the text 'qlora'")


def test_algorithms_are_listed_and_the_nearest_is_named():
    there = ", ".join(known_algorithms(SCHEMA))
    assert said(phases=[{"steps": 1}]) == [f"phases.0.algorithm: missing; write one of {there}"]
    assert said(phases=[{"algorithm": "FOMML", "steps": 1}]) == [
        f"phases.0.algorithm: unknown algorithm 'FOMML'; did you mean fomaml?; there are {there}"
    ]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"suite": {"suport": 3}}, "suite.suport: unknown key; did you mean suite.support?"),
        ({"adaptor": {}}, "adaptor: unknown key; did you mean adapter?"),
        ({"lora_alpha": 8}, "lora_alpha: unknown key; it belongs to adapter.lora_alpha"),
        ({"lora_r": 8}, "lora_r: unknown key; here it is adapter.r"),
        ({"adapter": {"lora_rank": 8}}, "adapter.lora_rank: unknown key; here it is adapter.r"),
        ({"load-in-4bit": True}, "load-in-4bit: unknown key; here it is base.quantization: nf4"),
        ({"adapter": {"lora_dropout": 0.1}}, "adapter.lora_dropout: unknown key; not supported: an adapter has no dropout"),
        ({"phases": [FOMAML, {**FOMAML, "max_steps": 3}]}, "phases.1.max_steps: unknown key; here it is phases.1.steps"),
        ({"inner_lr": 1}, "inner_lr: unknown key; here it is phases.N.inner.learning_rate"),
        ({"phases": [{**FOMAML, "inner": {"stepz": 1}}]}, "phases.0.inner.stepz: unknown key; did you mean phases.0.inner.steps?"),
        (
            {"phases": [{**FOMAML, "inner": {"lerning_rate": 1}}]},
            "phases.0.inner.lerning_rate: unknown key; did you mean phases.0.inner.learning_rate?",
        ),
        ({"phases": [{**FOMAML, "lerning_rate": 1}]}, "phases.0.lerning_rate: unknown key; did you mean phases.0.learning_rate?"),
        ({"phases": [{**FOMAML, "inner_lr": 1}]}, "phases.0.inner_lr: unknown key; here it is phases.0.inner.learning_rate"),
        ({"outer": {"lr_scheduler": "linear"}}, "outer.lr_scheduler: unknown key; here it is outer.lr_scheduler_type"),
        ({"use_ema": True}, "use_ema: unknown key; here it is outer.ema_decay (a number below 1, 0 for none)"),
        (
            {"phases": [{**FOMAML, "algorithm": "multitask", "inner": {}}]},
            "phases.0.inner: unknown key; this phase's algorithm does not have it",
        ),
        ({"zzz": 1}, "zzz: unknown key"),
    ],
)
def test_unknown_keys_are_told_where_to_go(sections, line):
    (found,) = said(**sections)
    assert found.startswith(line)


@pytest.mark.parametrize("name", FOREIGN)
def test_other_tools_names_lead_to_ours(name):
    """At the top, where Axolotl and LLaMA-Factory have all their keys."""
    (line,) = said(**{name: 1})
    assert FOREIGN[name] in line


@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_what_is_not_supported_is_said(name):
    (line,) = said(**{name: 1})
    assert "not supported: " in line


def test_the_tables_lead_to_keys_that_there_are_and_hide_none():
    own = {path.rpartition(".")[2] for path in PATHS}
    assert set(OTHER_NAMES) <= set(PATHS)
    assert {value.partition(":")[0].partition(" ")[0] for value in VALUES.values()} <= set(PATHS)
    assert not own & {*FOREIGN, *VALUES, *NOT_SUPPORTED}, "a key of our own needs no translation"
    assert not set(FOREIGN) & set(NOT_SUPPORTED)
    assert len(FOREIGN) == sum(len(names.split()) for names in OTHER_NAMES.values()), "one name, two meanings"


def test_every_fault_is_named_at_once():
    lines = said(nonsense=1, seed=-1, adapter={"r": "8"}, phases=[{"algorithm": "fomaml", "inner": {"steps": -1}}, {"algorithm": "x"}])
    assert [line.partition(":")[0] for line in lines] == [
        "seed", "adapter.r", "phases.0.steps", "phases.0.inner.steps", "phases.1.algorithm", "nonsense"
    ]  # fmt: skip


def test_what_python_gives_for_a_path_or_a_list_is_taken(tmp_path):
    recipe = parse_recipe({"phases": (FOMAML,), "run": {"output_dir": tmp_path}})
    assert recipe.run.output_dir == tmp_path
