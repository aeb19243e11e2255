"""A run's output folder: what may be written into, and what a resumed run finds there."""

import json
from pathlib import Path

import yaml

from headstart.files import WriteError, write_atomically
from headstart.recipe import Recipe
from headstart.training import checkpoints
from headstart.training.errors import RunError

RESOLVED = "# the resolved recipe of a run, written by headstart"
TRIALS = "trials"
"""The folder of a search's runs."""


def check_folder(folder: Path, resume: bool) -> None:
    """See that a run may write into a folder; nothing is written yet.

    Raises:
        RunError: it is or lies below a file, holds a finished run, a stopped one that is not asked for, or something else.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise RunError(f"run.output_dir: {folder} cannot be a folder, as {place} is a file; name another folder")
    if (folder / "adapter").exists():
        raise RunError(f"{folder} already holds a finished run; set run.output_dir to another folder, or remove this one")
    if not resume and (checkpoints.found(folder / "checkpoints") or (folder / TRIALS).is_dir()):
        raise RunError(
            f"{folder} holds a stopped run; add --resume to go on with it (in Python, resume=True), or remove the folder to start anew"
        )
    # a run that ended before its first checkpoint leaves its recipe
    if not resume and folder.exists() and any(folder.iterdir()) and not _resolved_by_us(folder / "recipe.yaml"):
        raise RunError(f"run.output_dir: {folder} is not empty and holds no run of headstart; name another folder")


def claim(folder: Path, recipe: Recipe) -> None:
    """Write the resolved recipe, which also shows that the folder can be written.

    Raises:
        RunError: it cannot.
    """
    try:
        content = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        write_atomically(folder / "recipe.yaml", f"{RESOLVED}\n{content}".encode())
    except WriteError as error:
        raise RunError(f"run.output_dir: {error}; name a folder that can be written") from error


def _resolved_by_us(path: Path) -> bool:
    """Whether a file is the resolved recipe of a run, and not one that a user wrote and put there."""
    return path.is_file() and path.read_bytes().startswith(RESOLVED.encode())


def cut_metrics(path: Path, last: int) -> None:
    """Keep the rows of a metrics file up to a step, each as it is; no file where none is left.

    A row that was cut short when its process was killed is of a later step, as every checkpoint comes after its step's row.
    """
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
        if not line.endswith("\n") or json.loads(line)["step"] > last:
            break
        kept.append(line)
    if kept:
        write_atomically(path, "".join(kept).encode())
    else:
        path.unlink(missing_ok=True)
