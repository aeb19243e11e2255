"""A whole evaluation: from an adapter folder to a results document, its picture and the adapter's card."""

import copy
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from headstart.adapter.card import write_card
from headstart.adapter.files import read_json
from headstart.adapter.meta_adapter import MetaAdapter, adapter_folder
from headstart.batches import Batcher
from headstart.evaluation.arms import DEFAULT_ARMS, EvaluationError, build_arms, require_arms
from headstart.evaluation.curves import plot_evaluation
from headstart.evaluation.protocol import Bench, Protocol, run_arm, tune
from headstart.evaluation.report import Results, build_results, results_markdown, results_table, write_results
from headstart.evaluation.statistics import Record
from headstart.files import require_writable, whole_folder, write_json
from headstart.model.base import Base, BaseSpec, load_base, load_tokenizer
from headstart.model.learner import Learner
from headstart.progress import Meter, meter, say
from headstart.provenance import provenance
from headstart.recipe import EvaluationSection, Recipe, apply_override, parse_recipe
from headstart.tasks.prepare import prepare_suite, spread
from headstart.tasks.render import Renderer
from headstart.tasks.spec import SourceSpec
from headstart.tasks.task import Task, TaskSuite

TUNING_SPLIT = "meta_validation"
PAIRS = (("meta", "multitask"), ("meta", "random"), ("multitask", "random"), ("meta_adamw", "multitask"), ("meta", "meta_adamw"))


def evaluate(
    adapter: str | Path,
    *,
    suite: str | None = None,
    split: str = "meta_test",
    arms: Sequence[str] | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    base_source: str | None = None,
    allow_base_variant: bool = False,
    console: Console | None = None,
) -> Results:
    """Compare a meta-adapter with its baselines on tasks whose kinds it never saw.

    Every arm's rate is tuned alike on tasks of `meta_validation`, which are then left out of what is measured. Writes
    `results.json` and `curves.png`.

    Args:
        adapter: an adapter folder, or a shipped adapter's name; the control of its run is looked for beside it.
        suite: `builtin` or a folder; the one it was trained on where None.
        split: the split to measure on.
        arms: names of `headstart.evaluation.arms.ARMS`; `random`, `multitask` (if there is a control) and `meta` where None.
        output: where to write; where None, into `evaluation/` beside the adapter, and into the adapter's card too; a shipped
            adapter stays as it is, and `evaluated/NAME` takes its results.
        overrides: `evaluation.a=value`, over the evaluation section of the recipe the adapter was trained by.
        base_source: where the base's weights come from: `hub`, `bundled` or a folder; what the adapter says where None.
        allow_base_variant: accept other weights of the same base; the results say which.
        console: prints progress and the table.

    Returns:
        The results document: `summary[arm][step][metric]` and `pairs["first-second"][step][metric]` hold `mean`, `low` and
        `high`; `records` holds every measurement.

    Raises:
        EvaluationError, AdapterError, SuiteError, BaseError: the arms, the adapter, the suite or the base cannot be used;
            raised before any adapting.
        WriteError: the results cannot be written there; raised before any adapting.
    """
    folder, console, started = adapter_folder(adapter), console or Console(), time.monotonic()
    if output is None and not Path(adapter).is_dir():
        output = Path("evaluated") / folder.name
    target = Path(output) if output else folder.resolve().parent / "evaluation"
    plan = Plan.make(folder, suite, split, arms, overrides, base_source)
    require_writable(target)
    base = load_base(plan.base)
    plan.meta.require_base(base, allow_base_variant)
    records, tuned = plan.run(base, console)
    names = list(tuned)
    pairs = [pair for pair in PAIRS if pair[0] in names and pair[1] in names]
    about = plan.describe(folder, base, tuned, time.monotonic() - started)
    results = build_results(records, pairs, about)
    write_results(results, target / "results.json")
    plot_evaluation(results, target / "curves.png")
    if output is None:
        attach(folder, results)
    console.print(results_table(results))
    say(console, f"wrote {target / 'results.json'} and curves.png")
    return results


