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
from headstart.training.loop import Trainer, adaptation
from headstart.training.outer import OuterOptimizer

STEPS = 3
INNER = {"steps": 2, "learning_rate": 0.01}
MAML = {"algorithm": "maml", "steps": STEPS}
PHASES = {
    "multitask": {"algorithm": "multitask", "steps": STEPS},
    "reptile": {"algorithm": "reptile", "steps": STEPS, "inner": {**INNER, "learn_rates": False}},
    "fomaml": {"algorithm": "fomaml", "steps": STEPS, "inner": INNER},
    "fomaml, adapted on one site of every layer": {
        "algorithm": "fomaml",
        "steps": STEPS,
        "inner": {**INNER, "target_modules": ["q_proj"]},
    },
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
            rates = adaptation(self.phase.loop).constant_rates(theta)
            for step in range(STEPS):
                trainer.meta_gradient(self.phase, OuterOptimizer(theta, rates, recipe.outer), rates, step, (step + 0.5) / STEPS)
            return learner.flops / STEPS

    def on_paper(self):
        """Counted without weights."""
        section = self.recipe.suite
        sizes = {"tasks": section.tasks_per_step, "support": section.support, "query": section.query}
        episodes = [
            training_episode(self.suite, seed=0, step=step, minibatches=self.phase.minibatches, **sizes) for step in range(STEPS)
        ]
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


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES])
def test_operations_of_every_architecture(name, tiny_recipe, toy_suite, architecture, architecture_folder):
    base = architecture(name)
    recipe = tiny_recipe(PHASES["fomaml"], base={"id": f"test/{name}", "source": str(architecture_folder(name))})
    both = Both(recipe, toy_suite, base)
    assert both.on_paper() == both.real()
