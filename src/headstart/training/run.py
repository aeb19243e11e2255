"""A whole run: from a recipe to an adapter folder, and its equal-compute control."""

import json
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.batches import Batcher
from headstart.files import write_atomically
from headstart.model.base import BaseSpec, load_base, load_tokenizer
from headstart.model.learner import Learner, LoraSpec
from headstart.progress import meter
from headstart.recipe import MultitaskPhase, Phase, Recipe, load_recipe
from headstart.tasks.episodes import evaluation_draw
from headstart.tasks.prepare import leave_out_long, spread
from headstart.tasks.regimes import apply_regime
from headstart.tasks.render import USER_TURN, Renderer
from headstart.tasks.sources import open_suite
from headstart.tasks.task import SuiteError, TaskSuite
from headstart.training.curves import plot_training
from headstart.training.loop import State, Trainer, build_rule
from headstart.training.runtime import Runtime
from headstart.training.validation import Validation


class RunError(ValueError):
    """A run cannot start; the message says why, and how to mend it."""


def meta_train(recipe: Recipe, console: Console | None = None) -> MetaAdapter:
    """Run every phase of a recipe and leave `adapter/`, `phases/`, `metrics.jsonl`, `recipe.yaml` and `curves.png` in its output folder.

    Raises:
        RunError: the output folder already holds a finished run.
        SuiteError, BaseError, TargetError: the suite or the base cannot be used; raised before any training.
    """
    folder = recipe.run.output_dir
    if (folder / "adapter").exists():
        raise RunError(f"{folder} already holds a finished run; set run.output_dir to another folder, or remove this one")
    session = Session.open(recipe, folder, console or Console())
    state = State(session.learner.fresh_adapter(recipe.seed), {})
    done: list[dict[str, Any]] = []
    for number, phase in enumerate(recipe.phases):
        state = session.run_phase(phase, state, done)
        session.save(state, done, f"phases/{number}-{phase.algorithm}")
    return session.finish(state, done)


def train_control(run: Path, console: Console | None = None) -> MetaAdapter:
    """Train the multi-task control of a run, into its folder `control/`.

    It starts where the run's last phase started and spends the same counted operations, in the same layout, on plain
    multi-task training.

    Raises:
        RunError: the run is not finished, or its control is already there.
    """
    if not (run / "adapter" / "headstart.json").exists():
        raise RunError(f"{run} holds no finished run (no adapter/headstart.json); meta-train first")
    if (run / "control" / "adapter").exists():
        raise RunError(f"{run}/control already holds a finished control; remove it to train it again")
    recipe = load_recipe(run / "recipe.yaml")
    phases = MetaAdapter.from_pretrained(run / "adapter").record["phases"]
    session = Session.open(recipe, run / "control", console or Console())
    state = State(session.learner.fresh_adapter(recipe.seed), {}, sum(phase["steps"] for phase in phases[:-1]))
    if len(phases) > 1:
        fork = MetaAdapter.from_pretrained(run / "phases" / f"{len(phases) - 2}-{phases[-2]['algorithm']}")
        state = State(fork.initial(session.learner), {}, state.step)
    done = list(phases[:-1])
    state = session.run_phase(MultitaskPhase(algorithm="multitask", steps=recipe.phases[-1].steps), state, done, flops=phases[-1]["flops"])
    return session.finish(state, done)


