"""Contenders: the adapters that are judged, one meta-adapter a training seed, with the controls that were trained beside it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapter.places import adapter_folder
from headstart.evaluation.errors import EvaluationError
from headstart.files import digest_of_files
from headstart.model.learner import LoraSpec

CONTROLS = {"multitask": "control", "multitask_rates": "control_rates"}
"""Arm -> the folder of its run beside that of the meta-adapter, or of its adapter within that, which is how one travels."""
WEIGHTS = ("adapter_model.safetensors", "rates.safetensors")
OWN = ("seed", "run", "evaluation", "search")
"""Sections of the recipe that training seeds need not have in common,"""
SPELT = (
    *("rule", "steps", "learning_rate", "max_norm", "target_modules", "eps_root", "tensors", "beta1", "beta2"),
    *("r", "lora_alpha", "layers_to_transform", "fan_in_fan_out"),
)
"""Fields that are part of an adapter's digest whatever their value."""
SHARED = "load_best_model_at_end"
"""but for this of `run`."""
EQUAL = 0.05
"""Counted operations of two sides may differ by such a share before it is said."""


@dataclass(frozen=True)
class Contender:
    """The adapters of one training seed.

    Args:
        folder: of the meta-adapter.
        seed: it was trained by.
        meta: the meta-adapter.
        controls: arm -> the control that was trained for it, of those that there are.
        digests: `meta` and arms of the controls -> sha256 of what was learned and how it adapts.
    """

    folder: Path
    seed: int
    meta: MetaAdapter
    controls: Mapping[str, MetaAdapter]
    digests: Mapping[str, str]

    @classmethod
    def read(cls, source: str | Path) -> "Contender":
        """Read an adapter and the controls beside it, or within its folder.

        Raises:
            AdapterError: one of them cannot be read.
            EvaluationError: a control shares less with the adapter than all but the algorithm, or is another adapter's.
        """
        folder = adapter_folder(source)
        # a folder of the hub's cache or of the package is known as such
        meta = MetaAdapter.from_pretrained(folder)
        run = folder.resolve().parent
        # of two of an arm, the one within
        folders = {arm: place for arm, name in CONTROLS.items() for place in (run / name / "adapter", folder / name) if place.is_dir()}
        controls = {arm: MetaAdapter.from_pretrained(place) for arm, place in folders.items()}
        for arm, control in controls.items():
            require_twin(meta, control, folders[arm])
            require_own(control, folder, folders[arm])
        digests = {"meta": digest(folder, meta), **{arm: digest(folders[arm], control) for arm, control in controls.items()}}
        return cls(folder, int(meta.record.get("seed", 0)), meta, controls, digests)

    @property
    def name(self) -> str:
        """What the adapter is called in reports."""
        return str(self.meta.record.get("name") or self.folder.resolve().name)


def read_contenders(sources: Sequence[str | Path], seeds: Sequence[int] | None = None) -> list[Contender]:
    """The contenders of some training seeds, all of one recipe, in the seeds' order.

    Args:
        sources: adapter folders, or shipped adapters' names.
        seeds: those that take part; all where None.

    Raises:
        EvaluationError: none, two of one seed, a seed that no adapter has, or adapters that are not of one recipe.
        AdapterError: one cannot be read.
    """
    if not sources:
        raise EvaluationError("give at least one adapter's folder or name")
    found = sorted((Contender.read(source) for source in sources), key=lambda one: one.seed)
    numbers = [one.seed for one in found]
    repeated = next((one for one in found if numbers.count(one.seed) > 1), None)
    if repeated:
        raise EvaluationError(
            f"two adapters were trained by seed {repeated.seed}, {repeated.folder} among them; several adapters count as training seeds "
            "of one recipe, so give one of each seed, and evaluate others in runs of their own"
        )
    missing = [seed for seed in seeds or () if seed not in numbers]
    if missing:
        raise EvaluationError(f"--seeds: no adapter given was trained by seed {missing[0]}; theirs are {', '.join(map(str, numbers))}")
    chosen = [one for one in found if seeds is None or one.seed in seeds]
    for other in chosen[1:]:
        require_one_recipe(chosen[0], other)
    return chosen


def require_one_recipe(first: Contender, other: Contender) -> None:
    """See that two contenders differ in their training seed alone.

    Raises:
        EvaluationError: they do not; the message names the first section that differs.
    """
    fixed = [_decisive(one.meta) for one in (first, other)]
    differs = [key for key in fixed[0] if fixed[0][key] != fixed[1].get(key)] + sorted(fixed[1].keys() - fixed[0].keys())
    if differs:
        raise EvaluationError(
            f"{first.folder} and {other.folder} differ in {differs[0]}, so they are not two seeds of one recipe; evaluate each by itself"
        )


