"""One meta-gradient, reduced over the ranks that a launcher started; the first writes it to a file. Run by test_ranks.py."""

import sys

import torch
from safetensors.torch import save_file

from headstart.batches import Batcher
from headstart.model.base import BaseSpec, load_base
from headstart.model.learner import Learner, LoraSpec
from headstart.recipe import load_recipe
from headstart.tasks.render import Renderer
from headstart.tasks.sources import open_suite
from headstart.training.loop import Trainer
from headstart.training.outer import OuterOptimizer
from headstart.training.runtime import Runtime

recipe = load_recipe(sys.argv[1])
runtime = Runtime(recipe.run.output_dir)
base = load_base(BaseSpec(**recipe.base.model_dump()), runtime.device)
learner = Learner(base, LoraSpec())
batcher = Batcher(Renderer(base.tokenizer), runtime.device)
trainer = Trainer(recipe, open_suite(recipe.suite.source), learner, batcher, runtime, None, None, None, None)
theta = {name: tensor + 0.02 for name, tensor in learner.fresh_adapter().items()}
rates = {name: tensor.new_full((recipe.phases[0].loop.steps,), 0.01) for name, tensor in theta.items()}
gradient = runtime.reduce(trainer.meta_gradient(recipe.phases[0], OuterOptimizer(theta, rates, recipe.outer), rates, step=3, done=0.0))
if runtime.is_main:
    tensors = {f"theta/{name}": tensor for name, tensor in gradient.theta.items()}
    tensors |= {f"log_rates/{name}": tensor for name, tensor in gradient.log_rates.items()}
    tensors |= {f"metrics/{name}": torch.tensor(value) for name, value in gradient.metrics.items()}
    save_file({**tensors, "ranks": torch.tensor(runtime.ranks)}, sys.argv[2])
runtime.close()
