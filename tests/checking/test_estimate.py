"""Estimates against what they estimate: counted operations, and bytes that autograd holds."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ARCHITECTURES
from transformers import AutoConfig, LlamaConfig

from headstart.algorithms.rules import Adam
from headstart.algorithms.trail import state_bytes
from headstart.batches import Batcher
from headstart.checking.estimate import Layers, few_layers, lora_of, measure_layers, memory, step_operations
from headstart.model.base import load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.model.memory import footprint, skeleton
from headstart.model.row_costs import counted_costs
from headstart.model.saved import SavedBytes
from headstart.model.sketch import sketched
from headstart.tasks.episodes import training_episode
from headstart.tasks.planner import Planner
from headstart.tasks.render import Renderer
from headstart.tasks.rows import build_rows
from headstart.training.loop import Trainer, starting_rates
from headstart.training.outer import OuterOptimizer
from headstart.training.state import State

STEPS = 3
INNER = {"steps": 2, "learning_rate": 0.01}
MAML = {"algorithm": "maml", "steps": STEPS}
PHASES = {
    "multitask": {"algorithm": "multitask", "steps": STEPS},
    "reptile": {"algorithm": "reptile", "steps": STEPS, "inner": {**INNER, "learn_rates": False}},
    "fomaml": {"algorithm": "fomaml", "steps": STEPS, "inner": INNER},
    "fomaml, its rates alone": {"algorithm": "fomaml", "steps": STEPS, "inner": INNER, "learn": "rates"},
    "fomaml, adapted on one site of every layer": {
        "algorithm": "fomaml",
        "steps": STEPS,
        "inner": {**INNER, "target_modules": ["q_proj"]},
    },
    "fomaml, with preconditioners": {"algorithm": "fomaml", "steps": STEPS, "inner": {**INNER, "precondition": True}},
    "fomaml, with its losses after every step": {"algorithm": "fomaml", "steps": STEPS, "inner": INNER, "multi_step_loss": 0.5},
    "maml": {**MAML, "inner": {**INNER, "rule": "sgd"}},
    "maml by finite differences": {**MAML, "inner": {**INNER, "rule": "sgd"}, "hvp": "finite_difference"},
    "maml through adam, steps taken again": {
        **MAML,
        "inner": {"steps": 5, "eps_root": 1e-4},
        "inner_state": "recompute",
        "multi_step_loss": 1.0,
    },
}
TARGETS = {"mixtral": ["q_proj", "v_proj"]}
"""Experts are no linear layers, so that `all-linear` is refused."""
UPPER_LAYER = {"algorithm": "fomaml", "steps": STEPS, "inner": {**INNER, "target_modules": r"model\.layers\.1\..*"}}


class Both:
    """Real steps of a recipe's phase, and the same steps on paper."""

    def __init__(self, recipe, suite, base):
        self.recipe, self.phase, self.suite = recipe, recipe.phases[0], suite
        self.model = skeleton(base.spec)
        section = recipe.suite
        planner = Planner(section.max_row_tokens, counted_costs(base.model))
        layout = "packed" if base.packs and section.layout != "padded" else "padded"
        self.batcher = Batcher(Renderer(base.tokenizer), torch.device("cpu"), layout, section.task_micro_batch, planner)
        self.base = base

    def real(self):
        """Counted while they are computed."""
        recipe, runtime = self.recipe, SimpleNamespace(rank=0)
        lora = LoraSpec(recipe.adapter.r, recipe.adapter.lora_alpha, recipe.adapter.target_modules, recipe.adapter.layers_to_transform)
        with Learner(self.base, lora, recipe.run.gradient_checkpointing) as learner:
            trainer = Trainer(recipe, self.suite, learner, self.batcher, runtime, None, None, None, None)
            theta = {name: tensor + 0.02 for name, tensor in learner.fresh_adapter().items()}
            rates = starting_rates(self.phase.loop, State(theta, {}))
            for step in range(STEPS):
                trainer.meta_gradient(self.phase, OuterOptimizer(theta, rates, recipe.outer), rates, step, (step + 0.5) / STEPS)
            return learner.flops / STEPS

    def on_paper(self):
        """Counted without weights."""
        section = self.recipe.suite
        sizes = {"tasks": section.tasks_per_step, "support": section.support, "query": section.query}
        episodes = [training_episode(self.suite, seed=0, step=step, minibatches=self.phase.minibatches, **sizes) for step in range(STEPS)]
        return step_operations(self.recipe, self.phase, episodes, self.batcher, self.model)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("phase", PHASES)
