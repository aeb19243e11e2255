"""`headstart check`: a recipe, a suite or a file looked at before anything long starts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.bases import BaseSpec
from headstart.checking.findings import Findings, Kind
from headstart.checking.suite import Look, look_at_suite
from headstart.errors import HeadstartError
from headstart.files import write_atomically
from headstart.recipe import Recipe, RecipeError, load_recipe
from headstart.shipped import shipped_recipes
from headstart.tasks.problems import Place, Problem
from headstart.tasks.reading.shapes import Turns
from headstart.tasks.reading.tables import is_table
from headstart.tasks.reading.text import why_not
from headstart.tasks.spec import SourceSpec

if TYPE_CHECKING:
    from headstart.checking.preview import Preview

MAX_LENGTH = 512
PREVIEWED = 2
"""Tasks that are drawn, of different clusters."""


class CheckError(HeadstartError):
    """There is nothing of that name to look at."""


def check(
    target: str | Path,
    overrides: Sequence[str] = (),
    *,
    base: BaseSpec | None = None,
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    turns: Turns = "all",
) -> Findings:
    """Look at a recipe, a suite or a file of rows: every problem in one pass, with sizes and estimates; nothing is trained.

    Args:
        target: a recipe's file or name; `builtin`, a suite's folder or a dataset's id on the hub; a file of rows.
        overrides: `a.b=value`, over a recipe's.
        base: whose tokenizer and template render a suite or a file; the bundled one where None. A recipe names its own.
        max_length: the most tokens of an example of a suite or a file, 512 where None. A recipe names its own.
        columns: of a file, role -> column; as noticed where None.
        turns: of a file of chats, `all` of the assistant's turns are learned, or the `last` alone.

    Raises:
        CheckError: overrides for what is no recipe.
    """
    return _found(str(target), overrides, base or BaseSpec(), max_length or MAX_LENGTH, columns, turns, 0)[0]


def check_and_draw(
    target: str,
    overrides: Sequence[str],
    base: BaseSpec,
    max_length: int | None,
    columns: Mapping[str, str] | None,
    turns: Turns,
    drawn: bool,
) -> "tuple[Findings, list[Preview]]":
    """As `check`, and with previews of some tasks if they are asked for."""
    return _found(target, overrides, base, max_length or MAX_LENGTH, columns, turns, PREVIEWED if drawn else 0)


def write_page(previews: "Sequence[Preview]", path: Path, title: str) -> None:
    """Write previews as a page.

    Raises:
        WriteError: it cannot be written.
    """
    from headstart.checking.preview_html import preview_html

    write_atomically(path, preview_html(previews, title).encode())


def kind_of(target: str) -> Kind:
    """What a user's word stands for: a recipe's name or file, else a file of rows, else a suite."""
    path = Path(target)
    if path.suffix in (".yaml", ".yml") or (target in shipped_recipes() and not path.exists()):
        return "recipe"
    return "file" if path.is_file() and is_table(path) else "suite"


def _found(
    target: str, overrides: Sequence[str], base: BaseSpec, max_length: int, columns: Mapping[str, str] | None, turns: Turns, drawn: int
) -> "tuple[Findings, list[Preview]]":
    try:
        kind = kind_of(target)
    except OSError as error:
        return Findings(target, "file", [Problem(why_not(error), Place(target))]), []
    if overrides and kind != "recipe":
        raise CheckError(f"{overrides[0]!r} changes a recipe, and {target!r} is none; a recipe is a .yaml file or a shipped one's name")
    findings = Findings(target, kind)
    if kind == "recipe":
        return findings, _recipe(findings, overrides, drawn)
    if kind == "file":
        return findings, _file(findings, base, max_length, columns, turns, drawn)
    look = Look((SourceSpec(target),), base, max_length=max_length)
    look_at_suite(look, findings)
    if findings.errors and not Path(target).exists():
        findings.add(Problem(f"recipes that are shipped: {', '.join(shipped_recipes())}", level="note"))
    return findings, _suite(look, drawn) if drawn and not findings.errors else []


def _recipe(findings: Findings, overrides: Sequence[str], drawn: int) -> "list[Preview]":
    recipe = _loaded(findings, overrides)
    if recipe is None:
        return []
    with findings.noting():
        # torch and transformers take seconds
        from headstart.checking.recipe import look_at_recipe

        found = look_at_recipe(recipe, findings)
        if found and drawn:
            from headstart.checking.preview import make_preview
            from headstart.tasks.prepare import spread

            suite, renderer = found
            return [make_preview(task, renderer) for task in spread(suite.split("meta_train"), drawn)]
    return []


def _loaded(findings: Findings, overrides: Sequence[str]) -> Recipe | None:
    """The recipe, or None where it cannot be read."""
    try:
        return load_recipe(findings.target, overrides)
    except RecipeError as error:
        for problem in _faults(str(error)):
            findings.add(problem)
    except OSError as error:
        findings.add(Problem(why_not(error), Place(findings.target)))
    return None


def _faults(told: str) -> list[Problem]:
    """The problems that a recipe's error tells, a line each behind the file's name, or all in one."""
    first, *lines = told.split("\n")
    if not lines or not all(line.startswith("  ") for line in lines):
        return [Problem(told)]
    return [Problem(line.strip(), Place(first.removesuffix(":"))) for line in lines]


def _suite(look: Look, drawn: int) -> "list[Preview]":
    from headstart.bases import load_tokenizer
    from headstart.checking.preview import make_preview
    from headstart.tasks.prepare import prepare_suite, spread
    from headstart.tasks.render import Renderer

    renderer = Renderer(load_tokenizer(look.base), look.max_length, look.base.chat_template_kwargs)
    suite, _ = prepare_suite(look.specs, look.regime, renderer, look.needed, look.seed)
    return [make_preview(task, renderer) for task in spread(suite.split("meta_train"), drawn)]


def _file(
    findings: Findings, base: BaseSpec, max_length: int, columns: Mapping[str, str] | None, turns: Turns, drawn: int
) -> "list[Preview]":
    from headstart.checking.rows import look_at_file

    found = look_at_file(Path(findings.target), base, max_length, findings, columns, turns)
    if not found or not drawn or findings.errors:
        return []
    from headstart.checking.preview import make_preview

    task, renderer = found
    return [make_preview(replace(task, examples=tuple(task.examples)), renderer)]
