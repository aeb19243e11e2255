"""Ranks, devices and trackers; the only importer of accelerate.

A launcher starts the ranks: `torchrun --nproc_per_node N -m headstart meta-train ...`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration
from torch import Tensor
from torch.distributed import DistNetworkError

from headstart.algorithms.types import MetaGradient
from headstart.training.errors import RunError

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes they start; accelerate reads them in this order."""
PACKAGES = {"comet_ml": "comet-ml"}
"""What to install for a tracker, where it is not its name."""


class Runtime:
    """One process of a run.

    Args:
        output_dir: where trackers that write files do so, in its folder `tensorboard`.
        report_to: trackers by accelerate's names.
        last: whether no other run follows in this process, so that closing it parts with the other ranks.

    Raises:
        RunError: a tracker is not installed, or there are not as many ranks as the launcher was told to start.
    """

    def __init__(self, output_dir: Path, report_to: Sequence[str] = (), last: bool = True) -> None:
        require_installed(report_to)
        self._last = last
        wanted = wanted_ranks(os.environ)
        folders = ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "tensorboard"))
        with port_errors():
            # without an accelerator accelerate must be told so: by itself it makes every process of a launcher the first of one
            self._accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),
                log_with=list(report_to) or None,
                project_dir=str(output_dir),
                project_config=folders,
            )
        if self.ranks != wanted:
            raise RunError(f"the launcher was asked for {wanted} rank(s), but there is {self.ranks}; {command(wanted)}")

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        device: torch.device = self._accelerator.device
        # under a launcher accelerate numbers the CPU too, which safetensors does not know
        return torch.device("cpu") if device.type == "cpu" else device

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

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let the first rank of every machine through before the others: what it fetches or converts, they find."""
        if not self._accelerator.is_local_main_process:
            self.wait()
        yield
        if self._accelerator.is_local_main_process:
            self.wait()

    def reduce(self, gradient: MetaGradient) -> MetaGradient:
        """The mean over ranks; one message, as small as the adapter.

        Raises:
            RunError: another rank is gone.
        """
        if self.ranks == 1:
            return gradient
        groups = {"theta": gradient.theta, "log_rates": gradient.log_rates, "matrix_rates": gradient.matrix_rates}
        tensors = {(group, name): tensor for group, members in groups.items() for name, tensor in members.items()}
        names = sorted(gradient.metrics)
        metrics = torch.tensor([gradient.metrics[name] for name in names], device=self.device)
        flat = self._reduce(torch.cat([*(tensor.flatten() for tensor in tensors.values()), metrics]), "mean")
        parts = torch.split(flat, [*(tensor.numel() for tensor in tensors.values()), len(names)])
        reduced: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
        for ((group, name), tensor), part in zip(tensors.items(), parts[:-1], strict=True):
            reduced[group][name] = part.view_as(tensor)
        return replace(gradient, **reduced, metrics=dict(zip(names, parts[-1].tolist(), strict=True)))

    def total(self, number: int) -> int:
        """The sum over ranks, the same on all; raises `RunError` as `totals` does."""
        return self.totals(number)[0]

    def totals(self, *numbers: int) -> list[int]:
        """Each number's sum over ranks, the same on all; one message.

        Raises:
            RunError: another rank is gone.
        """
        if self.ranks == 1:
            return list(numbers)
        return [int(number) for number in self._reduce(torch.tensor(numbers, device=self.device), "sum")]

    def of_first(self, numbers: Sequence[float]) -> list[float]:
        """The first rank's numbers, on all ranks.

        Raises:
            RunError: another rank is gone.
        """
        if self.ranks == 1:
            return list(numbers)
        own = torch.tensor(numbers, dtype=torch.float64, device=self.device) * self.is_main
        return [float(number) for number in self._reduce(own, "sum")]

    def track(self, config: Mapping[str, Any]) -> None:
        """Start the trackers, noting scalars with them."""
        self._accelerator.init_trackers("headstart", config=dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send scalars to the trackers; steps must not go back."""
        self._accelerator.log(dict(values), step=step)

    def wait(self) -> None:
        """Wait for all ranks.

        Raises:
            RunError: another rank is gone.
        """
        with losing_ranks():
            self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Finish the trackers, and after the last run part with the other ranks."""
        if self._last:
            self._accelerator.end_training()
        else:
            for tracker in self._accelerator.trackers:
                tracker.finish()

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        with losing_ranks():
            reduced: Tensor = self._accelerator.reduce(tensor, how)
        return reduced


def require_installed(report_to: Sequence[str]) -> None:
    """See that trackers can be used; accelerate leaves out in silence what is not installed.

    Raises:
        RunError: one is not installed.
    """
    available = {str(tracker) for tracker in get_available_trackers()}
    missing = [name for name in report_to if name not in available]
    if missing:
        packages = " ".join(PACKAGES.get(name, name) for name in missing)
        raise RunError(f"run.report_to: {', '.join(missing)} is not installed; run `pip install {packages}`, or leave it out")


def wanted_ranks(environment: Mapping[str, str]) -> int:
    """How many ranks a launcher was told to start, as it says in the environment; 1 without a launcher.

    Raises:
        RunError: `accelerate launch` was told to start several processes on CPUs, where it starts one.
    """
    sizes = [environment[name] for name in WORLD_SIZES if name in environment]
    # of a wish for several, it leaves behind no more than a port that one process has no use for
    if not sizes and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
        raise RunError(
            f"`accelerate launch` was asked for several processes but started one, as it does on CPUs; {command()} "
            "(for one process, leave out --num_processes and unset MASTER_PORT)"
        )
    return int(sizes[0]) if sizes else 1


def command(ranks: int | str = "N") -> str:
    """How to start so many ranks."""
    return f"start it with `torchrun --standalone --nproc_per_node {ranks} -m headstart meta-train ...`"


@contextmanager
def port_errors() -> Iterator[None]:
    """Turn a failure to meet the other ranks into a `RunError` that names the port."""
    try:
        yield
    except DistNetworkError as error:
        host, port = (os.environ.get(name, "not set") for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise RunError(
            f"the ranks cannot meet at MASTER_ADDR {host}, MASTER_PORT {port}: {str(error).splitlines()[0]}; set MASTER_PORT "
            f"to a port that is free, or let torchrun find one: {command()}"
        ) from error


@contextmanager
def losing_ranks() -> Iterator[None]:
    """Turn a broken exchange with the other ranks into a `RunError`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RunError(f"another rank is gone ({str(error).splitlines()[0]}); its own message says why") from error
