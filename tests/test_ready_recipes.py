"""The recipes for bases that people use fit them: at true size in all that shapes decide, and by one step of each phase on a tiny one."""

import json
from pathlib import Path

import pytest
import torch
from bases import BASES, PROJECTIONS, save_config, save_tiny
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

import headstart
from headstart.model.base import BaseSpec
from headstart.model.flops import pass_cost
from headstart.model.memory import footprint, skeleton
from headstart.model.sites import linear_shape
from headstart.model.targets import matching, peft_targets, suffixes, target_names
from headstart.recipe import load_recipe
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.render import Renderer

ROOT = Path(__file__).parents[1]
RECIPES = {path.stem: path for path in (ROOT / "recipes").rglob("*.yaml")}
RANKS = {8, 16, 32, 64}
"""What servers of adapters hold in one size each."""
SMALL = [
    "base.quantization=none",
    "base.dtype=float32",
    "suite.sources=[{path: builtin, max_examples: 8}]",
    "suite.support=2",
    "suite.query=2",
    "suite.tasks_per_step=2",
]
SMALL += ["phases.0.steps=1", "phases.1.steps=1", "run.eval_tasks=1", "run.report_to=[]", "suite.row_costs=counted"]
CLUSTERS = {
    "task1000_pib_translation_tamil_malayalam": "pib",
    "task001_quoref_question_generation": "quoref",
    "task074_squad1.1_question_generation": "squad",
    "task349_squad2.0_answerable_unanswerable_question_classification": "squad",
    "task105_story_cloze-rocstories_sentence_generation": "story",
    "task177_para-nmt_paraphrasing": "para",
    "task629_dbpedia_14_classification": "dbpedia",
    "task696_mmmlu_answer_generation_elementary_mathematics": "mmmlu",
    "task924_event2mind_word_generation": "event",
    "task1498_24hour_to_12hour_clock": "24hour",
    "task1338_peixian_equity_evaluation_corpus_sentiment_classifier": "peixian",
}
"""Names of Super-NaturalInstructions' tasks, and the datasets that they were made from."""


pytestmark = pytest.mark.usefixtures("one_thread")
every_base = pytest.mark.parametrize("name", BASES)


def recipe_of(name, *overrides):
    return load_recipe(RECIPES[f"super-ni-{name}"], overrides)


@pytest.fixture(scope="session")
def true_spec(tmp_path_factory):
    """Builds the spec of a base of which there is the true configuration alone."""

    def build(name):
        folder = save_config(BASES[name], tmp_path_factory.mktemp(name))
        return BaseSpec(BASES[name].id, str(folder), "nf4", "bfloat16")

    return build


@pytest.fixture(scope="session")
def true_model(true_spec):
    """Builds a base at its true size, without memory."""

    def build(name):
        model = skeleton(true_spec(name))
        model.tie_weights()
        return model

    return build


def test_every_base_has_a_recipe_and_every_recipe_a_base():
    assert {f"super-ni-{name}" for name in BASES} <= RECIPES.keys()
    of_the_hub = [recipe for recipe in map(load_recipe, RECIPES.values()) if recipe.base.source == "hub"]
    assert {recipe.base.id for recipe in of_the_hub} == {base.id for base in BASES.values()}


@every_base
def test_it_says_what_all_of_them_do(name):
    recipe = recipe_of(name)
    assert (recipe.base.id, recipe.base.quantization, recipe.base.dtype) == (BASES[name].id, "nf4", "bfloat16")
    assert recipe.adapter.r in RANKS
    assert recipe.adapter.lora_alpha == 2 * recipe.adapter.r
    assert [phase.algorithm for phase in recipe.phases] == ["multitask", "fomaml"]
    assert recipe.inner.learn_rates
    assert recipe.run.output_dir.name == f"super-ni-{name}"


def test_all_of_them_read_the_same_tasks():
    """Enough of each for adapting and judging, in training and in evaluation."""
    recipes = [recipe_of(name) for name in BASES]
    (source,) = recipes[0].suite.sources
    assert all(recipe.suite.sources == (source,) for recipe in recipes)
    assert (source.path, source.kind, source.streaming) == ("Muennighoff/natural-instructions", "dataset", True)
    for needs in (section for recipe in recipes for section in (recipe.suite, recipe.evaluation)):
        assert source.min_examples >= needs.support + needs.query


