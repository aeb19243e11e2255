"""A search: several whole runs of one recipe, of which the one with the lowest validation loss is the result."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.files import write_json, writing
from headstart.progress import say
from headstart.recipe import Recipe
from headstart.training import checkpoints
from headstart.training.errors import DivergedError, RunError, Stopped
from headstart.training.folder import RESOLVED, TRIALS, claim
from headstart.training.runtime import Runtime
from headstart.training.state import Spent, cost

FAILED = "diverged.json"
"""What is left of a trial that diverged: why, and what it took."""

Train = Callable[[Recipe, bool], MetaAdapter]
"""Does one whole run of a recipe; the flag says whether to go on with a stopped one."""


@dataclass(frozen=True)
class Trial:
    """A trial that is over.

    Args:
        values: what it set, dotted path -> value.
        loss: validation/loss_adapted of what it ended with; None where it diverged, or the loss was no finite number.
        cost: counted operations, tokens and seconds.
        about: suite, base and ranks, which all trials share; None where it diverged.
    """

    values: Mapping[str, Any]
    loss: float | None
    cost: Mapping[str, float]
    about: tuple[Any, ...] | None


def search(recipe: Recipe, console: Console, resume: bool, runtime: Runtime, train: Train) -> MetaAdapter:
    """Do every trial that is not done, and make the best one's adapter, phases, metrics and curves the folder's own.

    Args:
        recipe: with a `search`.
        console: where to say it.
        resume: whether to go on with a stopped search.
        runtime: of this process, without trackers; not closed.
        train: does one trial.

    Raises:
        RunError: the folder holds another search, or its trials saw different suites or bases.
        DivergedError: all trials diverged.
        Stopped: SIGINT or SIGTERM came; the trial that it came in has a checkpoint, and those before it are kept.
    """
    assert recipe.search is not None
    folder, values = recipe.run.output_dir, recipe.search.trials
    if resume:
        require_same_search(folder, recipe)
    runtime.wait()
    if runtime.is_main:
        claim(folder, recipe)
    for number, chosen in enumerate(values):
        if runtime.is_main:
            say(console, f"trial {number + 1} of {len(values)}: {_told(chosen)}")
        do(recipe.trial(number), folder, runtime, train)
    trials = [read(recipe.trial(number).run.output_dir, chosen) for number, chosen in enumerate(values)]
    best = best_of(trials, folder)
    if runtime.is_main:
        loss = trials[best].loss
        say(console, f"trial {best + 1} of {len(values)} is the best, with a validation loss of {loss:.4f}: {_told(values[best])}")
        keep(folder, best, record_of(trials, best))
    runtime.wait()
    return MetaAdapter.from_pretrained(folder / "adapter")


def do(trial: Recipe, search_folder: Path, runtime: Runtime, train: Train) -> None:
    """Do a trial, or what is left of it; one that diverged is over."""
    folder = trial.run.output_dir
    if (folder / "adapter").exists() or (folder / FAILED).exists():
        return
    try:
        train(trial, bool(checkpoints.found(folder / "checkpoints")))
    except Stopped as stopped:
        raise Stopped(stopped.step, search_folder, stopped.is_main) from None
    except DivergedError as error:
        if runtime.is_main:
            write_json(folder / FAILED, {"why": str(error), "spent": [asdict(leg) for leg in error.spent]})
        runtime.wait()


def require_same_search(folder: Path, recipe: Recipe) -> None:
    """Refuse to go on with another search, or with none.

    Raises:
        RunError: there is none in the folder, or it had another recipe; the message names every difference.
    """
    path = folder / "recipe.yaml"
    if not (folder / TRIALS).is_dir() or not path.is_file() or not path.read_bytes().startswith(RESOLVED.encode()):
        raise RunError(f"{folder}: there is no search to resume; run without --resume (in Python, without resume=True)")
    then, now = yaml.safe_load(path.read_text(encoding="utf-8")), recipe.model_dump(mode="json")
    faults = [f"{key}: {before} then, {after} now" for key, before, after in checkpoints.recipe_differences(then, now)]
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise RunError(f"{folder} holds another search:{listed}\nundo the differences to resume, or set run.output_dir to another folder")


def read(folder: Path, values: Mapping[str, Any]) -> Trial:
    """A trial that is over, as its folder tells of it."""
    if (folder / FAILED).exists():
        spent = [Spent(**leg) for leg in json.loads((folder / FAILED).read_text(encoding="utf-8"))["spent"]]
        return Trial(values, None, cost(spent), None)
    adapter = MetaAdapter.from_pretrained(folder / "adapter")
    record = adapter.record
    return Trial(values, record["phases"][-1]["loss"], record["cost"], (record["suite"]["revision"], adapter.fingerprint, record["ranks"]))


def best_of(trials: Sequence[Trial], folder: Path) -> int:
    """The number of the trial with the lowest loss; of equal ones the first.

    Raises:
        DivergedError: none has one.
        RunError: they do not compare.
    """
    losses = [math.inf if trial.loss is None else trial.loss for trial in trials]
    if min(losses) == math.inf:
        raise DivergedError(f"{folder}: all {len(trials)} trials diverged; lower the rates in search.grid")
    kinds = {trial.about for trial in trials if trial.about}
    if len(kinds) > 1:
        raise RunError(
            f"{folder / TRIALS}: the trials saw different suites, bases or ranks, so that their losses do not compare; "
            "remove the folders of those to be done again, and resume"
        )
    return losses.index(min(losses))


def record_of(trials: Sequence[Trial], best: int) -> dict[str, Any]:
    """What the result's record says of the search; costs are of all trials together."""
    return {
        "trials": [dict(trial.values) for trial in trials],
        "chosen": best,
        "losses": [trial.loss for trial in trials],
        **{name: round(sum(trial.cost[name] for trial in trials), 1) for name in ("flops", "tokens", "seconds")},
    }


def keep(folder: Path, best: int, about: Mapping[str, Any]) -> None:
    """Make a trial's outcome the folder's own, the adapter last, so that a folder with one is a finished search."""
    trial = folder / TRIALS / str(best)
    with writing(folder):
        for name in ("metrics.jsonl", "curves.png"):
            shutil.copyfile(trial / name, folder / name)
    for name in [f"phases/{path.name}" for path in sorted((trial / "phases").iterdir())] + ["adapter"]:
        adapter = MetaAdapter.from_pretrained(trial / name)
        run = "-".join(folder.resolve().parts[-2:]) if "control_of" in adapter.record else folder.resolve().name
        replace(adapter, record={**adapter.record, "name": run, "search": dict(about)}).save_pretrained(folder / name)


def _told(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={json.dumps(value)}" for path, value in values.items())