@dataclass
class Session:
    """The loaded parts of a run, and its files."""

    recipe: Recipe
    folder: Path
    suite: TaskSuite
    learner: Learner
    batcher: Batcher
    runtime: Runtime
    console: Console
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, recipe: Recipe, folder: Path, console: Console) -> "Session":
        """Load the suite and see that every step can be drawn from it, then load the base."""
        runtime = Runtime(folder, recipe.run.report_to)
        spec = BaseSpec(**recipe.base.model_dump())
        renderer = Renderer(load_tokenizer(spec), recipe.suite.max_length)
        suite, notes = training_suite(recipe, renderer)
        learner = Learner(load_base(spec, runtime.device), LoraSpec(**recipe.adapter.model_dump()))
        batcher = Batcher(renderer, runtime.device, recipe.suite.layout, recipe.suite.task_micro_batch)
        session = cls(recipe, folder, suite, learner, batcher, runtime, console)
        if runtime.is_main:
            write_atomically(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode())
            (folder / "metrics.jsonl").unlink(missing_ok=True)
        counts = ", ".join(f"{len(names)} {split}" for split, names in suite.splits.items())
        session.say(*notes, f"{spec.id} ({spec.quantization}, {spec.dtype}) on {runtime.device}, {runtime.ranks} rank(s); tasks: {counts}")
        return session

    def run_phase(self, phase: Phase, state: State, done: list[dict[str, Any]], flops: int | None = None) -> State:
        """Run one phase, and note in `done` what it took."""
        before, begun, clock = self.learner.flops, state.step, time.monotonic()
        trainer = Trainer(
            self.recipe, self.suite, self.learner, self.batcher, self.runtime, self.validation(), self.log, lambda now: self.save(now, done, "unfinished")
        )
        with meter(phase.algorithm, self.console, phase.steps, quiet=not self.runtime.is_main) as progress:
            state = trainer.run(phase, state, progress, flops)
        spent = {"steps": state.step - begun, "flops": self.learner.flops - before, "seconds": round(time.monotonic() - clock, 1)}
        done.append({"algorithm": phase.algorithm, **spent})
        return state

    def validation(self) -> Validation:
        """Some validation tasks, the same in every look."""
        section, inner = self.recipe.suite, self.recipe.inner
        tasks = spread(self.suite.split("meta_validation"), self.recipe.run.eval_tasks)
        draws = tuple(evaluation_draw(task, draw=0, support=section.support, query=section.query, seed=self.recipe.seed) for task in tasks)
        batches = tuple(self.batcher.batch(piece) for piece in self.batcher.pieces(draws))
        return Validation(batches, build_rule(inner), inner.steps, inner.learning_rate)

    def finish(self, state: State, done: list[dict[str, Any]]) -> MetaAdapter:
        """Save the adapter and the picture of the run."""
        adapter = self.save(state, done, "adapter")
        if self.runtime.is_main:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            plot_training([json.loads(line) for line in lines], self.folder / "curves.png")
            shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
        self.runtime.close()
        self.learner.close()
        self.say(f"saved {self.folder / 'adapter'}")
        return adapter

    def save(self, state: State, done: list[dict[str, Any]], name: str) -> MetaAdapter:
        """Write the state as an adapter folder of that name, whole or not at all."""
        inner = self.recipe.inner
        adapter = MetaAdapter(
            state.theta,
            state.rates,
            self.learner.spec,
            Adaptation(inner.rule, inner.steps, inner.learning_rate, inner.max_norm),
            self.learner.base.spec,
            self.learner.base.fingerprint,
            self.record(done),
        )
        if self.runtime.is_main:
            adapter.save_pretrained(self.folder / name)
        self.runtime.wait()
        return adapter

    def record(self, done: list[dict[str, Any]]) -> dict[str, Any]:
        """How the adapter was made."""
        return {
            "name": self.folder.resolve().name,
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "ranks": self.runtime.ranks,
            "suite": {
                "name": self.suite.name,
                "revision": self.suite.revision,
                "regime": self.recipe.suite.regime,
                "training_tasks": len(self.suite.splits["meta_train"]),
                "splits": {split: list(names) for split, names in self.suite.splits.items()},
            },
            "user_turn": USER_TURN,
            "phases": list(done),
            "cost": {key: sum(phase[key] for phase in done) for key in ("flops", "seconds")},
            "machine": machine(self.runtime.device),
            "versions": {name: version(name) for name in ("headstart", "torch", "transformers", "peft", "bitsandbytes", "accelerate")},
            "commit": commit(),
        }

    def log(self, values: dict[str, float | str], step: int) -> None:
        """Append one line to the metrics file, and send its numbers to the trackers."""
        if self.runtime.is_main:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": step, **values}) + "\n")
        self.runtime.log({name: value for name, value in values.items() if not isinstance(value, str)}, step)

    def say(self, *lines: str) -> None:
        """Print on the first rank."""
        for line in lines if self.runtime.is_main else ():
            self.console.print(line, highlight=False, markup=False)


def training_suite(recipe: Recipe, renderer: Renderer) -> tuple[TaskSuite, list[str]]:
    """The recipe's suite under its regime, without what is too long, and notes on what was left out.

    Raises:
        SuiteError: there are fewer training tasks than a step takes, or no validation tasks.
    """
    section = recipe.suite
    suite = apply_regime(open_suite(section.source), section.regime, recipe.seed)
    suite.split("meta_validation")
    suite, notes = leave_out_long(suite, renderer, section.support + section.query)
    if len(suite.splits["meta_train"]) < section.tasks_per_step:
        raise SuiteError(
            f"suite.tasks_per_step: suite {suite.name} has {len(suite.splits['meta_train'])} training tasks, fewer than {section.tasks_per_step}"
        )
    return suite, notes


def machine(device: torch.device) -> str:
    """The machine in words, for records."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def commit() -> str | None:
    """The commit of the checkout that this code runs from, if it does, with `-dirty` where it was changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