@dataclass(frozen=True)
class Plan:
    """All that an evaluation needs, checked, before the base is loaded."""

    meta: MetaAdapter
    control: MetaAdapter | None
    base: BaseSpec
    arms: tuple[str, ...]
    recipe: Recipe
    suite: TaskSuite
    split: str
    renderer: Renderer
    tuning: tuple[Task, ...]
    measured: tuple[Task, ...]

    @classmethod
    def make(
        cls,
        folder: Path,
        source: str | None,
        split: str,
        arms: Sequence[str] | None,
        overrides: Sequence[str],
        base_source: str | None = None,
    ) -> "Plan":
        """Read the adapters and the suite, and choose the tasks."""
        meta = MetaAdapter.from_pretrained(folder)
        recipe = recorded_recipe(meta, folder, overrides)
        beside = folder.resolve().parent / "control" / "adapter"
        control = MetaAdapter.from_pretrained(beside) if beside.is_dir() else None
        arms = tuple(arms or (name for name in DEFAULT_ARMS if name != "multitask" or control))
        require_arms(arms, control)
        section = recipe.evaluation
        base = replace(meta.base, source=base_source or meta.base.source)
        renderer = Renderer(load_tokenizer(base), recipe.suite.max_length, base.chat_template_kwargs)
        # half of a task's examples are support, half query
        needed = 2 * max(section.support, section.query)
        sources = (SourceSpec(source),) if source else recipe.suite.specs
        suite, _ = prepare_suite(sources, recipe.suite.regime, renderer, needed, recipe.seed)
        tuning = spread(suite.split(TUNING_SPLIT), section.tuning_tasks)
        measured = spread([task for task in suite.split(split) if task not in tuning], section.tasks)
        require_unseen(measured, suite, split, meta)
        return cls(meta, control, base, arms, recipe, suite, split, renderer, tuning, measured)

    @property
    def section(self) -> EvaluationSection:
        """The recipe's evaluation section."""
        return self.recipe.evaluation

    @property
    def protocol(self) -> Protocol:
        """What is measured."""
        section = self.section
        return Protocol(section.support, section.query, tuple(sorted(set(section.steps))), section.draws, self.recipe.seed)

    def run(self, base: Base, console: Console) -> tuple[list[Record], dict[str, dict[float, float]]]:
        """Tune and run every arm; returns the records, and each arm's candidates with their validation losses."""
        rows = self.recipe.suite
        batcher = Batcher.of(base, self.renderer, rows.layout, rows.task_micro_batch, rows.max_row_tokens)
        say(console, self.headline())
        tuned: dict[str, dict[float, float]] = {}
        records: list[Record] = []
        with Learner(base, self.meta.lora) as learner, meter("evaluate", console, 100) as progress:
            bench = Bench(learner, batcher, self.protocol, Share(progress, self.work()).add)
            for arm in build_arms(self.arms, self.meta, self.control, learner, self.section, self.recipe.seed):
                tuned[arm.name] = tune(arm, self.tuning, bench)
                records += run_arm(arm, best(tuned[arm.name]), self.measured, bench)
            progress.advance(1.0)
        return records, tuned

    def work(self) -> float:
        """The cost of tuning and running all arms, in the protocol's unit; one widening of each grid is reckoned with."""
        tuning = len(self.tuning) * self.protocol.tuning.cost * (len(self.section.learning_rates) + 1)
        return len(self.arms) * (tuning + len(self.measured) * self.protocol.cost)

    def headline(self) -> str:
        """What is about to be compared, in one line."""
        clusters = len({task.cluster for task in self.measured})
        left_out = "" if self.control else "; no multitask arm: the run has no control (run.control=true trains one)"
        return (
            f"{', '.join(self.arms)} on {len(self.measured)} tasks in {clusters} clusters of {self.split} of {self.suite.name}, "
            f"rates tuned on {len(self.tuning)} tasks of {TUNING_SPLIT}{left_out}"
        )

    def describe(self, folder: Path, base: Base, tuned: dict[str, dict[float, float]], seconds: float) -> dict[str, Any]:
        """How the records were made."""
        grids = {arm: {f"{candidate:g}": loss for candidate, loss in sorted(grid.items())} for arm, grid in tuned.items()}
        return {
            "adapter": folder.resolve().name,
            "base": {"id": base.spec.id, "source": base.spec.source, "fingerprint": base.fingerprint},
            "base_variant_of": self.meta.variant(base),
            "suite": {"name": self.suite.name, "revision": self.suite.revision, "regime": self.recipe.suite.regime, "split": self.split},
            "measured": [task.name for task in self.measured],
            "tuning": {
                "tasks": [task.name for task in self.tuning],
                "losses": grids,
                "chosen": {arm: best(grid) for arm, grid in tuned.items()},
            },
            "support": self.protocol.support,
            "query": self.protocol.query,
            "steps": list(self.protocol.steps),
            "draws": self.protocol.draws,
            "seed": self.protocol.seed,
            "training_flops": {"meta": _flops(self.meta), **({"multitask": _flops(self.control)} if self.control else {})},
            "seconds": round(seconds, 1),
            **provenance(),
        }


