"""What travels with the package and is found by name from any folder: recipes and meta-adapters."""

import difflib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from headstart.errors import HeadstartError


def shipped_recipes() -> dict[str, Path]:
    """Name -> YAML file of the shipped recipes."""
    return {path.stem: path for path in sorted(shipped_folder("recipes").glob("*.yaml"))}


def shipped_adapters() -> dict[str, Path]:
    """Name -> folder of the shipped meta-adapters."""
    return {path.parent.name: path.parent for path in sorted(shipped_folder("adapters").glob("*/adapter_config.json"))}


def shipped_folder(kind: str) -> Path:
    """Where `recipes` or `adapters` lie: inside the installed package, or at the top of the checkout it runs from."""
    packaged = Path(str(files("headstart"))) / kind
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / kind


def by_name(name: str, shipped: Mapping[str, Path], noun: str, error: type[HeadstartError]) -> Path:
    """The shipped thing of a name.

    Args:
        name: what the user gave.
        shipped: name -> where it lies.
        noun: what was looked for, such as `recipe file`.
        error: what to raise.

    Raises:
        HeadstartError: nothing of that name is shipped; as `error`, with the nearest name and all there are.
    """
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise error(f"there is no {noun} {name!r}, and none is shipped under that name{hint}; shipped: {', '.join(shipped) or 'none'}")
