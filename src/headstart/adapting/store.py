"""Where fits that take long leave how far they are, so that a stopped one goes on to the same bits."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headstart.adapting.trials import Trial
from headstart.files import whole_folder, write_json

SECONDS = 60.0
"""Progress is left at most so often, and such that leaving it takes no more than a twentieth of the time."""


@dataclass
class Store:
    """A folder of unfinished fits, each under a digest of all that it depends on: another fit never goes on from it.

    Args:
        folder: made when something is first left there; None leaves nothing.
        identity: what all fits depend on beside their trials, such as the base's weights.
        asked: whether a stop was asked for.
    """

    folder: Path | None = None
    identity: str = ""
    asked: Callable[[], bool] = lambda: False
    _due: float = field(default_factory=lambda: time.monotonic() + SECONDS)

    def digest(self, trials: Iterable[Trial]) -> str:
        """Of all that a fit of these trials depends on."""
        found = hashlib.sha256(self.identity.encode())
        tensors: dict[int, str] = {}
        for trial in trials:
            way = trial.way
            for part in (way.start, way.rates):
                # many trials start from one initialisation
                if id(part) not in tensors:
                    tensors[id(part)] = digest_of(part)
                found.update(tensors[id(part)].encode())
            rules = (way.trained, way.first, way.after)
            task = (trial.task.name, trial.task.instruction, trial.task.labels)
            found.update(
                repr(
                    (trial.name, rules, task, trial.folds, trial.schedule, trial.stop, trial.looks, trial.choosing, trial.patience)
                ).encode()
            )
        return found.hexdigest()[:24]

    def load(self, digest: str, device: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What a fit left, or None; what cannot be read counts as nothing left."""
        if self.folder is None or not (self.folder / digest).is_dir():
            return None
        try:
            about = json.loads((self.folder / digest / "fit.json").read_text(encoding="utf-8"))
            return load_file(self.folder / digest / "fit.safetensors", device=device), about
        except (OSError, ValueError, SafetensorError):
            return None

    @property
    def due(self) -> bool:
        """Whether it is time to leave progress."""
        return self.folder is not None and time.monotonic() >= self._due

    def save(self, digest: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Leave how far a fit is, whole or not at all; raises `WriteError`."""
        if self.folder is None:
            return
        started = time.monotonic()
        with whole_folder(self.folder / digest) as fresh:
            save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, fresh / "fit.safetensors")
            write_json(fresh / "fit.json", about)
        ended = time.monotonic()
        self._due = ended + max(SECONDS, 20 * (ended - started))

    def clear(self) -> None:
        """Remove the folder; for when what was fitted is saved elsewhere."""
        if self.folder is not None and self.folder.is_dir():
            shutil.rmtree(self.folder)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors, of their names and of their shapes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name}{tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