def test_operations_on_paper_are_those_of_real_steps(phase, layout, checkpointing, tiny_recipe, toy_suite, dense_base):
    recipe = tiny_recipe(PHASES[phase], suite={"layout": layout, "max_row_tokens": 300}, run={"gradient_checkpointing": checkpointing})
    both = Both(recipe, toy_suite, dense_base)
    assert both.on_paper() == both.real() > 0


@pytest.mark.parametrize("layers", [None, [1]], ids=["all layers", "the upper layer"])
def test_operations_follow_the_sites(layers, tiny_recipe, toy_suite, dense_base):
    both = Both(tiny_recipe(PHASES["fomaml"], adapter={"r": 4, "layers_to_transform": layers}), toy_suite, dense_base)
    paper, real = both.on_paper(), both.real()
    # where only the upper layer is adapted, the lower one's outputs are taken over, which paper does not know of
    assert paper == real if layers is None else paper > real > 0.5 * paper


def test_taking_over_frozen_layers_makes_real_steps_cheaper_than_on_paper(tiny_recipe, toy_suite, dense_base):
    both = Both(tiny_recipe(UPPER_LAYER), toy_suite, dense_base)
    everywhere = Both(tiny_recipe(PHASES["fomaml"]), toy_suite, dense_base)
    assert both.real() < both.on_paper() < everywhere.on_paper()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_operations_of_every_architecture(name, tiny_recipe, toy_suite, architecture, architecture_folder):
    base = architecture(name)
    adapter = {"target_modules": TARGETS.get(name, "all-linear")}
    recipe = tiny_recipe(PHASES["fomaml"], base={"id": f"test/{name}", "source": str(architecture_folder(name))}, adapter=adapter)
    both = Both(recipe, toy_suite, base)
    assert both.on_paper() == both.real()


def few_examples(toy_suite, tokenizer, count=6):
    task = toy_suite.tasks["upper"]
    return Renderer(tokenizer).render(task.instruction, task.examples[:count])


def gradient_bytes(config, lora, checkpointing, examples):
    """What autograd holds for a gradient with all of a model's layers."""
    base = sketched(config, torch.device("cpu"), "none", "float32")
    rows = build_rows([[[one] for one in examples]])
    with Learner(base, lora, checkpointing) as learner:
        phi = {name: tensor[None].requires_grad_() for name, tensor in learner.fresh_adapter().items()}
        with SavedBytes([*base.model.parameters(), *base.model.buffers(), *phi.values()]) as saved:
            torch.autograd.grad(learner.losses(phi, rows).sum(), list(phi.values()))
    return rows.tokens, saved.peak


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_activations_of_six_layers_from_one_and_two(checkpointing, toy_suite, tokenizer, tiny_spec):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    config, lora = LlamaConfig(num_hidden_layers=6, max_position_embeddings=2048, **sizes), LoraSpec()
    examples = few_examples(toy_suite, tokenizer, 3)
    layers = measure_layers(config, tiny_spec(), lora, checkpointing, examples)
    tokens, peak = gradient_bytes(config, lora, checkpointing, examples)
    assert layers.activations(tokens, 6) == pytest.approx(peak, rel=0.2)
    assert layers.speed > 0


def test_checkpointing_keeps_less(toy_suite, tokenizer, tiny_spec, dense_base):
    config, examples = dense_base.model.config, few_examples(toy_suite, tokenizer)
    kept, again = (measure_layers(config, tiny_spec(), LoraSpec(), each, examples).activations(1000, 30) for each in (False, True))
    assert again < 0.3 * kept


