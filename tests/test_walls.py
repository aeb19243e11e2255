"""Imports point one way, and two libraries have one importer each."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}


def imports(module):
    """Every module named in an import statement, wherever in the file it stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(prefix):
    return {module for module in MODULES if any(name == prefix or name.startswith(f"{prefix}.") for name in imports(module))}


@pytest.mark.parametrize(
    ("library", "only"),
    [("bitsandbytes", "headstart.model.four_bit"), ("accelerate", "headstart.training.runtime"), ("typer", "headstart.cli")],
)
def test_library_has_one_importer(library, only):
    assert importers(library) == {only}


def test_only_the_entry_point_imports_the_command_line():
    assert importers("headstart.cli") == {"headstart.__main__"}


ALLOWED = {
    "headstart.tasks": ("headstart.tasks", "headstart.errors", "headstart.files"),
    "headstart.algorithms": ("headstart.algorithms",),
    # the learner takes rows, the token tensors that tasks hand over, and the plans they are laid out by
    "headstart.model": (
        "headstart.model",
        "headstart.errors",
        "headstart.files",
        "headstart.bases",
        "headstart.tasks.rows",
        "headstart.tasks.blocks",
        "headstart.tasks.planner",
    ),
    "headstart.adapter": ("headstart",),
}
FORBIDDEN = {
    "headstart.adapter": ("headstart.training", "headstart.evaluation"),
    "headstart.adapting": ("headstart.training", "headstart.evaluation"),
    "headstart.evaluation": ("headstart.training",),
}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_they_may(package):
    for module in MODULES:
        if module.startswith(package):
            own = [name for name in imports(module) if name.startswith("headstart")]
            assert all(name.startswith(ALLOWED[package]) for name in own), module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_composing_packages_keep_their_order(package):
    for module in MODULES:
        if module.startswith(package):
            assert not [name for name in imports(module) if name.startswith(FORBIDDEN[package])], module


def test_algorithms_are_pure_tensors():
    for module in MODULES:
        if module.startswith("headstart.algorithms"):
            outside = {name.split(".")[0] for name in imports(module)} - {"headstart", "torch"}
            assert outside <= {"collections", "dataclasses", "math", "typing"}, module
