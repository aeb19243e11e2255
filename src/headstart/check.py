"""Looking at a recipe without loading weights: what it will train on, and how much."""

from collections import Counter
from dataclasses import replace

import torch
from rich.console import Console
from rich.text import Text

from headstart.algorithms.trail import state_bytes
from headstart.batches import Batcher
from headstart.model.base import BaseSpec, load_tokenizer
from headstart.model.memory import footprint, skeleton
from headstart.model.row_costs import counted_costs
from headstart.model.sites import linear_shape
from headstart.model.targets import suffixes, target_names
from headstart.progress import say
from headstart.recipe import MamlPhase, Phase, Recipe
from headstart.tasks.episodes import training_episode
from headstart.tasks.planner import Planner
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Layout, common_prefix
from headstart.tasks.task import TaskSuite
from headstart.training.loop import adaptation

SAMPLED_STEPS = 16


def check_recipe(recipe: Recipe, console: Console) -> None:
    """Print the suite, tokens per episode, bytes of inner states, and one rendered example with its trained tokens marked.

    Raises:
        SuiteError, BaseError, TargetError: the suite, the base or its targets cannot be used.
    """
    spec = BaseSpec(**recipe.base.model_dump())
    renderer = Renderer(load_tokenizer(spec), recipe.suite.max_length)
    section = recipe.suite
    suite, notes = prepare_suite(section.specs, section.regime, renderer, section.support + section.query, recipe.seed)
    say(console, f"base {spec.id} from {spec.source}, {spec.quantization}, {spec.dtype}; {footprint(spec)}", _adapter(recipe, spec))
    say(console, f"suite {suite.name} {suite.revision}, regime {section.regime}", *_splits(suite), *notes)
    plain = skeleton(spec)
    # a probe of the weights decides, and has given attention over blocks wherever PyTorch's would have been taken
    costs = replace(counted_costs(plain), blocks=plain.config.get_text_config()._attn_implementation == "sdpa")
    planner = Planner(section.max_row_tokens, costs)
    for number, phase in enumerate(recipe.phases):
        say(console, f"phase {number}, {phase.algorithm}: {phase.steps} steps; {_tokens(recipe, phase, suite, renderer, planner)}")
        if isinstance(phase, MamlPhase):
            say(console, f"  inner states ({phase.inner_state}): {_inner_states(recipe, phase, spec)}")
    task = suite.split("meta_train")[0]
    rendered = renderer.render(task.instruction, task.examples[:2])
    shared = common_prefix(rendered)
    say(console, f"example of {task.name}; {len(rendered[0].ids)} tokens, of which the first {shared} are shared by the task's examples")
    decode = renderer.tokenizer.decode
    text = Text(decode(list(rendered[0].ids[: rendered[0].answer])), style="dim")
    text.append(f"[[{decode(list(rendered[0].ids[rendered[0].answer :]))}]]", style="bold green")
    console.print(text, soft_wrap=True)
    say(console, f"[[...]] is trained: {len(rendered[0].ids) - rendered[0].answer} tokens")


def _adapter(recipe: Recipe, spec: BaseSpec) -> str:
    r, shapes = recipe.adapter.r, _site_shapes(recipe, spec)
    size = sum(r * sum(shape) for shape in shapes.values())
    return f"adapter of rank {r} on {len(shapes)} layers ({', '.join(suffixes(list(shapes)))}), {size / 1e6:.2f} million values"


def _site_shapes(recipe: Recipe, spec: BaseSpec) -> dict[str, tuple[int, int]]:
    """Every adapted layer's name -> `(d_in, d_out)`."""
    section, model = recipe.adapter, skeleton(spec)
    names = target_names(model, section.target_modules, section.layers_to_transform)
    return {name: linear_shape(model.get_submodule(name)) for name in names}


def _inner_states(recipe: Recipe, phase: MamlPhase, spec: BaseSpec) -> str:
    """The most bytes of inner states that are held at once, in float32, of as many tasks as may be computed together."""
    section, rule, r = recipe.suite, adaptation(phase.inner), recipe.adapter.r
    tasks = section.tasks_per_step if section.task_micro_batch == "auto" else min(section.tasks_per_step, section.task_micro_batch)
    shapes: dict[str, tuple[int, int]] = {}
    for name, (d_in, d_out) in _site_shapes(recipe, spec).items():
        shapes |= {f"{name}.lora_A": (r, d_in), f"{name}.lora_B": (d_out, r)}
    adapting = {name: shapes[name] for name in rule.adapting(shapes)}
    taken = state_bytes(adapting, tasks, phase.inner.steps, rule.build(), phase.inner_state)
    away = f" and {taken.host / 1e6:.1f} MB in the host's memory" if taken.host else ""
    return f"up to {taken.device / 1e6:.1f} MB on the device{away}, {tasks} tasks computed together"


def _splits(suite: TaskSuite) -> list[str]:
    return [
        f"  {split}: {len(suite.split(split))} tasks in {len(Counter(t.cluster for t in suite.split(split)))} clusters"
        for split in suite.splits
    ]


def _tokens(recipe: Recipe, phase: Phase, suite: TaskSuite, renderer: Renderer, planner: Planner) -> str:
    """Tokens that the base computes in the passes of one episode, in both layouts, as a mean over steps."""
    layouts: tuple[Layout, ...] = ("packed", "padded")
    batchers = {each: Batcher(renderer, torch.device("cpu"), each, recipe.suite.task_micro_batch, planner) for each in layouts}
    totals: Counter[str] = Counter()
    for step in range(SAMPLED_STEPS):
        episode = training_episode(
            suite,
            seed=recipe.seed,
            step=step,
            tasks=recipe.suite.tasks_per_step,
            support=recipe.suite.support,
            query=recipe.suite.query,
            minibatches=phase.minibatches,
        )
        for layout, batcher in batchers.items():
            totals[layout] += sum(batcher.tokens(piece, phase.loop.steps) for piece in batcher.pieces(episode))
    packed, padded = (totals[layout] / SAMPLED_STEPS for layout in layouts)
    return f"{packed:.0f} tokens an episode packed, {padded:.0f} padded ({padded / packed:.1f} times), mean of {SAMPLED_STEPS} steps"