def test_activations_grow_by_what_a_layer_adds():
    layers = Layers((10.0, 14.0), 1.0, True, True)
    assert [layers.activations(100, count) for count in (1, 2, 5)] == [1000, 1400, 2600]


def test_fewer_layers_of_a_configuration():
    config = AutoConfig.for_model("qwen3", **{**ARCHITECTURES["qwen3"], "num_hidden_layers": 8, "bos_token_id": 90_000})
    few = few_layers(config, 2)
    assert (few.num_hidden_layers, len(few.layer_types), few.vocab_size, few.bos_token_id) == (2, 2, 512, None)
    assert config.num_hidden_layers == 8


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_of_every_architecture_are_measured(name, architecture, toy_suite, tokenizer):
    """And are found to pack, and to attend over blocks, where the loaded base does."""
    base = architecture(name)
    lora = LoraSpec(target_modules=tuple(TARGETS[name])) if name in TARGETS else LoraSpec()
    layers = measure_layers(base.model.config, base.spec, lora, False, few_examples(toy_suite, tokenizer))
    assert (layers.packs, layers.blocks) == (base.packs, counted_costs(base.model).blocks)
    assert layers.speed > 0
    assert layers.activations(100, 2) > layers.activations(100, 1) > 0


def parts(recipe, suite, base, layers):
    batcher = Batcher(Renderer(base.tokenizer), torch.device("cpu"))
    sizes = {"tasks": recipe.suite.tasks_per_step, "support": recipe.suite.support, "query": recipe.suite.query}
    batch = batcher.batch(training_episode(suite, seed=0, step=0, **sizes))
    return batch, memory(recipe, base.spec, skeleton(base.spec), [batch], layers)


def test_memory_by_hand(tiny_recipe, toy_suite, tiny_spec):
    """Rank 8 on q, k, v, o (64 to 64, 32, 32, 64) and gate, up, down (64 to 128, 128, and back) in two layers."""
    base, recipe = load_base(tiny_spec("nf4"), "cpu"), tiny_recipe(PHASES["fomaml"], base={"quantization": "nf4"})
    batch, found = parts(recipe, toy_suite, base, Layers((1000.0, 1500.0), 1.0, True, True))
    values = 2 * 8 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64) + (64 + 128) + (64 + 128) + (128 + 64))
    weights = footprint(base.spec)
    held = sum(tensor.untyped_storage().nbytes() for tensor in base.model.parameters())
    rows = [*batch.support, batch.query]
    assert found["weights"] == weights.four_bit_bytes + weights.dense_bytes >= held
    assert found["adapter, gradient and AdamW's moments"] == 4 * 4 * values
    assert found["tasks' adapters"] == state_bytes(shapes_of(base), 3, 2, Adam(), "keep").device
    assert found["activations"] == max(each.tokens for each in rows) * 1500
    assert found["logits"] == 2 * max(len(each.targets) for each in rows) * 258 * 4
    averaged = tiny_recipe(PHASES["fomaml"], base={"quantization": "nf4"}, outer={"ema_decay": 0.9})
    own = memory(averaged, base.spec, skeleton(base.spec), [batch], Layers((1000.0, 1500.0), 1.0, True, True))
    assert own["adapter, gradient and AdamW's moments"] == 5 * 4 * values


def shapes_of(base):
    with Learner(base, LoraSpec()) as learner:
        return learner.shapes()


def test_layers_below_the_first_adapted_one_keep_nothing(tiny_recipe, toy_suite, dense_base):
    layers = Layers((1000.0, 1500.0), 1.0, True, True)
    batch, found = parts(tiny_recipe(adapter={"layers_to_transform": [1]}), toy_suite, dense_base, layers)
    assert found["activations"] == batch.query.tokens * 1000


def test_adapted_layers_are_named_by_their_ends(tiny_recipe, dense_base):
    recipe = tiny_recipe(adapter={"r": 4, "lora_alpha": 12, "target_modules": r"model\.layers\.1\.self_attn\.(q|v)_proj"})
    assert lora_of(recipe, dense_base.model) == LoraSpec(4, 12, ("q_proj", "v_proj"))