@pytest.fixture
def copy_of_the_hubs(tmp_path, monkeypatch):
    """A dataset laid out as the hub's is, a file of rows for each task; the first task is too small, the last larger than is read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "natural-instructions"
    (folder / "train").mkdir(parents=True)
    for name, count in zip(CLUSTERS, [20, *[64] * (len(CLUSTERS) - 2), 250], strict=True):
        about = {"task_name": name, "definition": f"Do {name}."}
        rows = [{**about, "id": f"{name}-{n}", "inputs": f"input {n}", "targets": f"output {n}"} for n in range(count)]
        (folder / "train" / f"{name}_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_hubs_rows_become_tasks_and_their_datasets_clusters(copy_of_the_hubs, tokenizer):
    recipe = recipe_of("smollm2-360m", f"suite.sources.0.path={copy_of_the_hubs}")
    suite, _ = prepare_suite(recipe.suite.specs, "instructed", Renderer(tokenizer, recipe.suite.max_length), needed=40)
    _, *others, large = CLUSTERS
    assert {name: task.cluster for name, task in suite.tasks.items()} == {name: CLUSTERS[name] for name in (*others, large)}
    assert len(suite.tasks[large].examples) == recipe.suite.specs[0].max_examples
    assert suite.tasks[large].instruction == f"Do {large}."
    assert all(example.output == example.input.replace("input", "output") for example in suite.tasks[others[0]].examples)
    assert set(suite.splits) == {"meta_train", "meta_validation", "meta_test"}


@every_base
def test_a_clone_instead_is_one_override(name):
    (source,) = recipe_of(name, "suite.sources=[{path: FOLDER, kind: natural_instructions}]").suite.specs
    assert (source.path, source.kind) == ("FOLDER", "natural_instructions")
    assert "suite.sources='[{path: FOLDER, kind: natural_instructions}]'" in RECIPES[f"super-ni-{name}"].read_text()


@every_base
def test_the_configuration_is_the_bases(true_model, true_spec, name):
    """By the hub's count of its parameters, to the last one; in 4 bit, every one of them is counted once."""
    model = true_model(name)
    assert sum(weight.numel() for weight in model.parameters()) == BASES[name].parameters
    counted = footprint(true_spec(name))
    assert counted.four_bit + counted.dense == BASES[name].parameters


def expected_values(text, r):
    """The adapter's values, from the configuration: r for every input and output of a projection."""
    hidden, inside = text["hidden_size"], text["intermediate_size"]
    size = text.get("head_dim", hidden // text["num_attention_heads"])
    queries, keys = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    layer = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inside)
    return text["num_hidden_layers"] * layer * r


@every_base
def test_targets_are_the_language_models_linear_layers_and_all_of_them(true_model, name):
    model, base, section = true_model(name), BASES[name], recipe_of(name).adapter
    names = target_names(model, section.target_modules, section.layers_to_transform)
    assert suffixes(names) == PROJECTIONS
    assert all(name.startswith(f"{base.decoder}.layers.") for name in names)
    assert len(names) == len(PROJECTIONS) * base.text["num_hidden_layers"]
    modules = [model.get_submodule(name) for name in names]
    assert all(isinstance(module, nn.Linear) for module in modules)
    assert sum(section.r * sum(linear_shape(module)) for module in modules) == expected_values(base.text, section.r)


@every_base
def test_what_is_saved_names_no_other_layers_to_anyone_who_reads_it(true_model, name):
    """Servers read lists, of suffixes where these are enough; all take a name's last part for the kind of layer."""
    model, section = true_model(name), recipe_of(name).adapter
    names = target_names(model, section.target_modules)
    saved, layers = peft_targets(model, names)
    assert layers is None
    assert matching([name for name, _ in model.named_modules()], saved) == names
    assert suffixes(saved) == PROJECTIONS
    assert (saved == PROJECTIONS) == ("vision_config" not in BASES[name].config)


def test_the_documentations_table_is_the_scripts(monkeypatch):
    """In all that is counted; activations are measured, and differ in their last digits elsewhere."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = __import__("recipe_table")
    lines = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines()
    found = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `super-ni-")]
    assert [row[:-2] for row in found] == [script.counted(ready, script.USUAL) for ready in script.ready_recipes()]
    assert len(found) == len(BASES)


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory):
    """Saves a tiny model of a base's architecture."""
    return lambda name: save_tiny(BASES[name], tmp_path_factory.mktemp(f"tiny-{name}"))


@every_base
def test_a_step_of_each_phase_leaves_a_sound_adapter_that_peft_reads(tiny_of, tmp_path, quiet, name):
    """On the same architecture and chat template, made tiny; of the recipe, only sizes and where things come from are changed."""
    folder, out = tiny_of(name), tmp_path / "run"
    recipe = recipe_of(name, *SMALL, f"base.source={folder}", f"base.id=tiny/{name}", f"run.output_dir={out}")
    headstart.meta_train(recipe, quiet)
    said = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["base_model_name_or_path"]) == (recipe.adapter.r, recipe.adapter.lora_alpha, f"tiny/{name}")
    tensors, rates = (load_file(out / "adapter" / file) for file in ("adapter_model.safetensors", "rates.safetensors"))
    assert len(tensors) == len(rates) == 2 * 2 * len(PROJECTIONS)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in tensors.values())
    assert all(rate.shape == (recipe.inner.steps,) and (rate > 0).all() for rate in rates.values())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), out / "adapter")
    read = {key.replace(".default", ""): tensor for key, tensor in model.state_dict().items() if ".lora_" in key}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], tensors[key]) for key in tensors)


@every_base
def test_operations_are_counted_of_what_text_goes_through(true_model, name):
    """A tower for images has layers and products too, which an adapter's passes never compute."""
    model, section = true_model(name), recipe_of(name).adapter
    names, text = target_names(model, section.target_modules), BASES[name].text
    cost = pass_cost(model, names, section.r)
    assert cost.layers == text["num_hidden_layers"]
    assert cost.reached == 1
    assert cost.linear == expected_products(text)


def expected_products(text):
    """Multiply-accumulates of a token in all projections."""
    hidden, inside = text["hidden_size"], text["intermediate_size"]
    size = text.get("head_dim", hidden // text["num_attention_heads"])
    queries, keys = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    return text["num_hidden_layers"] * (2 * hidden * queries + 2 * hidden * keys + 3 * hidden * inside)
