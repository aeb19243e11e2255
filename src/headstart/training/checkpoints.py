"""Checkpoints: what a stopped run needs to go on to the same bits, in safetensors and JSON.

`checkpoints/step-000050/` holds `state.safetensors` (initialisations, learned rates and the outer optimiser's tensors; never the
base) and `checkpoint.json` (how far the run is, and what it is a run of). There are no generators among it: every random draw is a
pure function of the seed and the step.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.files import whole_folder, write_json, writing
from headstart.tasks.planner import RowCosts
from headstart.training.errors import RunError
from headstart.training.runtime import command
from headstart.training.state import Best, Position, Progress, Spent, State

SCHEMA_VERSION = 2
MAY_DIFFER = ("run.output_dir", "run.report_to", "run.save_steps", "run.save_total_limit")
"""Keys of a recipe that say where and how often a run writes, and change nothing that it computes or logs."""


@dataclass(frozen=True)
class Identity:
    """What a run and the checkpoint that it goes on from must have in common.

    Args:
        recipe: the resolved recipe, as JSON.
        suite_revision: of the tasks' content.
        fingerprint: of the base's weights.
        ranks: how many processes there are.
    """

    recipe: Mapping[str, Any]
    suite_revision: str
    fingerprint: str
    ranks: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read.

    Args:
        position: how far the run is.
        identity: what it is a run of.
        made_by: machine, versions and commit of the process that wrote it.
        costs: what rows were laid out by; other rows would give other bits.
    """

    position: Position
    identity: Identity
    made_by: Mapping[str, Any]
    costs: RowCosts


def save(folder: Path, checkpoint: Checkpoint, limit: int) -> None:
    """Write a checkpoint whole or not at all, then remove all but the newest `limit`.

    Raises:
        WriteError: it cannot be written; the earlier ones are still there.
    """
    position = checkpoint.position
    states = _states(position)
    tensors = {f"outer/{name}": tensor for name, tensor in position.progress.outer.items()}
    for place, state in states.items():
        tensors |= {f"{place}/theta/{name}": tensor for name, tensor in state.theta.items()}
        tensors |= {f"{place}/rates/{name}": tensor for name, tensor in state.rates.items()}
    about = {
        "schema_version": SCHEMA_VERSION,
        "step": position.steps,
        "leg": position.leg,
        "steps_before_leg": position.before,
        "leg_flops": position.progress.flops,
        "leg_seconds": position.progress.seconds,
        "leg_tokens": position.progress.tokens,
        "best_loss": position.progress.best.loss if position.progress.best else None,
        # a sum over tensors depends in its last bits on their order, which a safetensors file does not keep
        "tensors": list(tensors),
        "states": {place: {"step": state.step, "spent": [asdict(leg) for leg in state.spent]} for place, state in states.items()},
        "identity": asdict(checkpoint.identity),
        "made_by": checkpoint.made_by,
        "row_costs": asdict(checkpoint.costs),
    }
    with whole_folder(folder / f"step-{position.steps:06d}") as fresh:
        # copies, because states share tensors that no step has changed between them, and a safetensors file has no such thing
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, fresh / "state.safetensors")
        write_json(fresh / "checkpoint.json", about)
    with writing(folder):
        for old in found(folder)[:-limit]:
            shutil.rmtree(old)


def found(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    steps = {path: re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step), key=lambda path: int(path.name.removeprefix("step-")))


