"""Looking at a recipe: its base, its suite, where it writes, and what it will take on this machine."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import psutil
import torch
from huggingface_hub import get_token

from headstart.adapter.hub import HubError, account, holds
from headstart.algorithms.trail import state_bytes
from headstart.bases import BaseSpec, load_tokenizer
from headstart.batches import Batcher
from headstart.checking.estimate import Layers, adapter_shapes, free_memory, lora_of, measure_layers, memory, step_operations
from headstart.checking.findings import Findings
from headstart.checking.suite import Look, look_at_suite
from headstart.errors import HeadstartError
from headstart.files import in_words, require_writable
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.model.memory import footprint, skeleton
from headstart.model.row_costs import counted_costs
from headstart.model.targets import suffixes
from headstart.recipe import MamlPhase, Phase, Recipe
from headstart.tasks.episodes import Episode
from headstart.tasks.planner import Planner
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.problems import Problem
from headstart.tasks.render import Renderer
from headstart.tasks.rows import Layout
from headstart.tasks.samplers import task_weights
from headstart.tasks.task import TaskSuite
from headstart.training.folder import check_folder
from headstart.training.loop import adaptation, episode_of
from headstart.training.run import require_sites

SAMPLED_STEPS = 16
ESTIMATED_STEPS = 4


def look_at_recipe(recipe: Recipe, findings: Findings) -> tuple[TaskSuite, Renderer] | None:
    """Add what is wrong with a recipe, and what it will take, to findings; gives its suite, if that can be used."""
    spec, section = BaseSpec(**recipe.base.model_dump()), recipe.suite
    with findings.noting():
        check_folder(recipe.run.output_dir, resume=True)
        # in the nearest folder that is there, so that nothing is made
        place = next(place for place in recipe.run.output_dir.absolute().parents if place.is_dir())
        require_writable(place / "run")
    base = _base(recipe, spec, findings)
    needed = section.most_shots + section.query
    look_at_suite(Look(section.specs, spec, section.regime, section.max_length, needed, recipe.seed, section.redrawn), findings)
    if base is None or findings.errors:
        return None
    renderer = Renderer(load_tokenizer(spec), section.max_length, spec.chat_template_kwargs)
    suite, _ = prepare_suite(section.specs, section.regime, renderer, needed, recipe.seed, section.redrawn)
    with findings.noting():
        suite.split("meta_validation")
        _phases(recipe, spec, suite, renderer, base, findings)
        return suite, renderer
    return None


def _base(recipe: Recipe, spec: BaseSpec, findings: Findings) -> Any:
    """The base without weights, or None if it cannot be used."""
    if spec.source == "hub":
        _hub(spec, findings)
    with findings.noting():
        model = skeleton(spec)
        shapes = adapter_shapes(recipe, model)
        weights = footprint(spec)
        findings.facts["base"] = {
            "id": spec.id,
            "source": spec.source,
            "quantization": spec.quantization,
            "dtype": spec.dtype,
            "weights_bytes": weights.four_bit_bytes + weights.dense_bytes,
            "weights": str(weights),
        }
        layers = sorted({name.rpartition(".")[0] for name in shapes})
        values = sum(rows * columns for rows, columns in shapes.values())
        findings.facts["adapter"] = {"rank": recipe.adapter.r, "layers": len(layers), "targets": list(suffixes(layers)), "values": values}
        require_sites(recipe, cast(Learner, SimpleNamespace(shapes=lambda: shapes)))
        return model
    return None


def _hub(spec: BaseSpec, findings: Findings) -> None:
    """See that the hub accepts the token, if there is one, and that it has weights which can be loaded; they are not fetched."""
    if get_token() is None:
        findings.add(Problem("no token of the model hub is at hand; what is gated asks for one (`hf auth login`)", level="note"))
    else:
        with findings.noting():
            account()
    # a base that is not there, or a hub that is away, is told where its files are fetched
    with suppress(HubError):
        if not holds(spec.id, ".safetensors", spec.revision):
            findings.add(Problem(f"base.id: {spec.id} holds no .safetensors weights on the hub; headstart loads no other format"))


def _phases(recipe: Recipe, spec: BaseSpec, suite: TaskSuite, renderer: Renderer, model: Any, findings: Findings) -> None:
    """Tokens, memory and time of every phase."""
    layers = None
    with _as_note(findings, "memory and time cannot be estimated"):
        examples = suite.split("meta_train")[0].examples[: recipe.suite.most_shots]
        rendered = renderer.render(suite.split("meta_train")[0].instruction, examples)
        layers = measure_layers(model.config, spec, lora_of(recipe, model), recipe.run.gradient_checkpointing, rendered, together(recipe))
    batcher = _batcher(recipe, spec, renderer, model, layers)
    findings.facts["sampler"] = _sampler(recipe, suite)
    phases = []
    for phase in recipe.phases:
        tokens = _tokens(recipe, phase, suite, renderer, batcher.planner)
        operations = step_operations(recipe, phase, _episodes(recipe, phase, suite, ESTIMATED_STEPS), batcher, model)
        length = {"steps": phase.steps or math.ceil((phase.flops or 0) / operations), "flops": phase.flops}
        phases.append({"algorithm": phase.algorithm, **length, "tokens": tokens, "operations": operations})
        if isinstance(phase, MamlPhase):
            phases[-1]["inner_states"] = _inner_states(recipe, phase, model)
    findings.facts["phases"] = phases
    findings.facts["trials"] = trials = len(recipe.search.trials) if recipe.search else 1
    if trials > 1:
        findings.add(Problem(f"search.grid: {trials} trials, each a whole run of these phases; the time is of all", level="note"))
    if len(recipe.suite.shots) > 1:
        sizes = ", ".join(map(str, recipe.suite.shots))
        told = f"suite.support: tokens, operations and time are means over its sizes ({sizes}), as steps draw each as often"
        findings.add(Problem(f"{told}; memory and examples are counted for the largest", level="note"))
    if layers:
        _memory(recipe, spec, suite, batcher, model, layers, findings)
        _time(layers, findings)


def _batcher(recipe: Recipe, spec: BaseSpec, renderer: Renderer, model: Any, layers: Layers | None) -> Batcher:
    """The run's batcher; where no layers could be measured, of a base that packs rows and has PyTorch's attention over blocks.

    Raises:
        LayoutError: the recipe asks for rows that the base cannot compute.
    """
    section = recipe.suite
    packs = layers is None or layers.packs
    blocks = layers.blocks if layers else model.config.get_text_config()._attn_implementation == "sdpa"
    costs = replace(counted_costs(model), blocks=blocks)
    base = Base(spec, "", model, renderer.tokenizer, packs)
    batcher = Batcher.of(base, renderer, section.layout, section.task_micro_batch, section.max_row_tokens, costs)
    return replace(batcher, device=torch.device("cpu"))


def _memory(recipe: Recipe, spec: BaseSpec, suite: TaskSuite, batcher: Batcher, model: Any, layers: Layers, findings: Findings) -> None:
    episodes = _episodes(recipe, recipe.phases[-1], suite, ESTIMATED_STEPS)
    batches = [batcher.batch(piece) for episode in episodes for piece in batcher.pieces(episode)]
    # torch, transformers and all that they bring are in this process already
    libraries = {} if torch.cuda.is_available() else {"Python and its libraries": psutil.Process().memory_info().rss}
    parts = libraries | memory(recipe, spec, model, batches, layers)
    # and will be gone with it
    total, free = sum(parts.values()), free_memory() + sum(libraries.values())
    findings.facts["memory"] = {"parts": parts, "total": total, "free": free}
    if total > free:
        findings.add(
            Problem(
                f"the run takes about {in_words(total)}, but {in_words(free)} are free here; lower suite.tasks_per_step or "
                "suite.max_row_tokens, set run.gradient_checkpointing or base.quantization: nf4, or take a smaller base",
                level="warning",
            )
        )


def _time(layers: Layers, findings: Findings) -> None:
    for phase in findings.facts["phases"]:
        phase["seconds"] = phase["steps"] * phase["operations"] / layers.speed
    findings.facts["time"] = {
        "seconds": findings.facts["trials"] * sum(phase["seconds"] for phase in findings.facts["phases"]),
        "operations_per_second": layers.speed,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
    }


@contextmanager
def _as_note(findings: Findings, told: str) -> Iterator[None]:
    """What an architecture cannot be measured by becomes a note."""
    try:
        yield
    except (HeadstartError, RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        findings.add(Problem(f"{told}: {error}", level="note"))


def _episodes(recipe: Recipe, phase: Phase, suite: TaskSuite, steps: int) -> list[Episode]:
    """The episodes of some steps, each with every number of support examples that a step may draw, so that their mean is over these."""
    sized = [recipe.model_copy(update={"suite": recipe.suite.model_copy(update={"support": shots})}) for shots in recipe.suite.shots]
    return [episode_of(each, suite, phase, step) for step in range(steps) for each in sized]


def _sampler(recipe: Recipe, suite: TaskSuite) -> dict[str, Any]:
    """The sampler, and how often it draws the likeliest and the least likely task first."""
    tasks = suite.split("meta_train")
    weights = task_weights(suite, tasks, recipe.suite.sampler, recipe.suite.sampler_alpha)
    most, least = int(weights.argmax()), int(weights.argmin())
    likeliest, rarest = ({"task": tasks[index].name, "share": float(weights[index])} for index in (most, least))
    return {"sampler": recipe.suite.sampler, "likeliest": likeliest, "least_likely": rarest}


def _tokens(recipe: Recipe, phase: Phase, suite: TaskSuite, renderer: Renderer, planner: Planner) -> dict[str, float]:
    """Tokens that the base computes in the passes of one episode, in both layouts, as a mean over steps."""
    layouts: tuple[Layout, ...] = ("packed", "padded")
    batchers = {each: Batcher(renderer, torch.device("cpu"), each, recipe.suite.task_micro_batch, planner) for each in layouts}
    totals, episodes = Counter[str](), _episodes(recipe, phase, suite, SAMPLED_STEPS)
    for episode in episodes:
        for layout, batcher in batchers.items():
            totals[layout] += sum(batcher.tokens(piece, phase.loop.steps) for piece in batcher.pieces(episode))
    return {layout: totals[layout] / len(episodes) for layout in layouts}


def together(recipe: Recipe) -> int:
    """How many tasks may be computed together."""
    section = recipe.suite
    return section.tasks_per_step if section.task_micro_batch == "auto" else min(section.tasks_per_step, section.task_micro_batch)


def _inner_states(recipe: Recipe, phase: MamlPhase, model: Any) -> dict[str, Any]:
    """The most bytes of inner states that are held at once, in float32, of as many tasks as may be computed together."""
    rule, shapes, tasks = adaptation(phase.inner), adapter_shapes(recipe, model), together(recipe)
    adapting = {name: shapes[name] for name in rule.adapting(shapes)}
    taken = state_bytes(adapting, tasks, phase.inner.steps, rule.build(), phase.inner_state)
    return {"kept": phase.inner_state, "device": taken.device, "host": taken.host, "tasks": tasks}
