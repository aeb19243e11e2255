"""A whole run: from a recipe to an adapter folder, and to its equal-compute control."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.batches import Batcher
from headstart.errors import HeadstartError
from headstart.files import write_atomically
from headstart.model.base import BaseSpec, load_base, load_tokenizer
from headstart.model.learner import Learner, LoraSpec
from headstart.model.targets import TargetError
from headstart.progress import meter, say
from headstart.provenance import provenance
from headstart.recipe import MultitaskPhase, Phase, Recipe
from headstart.tasks.episodes import evaluation_draw, training_episode
from headstart.tasks.prepare import prepare_suite, spread
from headstart.tasks.render import USER_TURN, Renderer
from headstart.tasks.task import TaskSuite
from headstart.training.curves import plot_training
from headstart.training.loop import Spent, State, Trainer, adaptation
from headstart.training.runtime import Runtime
from headstart.training.validation import Validation


class RunError(HeadstartError):
    """A run cannot start; the message says why, and how to mend it."""


def meta_train(recipe: Recipe, console: Console | None = None) -> MetaAdapter:
    """Run every phase of a recipe, then, if it says so, the control.

    Leaves `adapter/`, `phases/`, `metrics.jsonl`, `recipe.yaml`, `curves.png` and `control/adapter/` in its output folder.

    Raises:
        RunError: the output folder already holds a finished run.
        SuiteError, BaseError, TargetError: the suite or the base cannot be used; raised before any training.
        FloatingPointError: training diverged; the phases done and the last periodic save are kept.
    """
    folder = recipe.run.output_dir
    if (folder / "adapter").exists():
        raise RunError(f"{folder} already holds a finished run; set run.output_dir to another folder, or remove this one")
    session = Session.open(recipe, folder, console or Console())
    state = fork = State(session.learner.fresh_adapter(recipe.seed), {})
    for number, phase in enumerate(recipe.phases):
        fork = state
        state = session.run_phase(phase, state)
        session.save(state, f"phases/{number}-{phase.algorithm}")
    session.draw()
    if recipe.run.control:
        session.train_control(fork, state)
    # last, so that a folder with an adapter is a finished run
    adapter = session.save(state, "adapter")
    session.close()
    return adapter


@dataclass(frozen=True)
class Session:
    """The loaded parts of a run, and its files; `label` goes before the names that the control logs under."""

    recipe: Recipe
    folder: Path
    suite: TaskSuite
    learner: Learner
    batcher: Batcher
    runtime: Runtime
    console: Console
    label: str = ""

    @classmethod
    def open(cls, recipe: Recipe, folder: Path, console: Console) -> "Session":
        """Load the suite and see that every step can be drawn from it, then load the base."""
        runtime = Runtime(folder, recipe.run.report_to)
        spec = BaseSpec(**recipe.base.model_dump())
        renderer = Renderer(load_tokenizer(spec), recipe.suite.max_length)
        section = recipe.suite
        suite, notes = prepare_suite(section.source, section.regime, renderer, section.support + section.query, recipe.seed)
        suite.split("meta_validation")
        # drawn for its errors, before the base is loaded
        shape = {"tasks": section.tasks_per_step, "support": section.support, "query": section.query}
        training_episode(suite, seed=recipe.seed, step=0, rank=runtime.ranks - 1, **shape)
        base = load_base(spec, runtime.device)
        batcher = Batcher.of(base, renderer, recipe.suite.layout, recipe.suite.task_micro_batch)
        learner = Learner(base, LoraSpec(**recipe.adapter.model_dump()), recipe.run.gradient_checkpointing)
        require_sites(recipe, learner)
        session = cls(recipe, folder, suite, learner, batcher, runtime, console)
        if runtime.is_main:
            write_atomically(folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode())
            for stale in (folder / "metrics.jsonl", folder / "control" / "metrics.jsonl"):
                stale.unlink(missing_ok=True)
        counts = ", ".join(f"{len(names)} {split}" for split, names in suite.splits.items())
        kind = f"{spec.quantization}, {spec.dtype}"
        session.say(*notes, f"{spec.id} ({kind}) on {runtime.device}, {runtime.ranks} rank(s); {batcher.layout} rows; tasks: {counts}")
        if recipe.suite.layout == "auto" and not base.packs:
            session.say("rows are padded, since examples that share a row are not independent in this architecture")
        return session

    def run_phase(self, phase: Phase, state: State, flops: int | None = None) -> State:
        """Run one phase, for its steps or until it has spent `flops`, and note in the state what it took."""
        before, clock = self.learner.flops, time.monotonic()
        trainer = Trainer(
            recipe=self.recipe,
            suite=self.suite,
            learner=self.learner,
            batcher=self.batcher,
            runtime=self.runtime,
            validate=self.validation(),
            log=self.log,
            save=self.save_unfinished,
        )
        with meter(f"{self.label}{phase.algorithm}", self.console, phase.steps, quiet=not self.runtime.is_main) as progress:
            after = trainer.run(phase, state, progress, flops)
        spent = Spent(phase.algorithm, after.step - state.step, self.learner.flops - before, round(time.monotonic() - clock, 1))
        return replace(after, spent=(*state.spent, spent))

    def train_control(self, fork: State, finished: State) -> None:
        """Train on from where the last phase started, plain multi-task, for as many counted operations as that phase took.

        The same layout and suite; it writes into the folder `control/`.
        """
        session = replace(self, folder=self.folder / "control", label="control/")
        phase = MultitaskPhase(algorithm="multitask", steps=finished.spent[-1].steps)
        session.save(session.run_phase(phase, fork, finished.spent[-1].flops), "adapter")

    def validation(self) -> Validation:
        """Some validation tasks, the same in every look."""
        section = self.recipe.suite
        tasks = spread(self.suite.split("meta_validation"), self.recipe.run.eval_tasks)
        seed = self.recipe.seed
        draws = tuple(evaluation_draw(task, draw=0, support=section.support, query=section.query, seed=seed) for task in tasks)
        batches = tuple(self.batcher.batch(piece) for piece in self.batcher.pieces(draws))
        return Validation(batches, adaptation(self.recipe.inner))

    def draw(self) -> None:
        """Draw the curves of the run so far."""
        if self.runtime.is_main:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            plot_training([json.loads(line) for line in lines], self.folder / "curves.png")

    def close(self) -> None:
        """Clear up: the trackers, the periodic saves, the base's plain layers."""
        if self.runtime.is_main:
            shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
            shutil.rmtree(self.folder / "control" / "unfinished", ignore_errors=True)
        self.runtime.close()
        self.learner.close()
        self.say(f"saved {self.folder / 'adapter'}")

    def save_unfinished(self, state: State) -> None:
        """Keep the state in the middle of a phase, over the one kept before."""
        self.save(state, "unfinished")

    def save(self, state: State, name: str) -> MetaAdapter:
        """Write the state as an adapter folder of that name, whole or not at all."""
        adapter = MetaAdapter(
            state.theta,
            state.rates,
            self.learner.spec,
            adaptation(self.recipe.inner),
            self.learner.base.spec,
            self.learner.base.fingerprint,
            self.record(state.spent),
        )
        if self.runtime.is_main:
            adapter.save_pretrained(self.folder / name)
        self.runtime.wait()
        return adapter

    def record(self, spent: Sequence[Spent]) -> dict[str, Any]:
        """How the adapter was made."""
        return {
            "name": "-".join(self.folder.resolve().parts[-2:]) if self.label else self.folder.resolve().name,
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
            "phases": [asdict(phase) for phase in spent],
            "cost": {"flops": sum(phase.flops for phase in spent), "seconds": round(sum(phase.seconds for phase in spent), 1)},
            **provenance(),
        }

    def log(self, values: dict[str, float | str], step: int) -> None:
        """Append one line to the metrics file, and send its numbers to the trackers."""
        if self.runtime.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": step, **values}) + "\n")
        self.runtime.log({f"{self.label}{name}": value for name, value in values.items() if not isinstance(value, str)}, step)

    def say(self, *lines: str) -> None:
        """Print on the first rank."""
        if self.runtime.is_main:
            say(self.console, *lines)


def require_sites(recipe: Recipe, learner: Learner) -> None:
    """See that every inner loop has sites to adapt.

    Raises:
        TargetError: a phase's `inner.target_modules` matches none of the adapter's sites.
    """
    for number, phase in enumerate(recipe.phases):
        if not adaptation(phase.loop).adapting(learner.shapes()):
            raise TargetError(f"phases.{number}.inner.target_modules: {phase.loop.target_modules!r} matches none of the adapter's sites")