def load_newest(folder: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read the newest checkpoint in a folder, onto a device.

    Raises:
        RunError: there is none, it cannot be read, or a newer version wrote it.
    """
    checkpoints = found(folder)
    if not checkpoints:
        raise RunError(f"{folder}: there is no checkpoint to resume from; run without --resume (in Python, without resume=True)")
    newest = checkpoints[-1]
    about = _read_json(newest / "checkpoint.json", checkpoints)
    if about.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(f"{newest}/checkpoint.json: written by a newer headstart (schema {about['schema_version']}); upgrade headstart")
    tensors = _read_tensors(newest / "state.safetensors", device, checkpoints)
    try:
        ordered = {name: tensors[name] for name in about["tensors"]}
        return Checkpoint(_position(about, ordered), Identity(**about["identity"]), about["made_by"], RowCosts(**about["row_costs"]))
    except (KeyError, TypeError) as error:
        raise _unreadable(newest / "checkpoint.json", f"incomplete: {error}", checkpoints) from error


def require_same(checkpoint: Identity, run: Identity, folder: Path) -> None:
    """Refuse to go on with another run's checkpoint.

    Raises:
        RunError: another recipe, suite, base or number of ranks; the message names every difference.
    """
    faults = [
        f"{path}: {then} in the checkpoint, {now} in this run" for path, then, now in recipe_differences(checkpoint.recipe, run.recipe)
    ]
    if checkpoint.suite_revision != run.suite_revision:
        faults.append(f"the suite has changed: revision {checkpoint.suite_revision} in the checkpoint, {run.suite_revision} now")
    if checkpoint.fingerprint != run.fingerprint:
        faults.append(f"the base has other weights: fingerprint {checkpoint.fingerprint} in the checkpoint, {run.fingerprint} now")
    if checkpoint.ranks != run.ranks:
        faults.append(f"it was saved by {checkpoint.ranks} rank(s), this run has {run.ranks}; {command(checkpoint.ranks)}")
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise RunError(
            f"{folder}: the checkpoints belong to another run:{listed}\n"
            "undo the differences to resume, or set run.output_dir to another folder to start a new run"
        )


def recipe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted path and both values, as JSON, of every key that differs and may not; a key that is not there counts as null."""
    before, after = ({path: json.dumps(value) for path, value in scalars(recipe).items()} for recipe in (then, now))
    paths = [path for path in {**before, **after} if not path.startswith(MAY_DIFFER)]
    sides = [(path, before.get(path, "null"), after.get(path, "null")) for path in paths]
    return [(path, old, new) for path, old, new in sides if old != new]


def scalars(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value, for every value of a recipe that has no keys of its own."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        items = dict(enumerate(value)) if isinstance(value, list) else value
        flat |= {f"{key}.{path}": scalar for path, scalar in scalars(items).items()} if isinstance(items, dict) else {str(key): value}
    return flat


def _states(position: Position) -> dict[str, State]:
    """The states that a position is made of, each by its place; a leg that has not begun has one state."""
    progress = position.progress
    states = {"start": progress.start}
    if progress.steps:
        states["now"] = progress.state
    if progress.best:
        states["best"] = progress.best.state
    if position.finished:
        states["finished"] = position.finished
    return states


def _position(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Position:
    states = {place: _state(place, state, tensors) for place, state in about["states"].items()}
    start = states["start"]
    progress = Progress(
        start,
        states.get("now", start),
        _under("outer/", tensors),
        about["leg_flops"],
        about["leg_seconds"],
        # earlier versions counted no tokens and kept no best state
        about.get("leg_tokens", 0),
        Best(states["best"], about["best_loss"]) if "best" in states else None,
    )
    return Position(about["leg"], progress, about["steps_before_leg"], states.get("finished"))


def _state(place: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
    spent = tuple(Spent(**leg) for leg in about["spent"])
    return State(_under(f"{place}/theta/", tensors), _under(f"{place}/rates/", tensors), about["step"], spent)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read_json(path: Path, checkpoints: list[Path]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _unreadable(path, str(error), checkpoints) from error
    if not isinstance(content, dict):
        raise _unreadable(path, "not a JSON object", checkpoints)
    return content


def _read_tensors(path: Path, device: torch.device | str, checkpoints: list[Path]) -> dict[str, Tensor]:
    try:
        return dict(load_file(path, device=str(device)))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, str(error), checkpoints) from error


def _unreadable(path: Path, why: str, checkpoints: list[Path]) -> RunError:
    *earlier, newest = checkpoints
    mend = (
        f"remove {newest} to go on from {earlier[-1].name}"
        if earlier
        else f"there is no earlier one; remove {newest.parent} and start anew"
    )
    return RunError(f"{path}: not a whole checkpoint ({why}); {mend}")