def _decisive(meta: MetaAdapter) -> dict[str, Any]:
    # as JSON has it, in which lists and tuples are one
    recipe: dict[str, Any] = json.loads(json.dumps(meta.record.get("recipe") or {}))
    decided = {name: section for name, section in recipe.items() if name not in OWN}
    search = meta.record.get("search")
    # each seed's search may have chosen other values
    for path in search["trials"][search["chosen"]] if search else ():
        _forget(decided, path.split("."))
    best = recipe.get("run", {}).get(SHARED, False)
    return {**decided, f"run.{SHARED}": best, "base's weights": meta.fingerprint, "suite's content": _suite(meta)}


def _forget(node: Any, path: Sequence[str]) -> None:
    """Take the value at a path out, if it is there."""
    *parents, last = path
    for key in parents:
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, TypeError, ValueError):
            return
    if isinstance(node, dict):
        node.pop(last, None)


def require_twin(meta: MetaAdapter, control: MetaAdapter, folder: Path) -> None:
    """See that a control shares with its adapter what both sides of a comparison must.

    Raises:
        EvaluationError: another base, adapter shape, suite or seed.
    """
    pairs: dict[str, tuple[object, object]] = {
        "base": ((meta.base.id, meta.fingerprint), (control.base.id, control.fingerprint)),
        "adapter shape": (meta.lora, control.lora),
        "suite": (_suite(meta), _suite(control)),
        "seed": (meta.record.get("seed"), control.record.get("seed")),
    }
    for what, (own, its) in pairs.items():
        if own != its:
            raise EvaluationError(
                f"{folder}: its {what} is {its}, the adapter's {own}; a control shares all but the algorithm: train it anew by "
                "`headstart meta-train --equal-compute-of RUN`, or move it away"
            )


def require_own(control: MetaAdapter, folder: Path, place: Path) -> None:
    """See that a control that says what it is a control of was trained for the adapter in this folder.

    Raises:
        EvaluationError: it was trained for another.
    """
    of = control.record.get("control_of")
    if of and of["sha256"] != digest_of_files([folder / WEIGHTS[0]]):
        raise EvaluationError(
            f"{place}: the control of another adapter ({of['name']}), whose budget is not this one's; train one by "
            "`headstart meta-train --equal-compute-of RUN`, or move it away"
        )


def _suite(meta: MetaAdapter) -> tuple[str, ...]:
    suite = meta.record.get("suite", {})
    return tuple(str(suite.get(key, "")) for key in ("name", "revision", "regime"))


def unequal(contender: Contender, arms: Sequence[str]) -> list[str]:
    """One line for each thing that a control among the arms had more or less of than the adapter: operations, search trials."""
    own, trials = cost(contender.meta)["flops"], _trials(contender.meta)
    lines = []
    for arm, control in contender.controls.items():
        ratio = cost(control)["flops"] / own if own else None
        if arm in arms and ratio is None:
            lines.append(f"seed {contender.seed}: what the meta-adapter took was not recorded, so that {arm} may have had more or less")
        elif arm in arms and ratio and abs(ratio - 1) > EQUAL:
            lines.append(f"seed {contender.seed}: {arm} was trained for {ratio:.2f} times the operations of the meta-adapter")
        if arm in arms and _trials(control) != trials:
            lines.append(f"seed {contender.seed}: {arm} is the best of {_trials(control)} search trials, the meta-adapter of {trials}")
    return lines


def _trials(adapter: MetaAdapter) -> int:
    return len(adapter.record.get("search", {}).get("trials", [None]))


def cost(adapter: MetaAdapter) -> dict[str, float]:
    """What training took: counted operations, tokens (0 where an older version did not count them), seconds."""
    recorded = adapter.record.get("cost", {})
    return {key: recorded.get(key, 0) for key in ("flops", "tokens", "seconds")}


def digest_in(folder: Path) -> str:
    """The digest of the meta-adapter in a folder; raises `AdapterError` where it cannot be read."""
    return digest(folder, MetaAdapter.from_pretrained(folder))


def digest(folder: Path, adapter: MetaAdapter) -> str:
    """The sha256 of an adapter's weights, of its rates, and of how it adapts; it outlives fields that come to be, at their defaults."""
    weights = digest_of_files(folder / name for name in WEIGHTS)
    return hashlib.sha256(f"{weights} {_spelt(adapter.adaptation)} {_spelt(adapter.lora)}".encode()).hexdigest()


def _spelt(settings: Adaptation | LoraSpec) -> str:
    """A dataclass as Python shows it, without later fields that are at their defaults, which digests already written did not know."""
    shown = {each.name: getattr(settings, each.name) for each in fields(settings)}
    later = {each.name for each in fields(settings) if each.name not in SPELT and shown[each.name] == each.default}
    inside = ", ".join(f"{name}={value!r}" for name, value in shown.items() if name not in later)
    return f"{type(settings).__name__}({inside})"
