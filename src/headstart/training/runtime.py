"""Ranks, devices and trackers; the only importer of accelerate."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from headstart.algorithms.types import MetaGradient


class Runtime:
    """One process of a run.

    Args:
        output_dir: where trackers write.
        report_to: trackers by accelerate's names.
        config: scalars to note with the trackers.
    """

    def __init__(self, output_dir: Path, report_to: tuple[str, ...] = (), config: Mapping[str, Any] | None = None) -> None:
        self._accelerator = Accelerator(log_with=list(report_to), project_dir=str(output_dir))
        if report_to:
            self._accelerator.init_trackers("tensorboard", config=dict(config or {}))

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self._accelerator.process_index)

    @property
    def ranks(self) -> int:
        """How many processes there are."""
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and prints."""
        return bool(self._accelerator.is_main_process)

    def reduce(self, gradient: MetaGradient) -> MetaGradient:
        """The mean over ranks; one message, as small as the adapter."""
        if self.ranks == 1:
            return gradient
        groups = {"theta": gradient.theta, "log_rates": gradient.log_rates}
        tensors = {(group, name): tensor for group, members in groups.items() for name, tensor in members.items()}
        names = sorted(gradient.metrics)
        metrics = torch.tensor([gradient.metrics[name] for name in names], device=self.device)
        flat = self._accelerator.reduce(torch.cat([*(tensor.flatten() for tensor in tensors.values()), metrics]), "mean")
        parts = flat.split([*(tensor.numel() for tensor in tensors.values()), len(names)])
        reduced: dict[str, dict[str, Tensor]] = {"theta": {}, "log_rates": {}}
        for ((group, name), tensor), part in zip(tensors.items(), parts[:-1], strict=True):
            reduced[group][name] = part.view_as(tensor)
        return replace(gradient, **reduced, metrics=dict(zip(names, parts[-1].tolist(), strict=True)))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send scalars to the trackers."""
        self._accelerator.log(dict(values), step=step)

    def wait(self) -> None:
        """Wait for all ranks."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Finish the trackers."""
        self._accelerator.end_training()