@dataclass
class Share:
    """Turns work done into a share of the whole, for a meter."""

    progress: Meter
    whole: float
    done: float = 0.0

    def add(self, work: float, note: str) -> None:
        """Note some more work; short of the end, which only the end itself reports."""
        self.done += work
        self.progress.advance(min(self.done / self.whole, 0.99), note)


def recorded_recipe(meta: MetaAdapter, folder: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe that an adapter was trained by, its evaluation section overridden.

    Raises:
        EvaluationError: an override of another section, which cannot be changed any more.
        RecipeError: an override that does not fit, or a record without a usable recipe.
    """
    content = copy.deepcopy(dict(meta.record.get("recipe") or {}))
    for text in overrides:
        if not text.startswith("evaluation."):
            raise EvaluationError(f"override {text!r}: the adapter is trained; only evaluation.KEY=VALUE can be changed here")
        apply_override(content, text)
    return parse_recipe(content, f"{folder}/headstart.json: record.recipe")


def best(found: dict[float, float]) -> float:
    """The candidate of the lowest validation loss."""
    return min(found, key=found.__getitem__)


def require_unseen(measured: Sequence[Task], suite: TaskSuite, split: str, meta: MetaAdapter) -> None:
    """See that there are tasks left to measure on, and that the adapter was trained on none of them.

    Raises:
        EvaluationError: there are none, or it was.
    """
    if not measured:
        raise EvaluationError(f"no task of {split!r} is left to measure on: all of them tune rates; lower evaluation.tuning_tasks")
    trained = meta.record.get("suite", {})
    seen = set(trained.get("splits", {}).get("meta_train", ())) if trained.get("name") == suite.name else set()
    stray = sorted(seen.intersection(task.name for task in measured))
    if stray:
        raise EvaluationError(f"the adapter was trained on {len(stray)} of these tasks, such as {stray[0]!r}; measure on a held-out split")


def attach(folder: Path, results: Results) -> None:
    """Put the results into an adapter's folder and card."""
    with whole_folder(folder) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        about = read_json(fresh / "headstart.json")
        table = results_markdown(results)
        suite = results["protocol"]["suite"]
        variant = results["protocol"]["base"] if results["protocol"]["base_variant_of"] else None
        about["record"]["evaluation"] = {
            "suite": suite,
            "base_variant": variant,
            "summary": results["summary"],
            "pairs": results["pairs"],
            "table": table,
        }
        write_json(fresh / "headstart.json", about)
        write_results(results, fresh / "evaluation" / "results.json")
        plot_evaluation(results, fresh / "evaluation" / "curves.png")
        write_card(fresh, about)


def _flops(adapter: MetaAdapter) -> int:
    return int(adapter.record.get("cost", {}).get("flops", 0))
