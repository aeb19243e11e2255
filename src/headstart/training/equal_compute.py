"""The equal-compute control of a finished run: plain multi-task LoRA for as many operations as its adapter took, else alike."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.adapter.meta_adapter import MetaAdapter
from headstart.files import digest_of_files
from headstart.recipe import FomamlPhase, MamlPhase, MultitaskPhase, Recipe, apply_override, parse_recipe
from headstart.training import checkpoints
from headstart.training.checkpoints import Identity
from headstart.training.errors import RunError
from headstart.training.folder import TRIALS
from headstart.training.runtime import command
from headstart.training.state import Spent, cost

OPEN = ("outer", "search", "run")
"""The sections in which a control may differ from its run."""
SHARED = ("run.gradient_checkpointing", "run.load_best_model_at_end", "run.control")
"""Keys of these sections in which it may not: what a step is counted as, and what the run's adapter was chosen by."""
RATES_SHARE = 0.2
"""Of the operations, what goes into learning rates on the frozen multi-task initialisation."""
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ControlOf:
    """What a control is a control of, and must have in common with it.

    Args:
        name: of the run.
        sha256: of its adapter's weights.
        flops: the operations that its adapter took, which are the control's budget.
        suite_revision: of the tasks' content.
        fingerprint: of the base's weights.
        ranks: by how many processes it was trained, each with tasks of its own at every step.
    """

    name: str
    sha256: str
    flops: int
    suite_revision: str
    fingerprint: str
    ranks: int

    def require(self, identity: Identity) -> None:
        """See that both sides have the same tasks, base and tasks a step.

        Raises:
            RunError: they have not.
        """
        faults = []
        if identity.suite_revision != self.suite_revision:
            faults.append(f"the suite has changed: revision {self.suite_revision} there, {identity.suite_revision} now")
        if identity.fingerprint != self.fingerprint:
            faults.append(f"the base has other weights: fingerprint {self.fingerprint} there, {identity.fingerprint} now")
        if identity.ranks != self.ranks:
            faults.append(f"it was trained by {self.ranks} rank(s), this run has {identity.ranks}; {command(self.ranks)}")
        if faults:
            raise RunError(f"no control of {self.name} can be trained here:" + "".join(f"\n  {fault}" for fault in faults))

    def record(self, spent: Sequence[Spent]) -> dict[str, Any]:
        """What the control's record says of it."""
        return {"name": self.name, "sha256": self.sha256, "flops": self.flops, "spent": cost(spent)["flops"]}


def control_recipe(
    run: str | Path, overrides: Sequence[str] = (), learn_rates: bool = False, rates_share: float = RATES_SHARE
) -> tuple[Recipe, ControlOf]:
    """The recipe of a finished run's control, and what it is a control of.

    Base, adapter's shape, suite, seed, tasks and examples a step, layout and validation are the run's; its adapter starts fresh. So is
    the outer section, but that the learning rate is the one of the run's multi-task training (`multitask_rate`). Where the run's adapter
    was the best of several trials, the control gets as many: over the outer learning rate, in factors of 2 about that one, unless told
    otherwise. It writes into the run's folder `control`, or `control_rates`.

    Args:
        run: the run's folder, or its adapter's.
        overrides: `outer.a=value`, `search.a=value` and `run.a=value`.
        learn_rates: spend part of the operations on learning rates for the run's inner loop, the initialisation staying as it is.
        rates_share: which part, between 0 and 1.

    Raises:
        RunError: there is no finished run, its record does not say what it took, or an override touches what both sides share.
        RecipeError: an override does not fit.
    """
    folder = finished(Path(run))
    for override in overrides:
        require_open(override, folder)
    if not 0 < rates_share < 1:
        raise RunError(f"--rates-share: {rates_share:g} is no share of the operations that leaves something for both parts")
    adapter = MetaAdapter.from_pretrained(folder)
    theirs, control_of = recorded(adapter, folder)
    content: dict[str, Any] = copy.deepcopy(theirs.model_dump(mode="json", exclude={"search"}))
    content["phases"] = rates_phases(theirs, control_of.flops, rates_share) if learn_rates else [plain_phase(theirs, control_of.flops)]
    # in the section and not in the phase, so that overrides and trials reach it
    content["outer"]["learning_rate"] = multitask_rate(theirs)
    content["run"] |= {"control": False, "output_dir": _output(folder, "control_rates" if learn_rates else "control", overrides)}
    for override in overrides:
        apply_override(content, override)
    trials = len(adapter.record.get("search", {}).get("trials", [None]))
    if trials > 1 and "search" not in content:
        content["search"] = {"grid": {"outer.learning_rate": spaced(content["outer"]["learning_rate"], trials)}}
    recipe = parse_recipe(content, f"the control of {folder}")
    ours = len(recipe.search.trials) if recipe.search else 1
    if ours != trials:
        raise RunError(f"search.grid: {ours} trial(s), but {folder} is the best of {trials}; both sides need as many")
    return recipe, control_of


