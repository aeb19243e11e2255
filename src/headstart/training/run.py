"""A whole run: from a recipe to an adapter folder, and to its equal-compute control.

A run is a sequence of legs, the recipe's phases and then the control, and goes on from any position in them.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.algorithms.rates import is_matrix
from headstart.batches import Batcher
from headstart.files import writing
from headstart.interrupt import Interrupt, interruptible
from headstart.model.base import Base, BaseSpec, base_folder, fingerprint, load_base, load_tokenizer
from headstart.model.learner import Learner, LoraSpec
from headstart.model.row_costs import counted_costs, measured_costs
from headstart.model.targets import TargetError
from headstart.progress import meter, say, shortened
from headstart.provenance import provenance
from headstart.recipe import FRESH_EPS_ROOT, InnerSection, MultitaskPhase, Recipe
from headstart.tasks.episodes import evaluation_draw, training_episode
from headstart.tasks.licences import terms_of
from headstart.tasks.planner import RowCosts
from headstart.tasks.prepare import prepare_suite, spread
from headstart.tasks.render import Renderer
from headstart.tasks.task import TaskSuite
from headstart.training import checkpoints
from headstart.training.checkpoints import Checkpoint, Identity
from headstart.training.curves import plot_training
from headstart.training.equal_compute import ControlOf, multitask_rate
from headstart.training.errors import Stopped
from headstart.training.folder import check_folder, claim, cut_metrics
from headstart.training.loop import Trainer, adaptation
from headstart.training.runtime import Runtime, require_installed
from headstart.training.search import search
from headstart.training.state import Leg, Position, Progress, Spent, State, cost
from headstart.training.validation import Validation


def meta_train(recipe: Recipe, console: Console | None = None, resume: bool = False) -> MetaAdapter:
    """Run every phase of a recipe, then, if it says so, the control; with `resume` go on from the newest checkpoint.

    A recipe with a `search` is run for every trial, in `trials/N/`, and the best trial's outcome is kept as the run's own.
    Leaves `adapter/`, `phases/`, `metrics.jsonl`, `recipe.yaml`, `curves.png` and `control/adapter/` in its output folder, and
    while it is not finished `checkpoints/`. On the CPU a resumed run ends with the same bits as one that was never stopped.

    Raises:
        RunError: the output folder cannot be used as asked, or the checkpoint there cannot be gone on from; raised before any training.
        SuiteError, BaseError, TargetError: the suite or the base cannot be used; raised before any training.
        WriteError: something cannot be written, as on a full disk; the last checkpoint is kept.
        FloatingPointError: training diverged; the phases done and the last checkpoint are kept.
        Stopped: SIGINT or SIGTERM came; the step was finished and a checkpoint saved.
    """
    return run_recipe(recipe, console or Console(), resume)


def run_recipe(
    recipe: Recipe, console: Console, resume: bool = False, control_of: ControlOf | None = None, command: str | None = None
) -> MetaAdapter:
    """As `meta_train`; what the run is a control of, and by what command it was run, go into its record.

    Raises:
        RunError: also where this run and the one that it is a control of differ in what both must share.
    """
    if recipe.search is None:
        return one_run(recipe, console, resume, control_of, command)
    check_folder(recipe.run.output_dir, resume)
    require_installed(recipe.run.report_to)
    runtime = Runtime(recipe.run.output_dir)
    try:
        return search(
            recipe, console, resume, runtime, lambda trial, stopped: one_run(trial, console, stopped, control_of, command, last=False)
        )
    finally:
        runtime.close()


def one_run(
    recipe: Recipe, console: Console, resume: bool, control_of: ControlOf | None, command: str | None, last: bool = True
) -> MetaAdapter:
    """A run without a search; `last` says whether no other follows in this process."""
    folder = recipe.run.output_dir
    check_folder(folder, resume)
    runtime = Runtime(folder, recipe.run.report_to, last)
    session, position = Session.open(recipe, folder, runtime, console, resume, control_of, command)
    try:
        with interruptible(quiet=not runtime.is_main) as interrupt:
            while (leg := session.leg(position)) is not None:
                position = session.go_on(leg, position, interrupt)
                session.checkpoint(position)
                if interrupt.agreed:
                    raise Stopped(position.steps, folder, runtime.is_main)
        return session.finish(position)
    finally:
        session.close()


@dataclass(frozen=True)
class Session:
    """The loaded parts of a run, and its files.

    Args:
        label: goes before the names that the control logs under.
        ahead: how far the trackers' steps are ahead of the leg's own; the control's go back to where the last phase began.
        control_of: what the whole run is a control of.
        command: that the run was started by.
    """

    recipe: Recipe
    folder: Path
    suite: TaskSuite
    learner: Learner
    batcher: Batcher
    runtime: Runtime
    console: Console
    identity: Identity
    made_by: dict[str, Any] = field(default_factory=provenance)
    label: str = ""
    ahead: int = 0
    control_of: ControlOf | None = None
    command: str | None = None

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        folder: Path,
        runtime: Runtime,
        console: Console,
        resume: bool,
        control_of: ControlOf | None = None,
        command: str | None = None,
    ) -> "tuple[Session, Position]":
        """Load the suite and see that every step can be drawn from it, that the folder can be written and gone on from; then the base."""
        spec, section = BaseSpec(**recipe.base.model_dump()), recipe.suite
        with runtime.first():
            renderer = Renderer(load_tokenizer(spec), section.max_length, spec.chat_template_kwargs)
            # read and rendered by the first rank alone; the others find what it kept
            needed = section.most_shots + section.query
            suite, notes = prepare_suite(section.specs, section.regime, renderer, needed, recipe.seed, section.redrawn)
        suite.split("meta_validation")
        # drawn for its errors, before the base is loaded
        tasks, support, query = section.tasks_per_step, section.most_shots, section.query
        training_episode(suite, seed=recipe.seed, step=0, rank=runtime.ranks - 1, tasks=tasks, support=support, query=query)
        identity = Identity(recipe.model_dump(mode="json"), suite.revision, fingerprint(base_folder(spec)), runtime.ranks)
        if control_of:
            control_of.require(identity)
        stopped = going_on(folder / "checkpoints", identity, runtime) if resume else None
        # no rank writes before all have seen the folder as it was
        runtime.wait()
        if runtime.is_main:
            claim(folder, recipe)
        base = load_base(spec, runtime.device)
        costs = stopped.costs if stopped else row_costs(recipe, base, runtime)
        batcher = Batcher.of(base, renderer, section.layout, section.task_micro_batch, section.max_row_tokens, costs)
        learner = Learner(base, LoraSpec(**recipe.adapter.model_dump()), recipe.run.gradient_checkpointing, recipe.run.compile)
        require_sites(recipe, learner)
        session = cls(recipe, folder, suite, learner, batcher, runtime, console, identity, control_of=control_of, command=command)
        counts = ", ".join(f"{len(names)} {split}" for split, names in suite.splits.items())
        kind = f"{spec.quantization}, {spec.dtype}"
        session.say(
            *renderer.notes,
            *shortened(notes),
            f"{spec.id} ({kind}) on {runtime.device}, {runtime.ranks} rank(s); {batcher.layout} rows; tasks: {counts}",
        )
        if section.layout == "auto" and batcher.layout == "padded":
            session.say("rows are padded, since examples that share a row are not independent in this architecture")
        return session, session.begin(stopped)

    def begin(self, stopped: Checkpoint | None) -> Position:
        """Where the run begins or goes on; the metrics are cut back to there, and the trackers started."""
        fresh = State(self.learner.fresh_adapter(self.recipe.seed), {})
        position = stopped.position if stopped else Position(0, Progress(fresh, fresh))
        if stopped:
            self.say(f"going on after step {position.steps}")
            changed = [key for key, value in stopped.made_by.items() if value != self.made_by.get(key)]
            if changed:
                self.say(f"{', '.join(changed)} changed since the checkpoint; the result may differ in its last bits")
        if self.runtime.is_main:
            last = position.finished or position.progress.state
            cut_metrics(self.folder / "metrics.jsonl", last.step if stopped else -1)
            control_begun = position.leg + bool(position.progress.steps) > len(self.recipe.phases)
            cut_metrics(self.folder / "control" / "metrics.jsonl", position.progress.state.step if control_begun else -1)
        config = {key: value for key, value in checkpoints.scalars(self.identity.recipe).items() if value is not None}
        self.runtime.track(config)
        return position

    def leg(self, position: Position) -> Leg | None:
        """The leg at a position: a phase; then the control, plain multi-task for as many operations as the last phase took; then none."""
        if position.finished is None:
            return Leg.of(self.recipe.phases, position.progress.start.spent)
        if position.leg > len(self.recipe.phases) or not self.recipe.run.control:
            return None
        last = position.finished.spent[-1]
        return Leg(MultitaskPhase(algorithm="multitask", steps=last.steps, learning_rate=multitask_rate(self.recipe)), last.flops)

    def go_on(self, leg: Leg, position: Position, interrupt: Interrupt) -> Position:
        """Go on with a leg until it is over or the run shall stop; a leg that is over leaves its adapter and the next one's beginning."""
        session = self if position.finished is None else self.control(position)
        trainer = Trainer(
            recipe=self.recipe,
            suite=self.suite,
            learner=self.learner,
            batcher=self.batcher,
            runtime=self.runtime,
            validate=self.validation(adaptation(leg.phase.loop) if leg.phase.loop.steps else session.adaptation(position.progress.state)),
            log=session.log,
            save=lambda progress: self.checkpoint(replace(position, progress=progress)),
            interrupt=interrupt,
        )
        done = position.progress.share(leg)
        name = f"{session.label}{leg.phase.algorithm}"
        with meter(name, self.console, leg.units, quiet=not self.runtime.is_main, done=done) as progress:
            position = replace(position, progress=trainer.run(leg, position.progress, progress))
        return position if position.progress.share(leg) < 1 else session.end(leg, position)

    def end(self, leg: Leg, position: Position) -> Position:
        """Save what a finished leg leaves, and begin the next; the control starts from where the last phase did."""
        state = position.progress.end(leg)
        if position.finished is not None:
            self.save(state, "adapter")
            return position.then(state)
        self.save(state, f"phases/{position.leg}-{leg.phase.algorithm}")
        if position.leg + 1 < len(self.recipe.phases):
            return position.then(self.handed_on(state, self.recipe.phases[position.leg + 1].loop))
        self.draw()
        return position.then(position.progress.start, finished=state)

    def handed_on(self, state: State, loop: InnerSection) -> State:
        """The state that the next phase begins with: learned rates stay only for such a rule, steps and sites as they were learned with.

        So do matrices only where they go on being learned as such; from numbers matrices may start.
        """
        if not loop.steps:
            return state
        before, after = self.adaptation(state), adaptation(loop)
        # between smooth and nearly sharp, steps are of other sizes
        smooth = before.eps_root != after.eps_root and max(before.eps_root, after.eps_root) >= FRESH_EPS_ROOT
        where, now = ((each.rule, each.beta1, each.beta2, each.steps, each.target_modules, each.tensors) for each in (before, after))
        fitting = loop.learn_rates and (loop.precondition or not any(map(is_matrix, state.rates.values())))
        return state if where == now and not smooth and fitting else replace(state, rates={})

    def adaptation(self, state: State) -> Adaptation:
        """How the tasks of a state are adapted to: by the last of its phases that has an inner loop, else as the recipe will."""
        phases = self.recipe.phases[:-1] if self.label else self.recipe.phases[: len(state.spent)]
        loops = [phase.loop for phase in phases if phase.loop.steps]
        return adaptation(loops[-1] if loops else self.recipe.inner)

    def control(self, position: Position) -> "Session":
        """The session as the control uses it: the same layout and suite; it writes into the folder `control/`."""
        return replace(self, folder=self.folder / "control", label="control/", ahead=position.before - position.progress.start.step)

    def finish(self, position: Position) -> MetaAdapter:
        """Save what the phases ended with."""
        assert position.finished is not None
        # the adapter last, so that a folder with one is a finished run
        adapter = self.save(position.finished, "adapter")
        if self.runtime.is_main:
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        self.say(f"saved {self.folder / 'adapter'}")
        return adapter

    def checkpoint(self, position: Position) -> None:
        """Save all that the run needs to go on from here."""
        if self.runtime.is_main:
            checkpoint = Checkpoint(position, self.identity, self.made_by, self.batcher.planner.costs)
            checkpoints.save(self.folder / "checkpoints", checkpoint, self.recipe.run.save_total_limit)
        self.runtime.wait()

    def validation(self, adaptation: Adaptation) -> Validation:
        """Some validation tasks, the same in every look, and how they are adapted to."""
        section = self.recipe.suite
        tasks = spread(self.suite.split("meta_validation"), self.recipe.run.eval_tasks)
        seed = self.recipe.seed
        draws = tuple(evaluation_draw(task, draw=0, support=section.most_shots, query=section.query, seed=seed) for task in tasks)
        batches = tuple(self.batcher.batch(piece) for piece in self.batcher.pieces(draws))
        return Validation(batches, adaptation)

    def draw(self) -> None:
        """Draw the curves of the run so far."""
        if self.runtime.is_main:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            plot_training([json.loads(line) for line in lines], self.folder / "curves.png")

    def close(self) -> None:
        """Give back the trackers and the base's plain layers."""
        self.runtime.close()
        self.learner.close()

    def save(self, state: State, name: str) -> MetaAdapter:
        """Write the state as an adapter folder of that name, whole or not at all."""
        adapter = MetaAdapter(
            state.theta,
            state.rates,
            self.learner.spec,
            self.adaptation(state),
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
            "name": "-".join(self.folder.resolve().parts[-2:]) if self.label or self.control_of else self.folder.resolve().name,
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "ranks": self.runtime.ranks,
            "suite": {
                "name": self.suite.name,
                "revision": self.suite.revision,
                "regime": self.recipe.suite.regime,
                "training_tasks": len(self.suite.splits["meta_train"]),
                "splits": {split: list(names) for split, names in self.suite.splits.items()},
                "sampler": self.recipe.suite.sampler,
                "data": terms_of(self.suite.split("meta_train")),
            },
            **self.batcher.renderer.serving,
            "phases": [asdict(phase) for phase in spent],
            "cost": cost(spent),
            **({"control_of": self.control_of.record(spent)} if self.control_of else {}),
            **({"command": self.command} if self.command else {}),
            **self.made_by,
        }

    def log(self, values: dict[str, float | str], step: int) -> None:
        """Append one line to the metrics file, and send its numbers to the trackers."""
        if self.runtime.is_main:
            path = self.folder / "metrics.jsonl"
            with writing(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"step": step, **values}) + "\n")
        numbers = {f"{self.label}{name}": value for name, value in values.items() if not isinstance(value, str)}
        self.runtime.log(numbers, step + self.ahead)

    def say(self, *lines: str) -> None:
        """Print on the first rank."""
        if self.runtime.is_main:
            say(self.console, *lines)


