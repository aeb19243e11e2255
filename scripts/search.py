"""Trials of meta-training on one machine: each goes on from a warm start, is measured on validation tasks, and is kept as JSON.

    scripts/search.py docs/search/trials.yaml --output docs/search/trials --runs runs/search [--only a,b]
    scripts/search.py docs/search/trials.yaml --output docs/search/trials --table REFERENCE

Phases that a trial has in common with the one it goes on `from` are not trained again: a phase begins with an outer optimiser of its
own, so that the result is that of the whole recipe to the bit, unless `set` changes what those phases heed too, as the suite. A trial
that is there is not done again. Nothing but `meta_validation` is measured on. `--table` compares every trial with a reference by paired
differences.
"""

import argparse
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.algorithms.inner import expand
from headstart.algorithms.rules import Adam
from headstart.evaluation.arms import Arm
from headstart.evaluation.design import VALIDATION
from headstart.evaluation.protocol import FIRST_DRAW, Bench, trajectory
from headstart.evaluation.statistics import make_design
from headstart.files import write_json
from headstart.interrupt import interruptible
from headstart.model.base import load_base, load_tokenizer
from headstart.passes import Passes, passes_over
from headstart.recipe import Recipe, apply_override, load_recipe, parse_recipe
from headstart.tasks.episodes import Episode, evaluation_draw
from headstart.tasks.prepare import prepare_suite
from headstart.tasks.render import Renderer
from headstart.training.run import Session
from headstart.training.runtime import Runtime
from headstart.training.state import Position, Progress, Spent, State
from headstart.yaml12 import read_yaml

ADAMW, ADAM, LEARNED = "adamw", "adam", "learned"
"""Plain AdamW, Adam with less momentum, and the rule and rates that an adapter was learned with."""


def main() -> None:
    """Train, measure and keep what is not there yet, or print the table of what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="a JSON file a trial")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="where the adapters go")
    parser.add_argument("--only", default="", help="names of trials, with commas between; all where empty")
    parser.add_argument("--table", metavar="REFERENCE", help="print the trials beside this one, instead of running any")
    asked = parser.parse_args()
    plan = read_yaml(asked.trials.read_text(encoding="utf-8"))
    if asked.table:
        print(table(asked.output, asked.table))
        return
    names = [name for name in asked.only.split(",") if name] or list(plan["trials"])
    for name in names:
        path = asked.output / f"{name}.json"
        if not path.exists():
            adapter = trained(name, plan, asked.runs)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"name": name, **plan["trials"][name], "record": told(adapter), "rows": list(measure(name, adapter, plan))})
            print(f"{name}: done", flush=True)


def recipe_of(name: str, plan: Mapping[str, Any], runs: Path) -> Recipe:
    """The whole recipe of a trial: the common one, with the phases that it goes on from, and its own keys."""
    trial = plan["trials"][name]
    content = copy.deepcopy(load_recipe(plan["recipe"]).model_dump(mode="json"))
    content["phases"] = [*phases_before(name, plan), *trial["phases"]]
    content["run"] |= {"output_dir": str(runs / name), "report_to": [], "control": False}
    for override in trial.get("set", ()):
        apply_override(content, override)
    return parse_recipe(content, name)


def phases_before(name: str, plan: Mapping[str, Any]) -> list[Any]:
    """The phases of the trial that this one goes on from."""
    before = plan["trials"][name].get("from")
    return [*phases_before(before, plan), *plan["trials"][before]["phases"]] if before else []


def trained(name: str, plan: Mapping[str, Any], runs: Path) -> MetaAdapter:
    """A trial's adapter, behind that of the trial it goes on from; what is there is not trained again."""
    before = plan["trials"][name].get("from")
    return train(recipe_of(name, plan, runs), trained(before, plan, runs) if before else None)


def train(recipe: Recipe, start: MetaAdapter | None) -> MetaAdapter:
    """Train the phases that the start has not, in a folder of its own; what is there already is taken as it is."""
    folder = recipe.run.output_dir
    if (folder / "adapter").is_dir():
        return MetaAdapter.from_pretrained(folder / "adapter")
    runtime = Runtime(folder, (), True)
    session, position = Session.open(recipe, folder, runtime, Console(), False)
    try:
        if start is not None:
            spent = tuple(Spent(**leg) for leg in start.record["phases"])
            state = State(start.theta, start.rates, sum(leg.steps for leg in spent), spent)
            state = session.handed_on(state, recipe.phases[len(spent)].loop)
            position = Position(len(spent), Progress(state, state), state.step)
        with interruptible() as interrupt:
            while (leg := session.leg(position)) is not None:
                position = session.go_on(leg, position, interrupt)
                if interrupt.agreed:
                    raise KeyboardInterrupt
        return session.finish(position)
    finally:
        session.close()


def told(adapter: MetaAdapter) -> dict[str, Any]:
    """What is kept of how an adapter was made; where it was written is no part of it."""
    recipe = {section: content for section, content in adapter.record["recipe"].items() if section != "run"}
    made = ("phases", "cost", "machine", "versions", "commit")
    return {"recipe": recipe} | {key: adapter.record[key] for key in made if key in adapter.record}