def finished(run: Path) -> Path:
    """The adapter's folder of a finished run.

    Raises:
        RunError: there is none.
    """
    for folder in (run / "adapter", run):
        if (folder / "headstart.json").is_file():
            return folder
    if checkpoints.found(run / "checkpoints") or (run / TRIALS).is_dir():
        raise RunError(f"--equal-compute-of: the run in {run} is not finished; go on with it by --resume, then train its control")
    raise RunError(f"--equal-compute-of: {run} holds no finished run (no adapter/headstart.json); name the output folder of one")


def require_open(override: str, folder: Path) -> None:
    """See that an override leaves alone what both sides must share.

    Raises:
        RunError: it does not.
    """
    path = override.partition("=")[0]
    if path.partition(".")[0] not in OPEN or path in (*SHARED, "run"):
        raise RunError(
            f"override {override!r}: {path} is shared by both sides of the comparison and comes from {folder}; "
            f"only keys of {', '.join(OPEN)} may be set, without {', '.join(SHARED)}"
        )


def recorded(adapter: MetaAdapter, folder: Path) -> tuple[Recipe, ControlOf]:
    """The recipe that an adapter was trained by, and what its control must know of it.

    Raises:
        RunError: its record does not say it.
        RecipeError: the recipe there cannot be read.
    """
    about = adapter.record
    try:
        name, content, revision, ranks, flops = (
            about["name"], about["recipe"], about["suite"]["revision"], about["ranks"], about["cost"]["flops"]
        )  # fmt: skip
    except KeyError as error:
        raise RunError(f"{folder}/headstart.json: the record has no {error}, so that no control can be made equal to it") from error
    digest = digest_of_files([folder / WEIGHTS])
    recipe = parse_recipe(content, f"{folder}/headstart.json: record.recipe")
    return recipe, ControlOf(name, digest, int(flops), revision, adapter.fingerprint, ranks)


def multitask_rate(theirs: Recipe) -> float:
    """The outer learning rate of a run's multi-task training: that of its first multitask phase with one of its own, else the section's."""
    own = (phase.learning_rate for phase in theirs.phases if isinstance(phase, MultitaskPhase))
    return next((rate for rate in own if rate is not None), theirs.outer.learning_rate)


def plain_phase(theirs: Recipe, flops: int) -> dict[str, Any]:
    """Multi-task training for so many operations, looked at as the run's adapter is: after its inner loop, at its rate."""
    return {"algorithm": "multitask", "flops": flops, "adaptation": _inner(theirs) | {"learn_rates": False, "precondition": False}}


def rates_phases(theirs: Recipe, flops: int, share: float) -> list[dict[str, Any]]:
    """Multi-task training, then for a share of the operations the rates alone, as the run's last phase with an inner loop does."""
    for_rates = max(1, round(share * flops))
    learned = [phase for phase in theirs.phases if isinstance(phase, FomamlPhase | MamlPhase) and phase.inner.steps]
    phase: Mapping[str, Any] = learned[-1].model_dump(mode="json") if learned else {"algorithm": "fomaml", "inner": _inner(theirs)}
    inner = {**phase["inner"], "learn_rates": True}
    rates = {**phase, "steps": None, "flops": for_rates, "learning_rate": None, "learn": "rates", "inner": inner}
    return [{"algorithm": "multitask", "flops": max(1, flops - for_rates)}, rates]


def spaced(rate: float, count: int) -> list[float]:
    """So many learning rates about one, each twice the last; the one itself among them."""
    return [rate * 2.0 ** (index - (count - 1) // 2) for index in range(count)]


def _inner(theirs: Recipe) -> dict[str, Any]:
    return theirs.inner.model_dump(mode="json")


def _output(folder: Path, name: str, overrides: Sequence[str]) -> str:
    """Where the control goes: beside the run's adapter.

    Raises:
        RunError: the adapter has left its run, and no override says where.
    """
    if folder.name != "adapter" and not any(override.startswith("run.output_dir=") for override in overrides):
        raise RunError(f"{folder} is no run's folder `adapter`, beside which a control would go; say where with run.output_dir=FOLDER")
    return str(folder.parent / name)