def row_costs(recipe: Recipe, base: Base, runtime: Runtime) -> RowCosts:
    """What rows are laid out by, the same on all ranks: the first rank's measurement, if one is asked for and examples share rows."""
    if recipe.suite.row_costs == "counted" or not base.packs or recipe.suite.layout == "padded":
        return counted_costs(base.model)
    with runtime.first():
        own = measured_costs(base)
    linear, quadratic = runtime.of_first([own.linear, own.quadratic])
    return RowCosts(linear, quadratic, own.blocks)


def require_sites(recipe: Recipe, learner: Learner) -> None:
    """See that every inner loop has sites to adapt.

    Raises:
        TargetError: a phase's `inner.target_modules` matches none of the adapter's sites.
    """
    for number, phase in enumerate(recipe.phases):
        targets = phase.loop.target_modules
        for target in [targets] if targets is None or isinstance(targets, str) else targets:
            one = None if target is None else target if isinstance(targets, str) else (target,)
            if not replace(adaptation(phase.loop), target_modules=one).adapting(learner.shapes()):
                raise TargetError(f"phases.{number}.inner.target_modules: {target!r} matches none of the adapter's sites")


def going_on(folder: Path, identity: Identity, runtime: Runtime) -> Checkpoint:
    """The newest checkpoint, if this run may go on from it.

    Raises:
        RunError: as `load_newest` and `require_same`.
    """
    checkpoint = checkpoints.load_newest(folder, runtime.device)
    checkpoints.require_same(checkpoint.identity, identity, folder)
    return checkpoint