def measure(name: str, adapter: MetaAdapter, plan: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Loss and greedy accuracy of every task at every step, under each rule at given rates and under the adapter's own.

    Step 0 is that of the initialisation under any rule, and measured under the first alone.
    """
    spec, wanted = adapter.base, plan["measure"]
    base, renderer = load_base(spec), Renderer(load_tokenizer(spec), wanted["max_length"], spec.chat_template_kwargs)
    sources = load_recipe(plan["recipe"]).suite.specs
    with passes_over(base, adapter.lora, wanted["max_length"]) as passes:
        for regime in wanted["rates"]:
            suite, _ = prepare_suite(sources, regime, renderer, wanted["support"] + wanted["query"])
            tasks = [task for task in suite.split(VALIDATION) if task.name.partition("@")[0] in wanted["tasks"]]
            for draw in range(wanted["draws"]):
                drawn = [evaluation_draw(task, draw=FIRST_DRAW + draw, support=wanted["support"], query=wanted["query"]) for task in tasks]
                less = wanted["less_momentum"]
                rules = {ADAMW: (Adam(), wanted["rates"][regime])}
                if name in less["trials"]:
                    rules[ADAM] = (Adam(beta1=less["beta1"]), less["rates"].get(regime, ()))
                for number, (rule, arm) in enumerate(arms(adapter, rules, passes)):
                    steps = [step for step in wanted["steps"] if step or not number]
                    for row in rows_of(arm, tuple(drawn), steps, passes):
                        yield {"regime": regime, "rule": rule, "draw": draw, **row}


def arms(adapter: MetaAdapter, rules: Mapping[str, tuple[Adam, Sequence[float]]], passes: Passes) -> Iterator[tuple[str, Arm]]:
    """The ways of adapting: each rule at each of its rates, and the learned rates where there are some."""
    theta = adapter.initial(passes.learner)
    ones = adapter.adaptation.constant_rates(theta, 1.0)
    for name, (built, rates) in rules.items():
        for rate in rates:
            scaled = {tensor: one * rate for tensor, one in ones.items()}
            yield f"{name} {rate:g}", Arm("meta_adamw", 0, lambda episode: expand(theta, len(episode)), built, scaled, ())
    if adapter.rates:
        own = adapter.schedule(passes.learner)
        yield LEARNED, Arm("meta", 0, lambda episode: expand(theta, len(episode)), adapter.adaptation.build(), own, ())


def rows_of(arm: Arm, episode: Episode, steps: Sequence[int], passes: Passes) -> Iterator[dict[str, Any]]:
    """What is measured of each task; greedy decoding writes an answer where each of its tokens is the likeliest behind the ones before."""
    for piece in passes.batcher.pieces(episode):
        for step, phi in trajectory(arm, 1.0, piece, Bench(passes, passes), max(steps)):
            if step in steps:
                # without labels to rank, which takes longer than adapting
                plain = [replace(part, task=replace(part.task, labels=())) for part in piece]
                for part, answers in zip(piece, passes.answers(phi, plain), strict=True):
                    yield {
                        "task": part.task.name.partition("@")[0],
                        "cluster": part.task.cluster,
                        "dataset": part.task.dataset,
                        "step": step,
                        "loss": float(np.mean([answer.loss for answer in answers])),
                        "exact": float(np.mean([answer.right for answer in answers])),
                    }


def table(folder: Path, reference: str) -> str:
    """Every trial at its last step: a rule at the rate of its lowest loss, that loss and exact answers, and how they differ.

    The difference is from the reference under the same rule, or under AdamW where it has not that rule.
    """
    trials = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    lines = ["| trial | regime | rule | PFLOP | loss | against | exact, % | against |", "| --- " * 8 + "|"]
    for name, trial in trials.items():
        for regime in dict.fromkeys(row["regime"] for row in trial["rows"]):
            for rule in (ADAMW, ADAM, LEARNED):
                rows = best(trial["rows"], regime, rule)
                if rows:
                    theirs = best(trials[reference]["rows"], regime, rule) or best(trials[reference]["rows"], regime, ADAMW)
                    flops = trial["record"]["cost"]["flops"] / 1e15
                    columns = [f"{compared(rows, theirs, metric, scale)}" for metric, scale in (("loss", 1), ("exact", 100))]
                    lines.append(f"| {name} | {regime} | {rows[0]['rule']} | {flops:.3f} | {' | '.join(columns)} |")
    return "\n".join(lines)


def best(rows: Sequence[Mapping[str, Any]], regime: str, rule: str) -> list[Mapping[str, Any]]:
    """The rows of a regime at the last step under a rule, at that of its rates which has the lowest mean loss."""
    last = max(row["step"] for row in rows)
    by_rate: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if (row["regime"], row["step"], row["rule"].partition(" ")[0]) == (regime, last, rule):
            by_rate.setdefault(row["rule"], []).append(row)
    return min(by_rate.values(), key=lambda found: mean(found, "loss"), default=[])


def mean(rows: Sequence[Mapping[str, Any]], metric: str) -> float:
    """The macro-mean over clusters, datasets, tasks and draws."""
    values, design = arranged(rows, metric), make_design(sorted(map(place, rows)), 1, resamples=1)
    return float(design.means(values)[0, 0])


def compared(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], metric: str, scale: float) -> str:
    """A mean, and the paired difference from another's with its interval."""
    design = make_design(sorted(map(place, rows)), 1)
    difference = design.interval(scale * design.means(arranged(rows, metric) - arranged(others, metric))[:, 0])
    own = f"{scale * mean(rows, metric):.3f}" if scale == 1 else f"{scale * mean(rows, metric):.1f}"
    digits = 3 if scale == 1 else 1
    return f"{own} | {difference.mean:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"


def arranged(rows: Sequence[Mapping[str, Any]], metric: str) -> Any:
    """A metric's values, `(rows, 1, 1)`, in the order of their places."""
    return np.array([row[metric] for row in sorted(rows, key=place)])[:, None, None]


def place(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    """Where a row stands in the tree of clusters, datasets, tasks and draws."""
    return row["cluster"], row["dataset"], row["task"], row["draw"]


if __name__ == "__main__":
    main()
