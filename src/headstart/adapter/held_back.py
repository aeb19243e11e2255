"""Adapting to a user's file: some rows adapt, the rest are held back and measured on before and after."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from headstart.adapter.adapted import AdaptedAdapter
from headstart.adapter.header import AdapterError
from headstart.adapter.meta_adapter import MetaAdapter
from headstart.files import require_writable
from headstart.model.base import load_base, load_tokenizer
from headstart.progress import say
from headstart.scoring import Metrics
from headstart.tasks.render import Renderer
from headstart.tasks.sources import read_task
from headstart.tasks.task import Example, SuiteError, Task

MOST_HELD_BACK = 256
"""More held-back rows than this are cut: past it the measurement costs more time than it gains precision."""


def adapt_and_compare(
    adapter: str | Path,
    data: Path,
    *,
    steps: int,
    shots: int,
    output: Path,
    console: Console,
    base_source: str | None = None,
    allow_base_variant: bool = False,
) -> AdaptedAdapter:
    """Adapt to `shots` rows of a file, print loss and exact-match accuracy on the others before and after, and save.

    Args:
        adapter: a meta-adapter's folder, or a shipped one's name.
        data: a `.jsonl` or `.csv` file of one task.
        steps: adaptation steps.
        shots: rows to adapt on.
        output: where to save.
        console: prints the table.
        base_source: where the base's weights come from; what the adapter says where None.
        allow_base_variant: accept other weights of the same base.

    Raises:
        SuiteError: the file cannot be read, or has no row to hold back.
        AdapterError: the adapter cannot be used, the base is not its own, or the output folder exists already.
        BaseError: the base cannot be loaded.
        WriteError: the output folder cannot be written; raised before any adapting.
    """
    if output.exists():
        raise AdapterError(f"{output} exists already; give another folder with --output, or remove it")
    task = read_task(data)
    meta = MetaAdapter.from_pretrained(adapter)
    support, held_back = hold_back(task, shots)
    require_writable(output)
    spec = replace(meta.base, source=base_source or meta.base.source)
    # rendered here for its errors, before the base is loaded
    Renderer(load_tokenizer(spec), meta.max_length).render(task.instruction, [*support, *held_back])
    base = load_base(spec)
    meta.require_base(base, allow_base_variant)
    say(console, f"adapting on {len(support)} rows of {data}, {len(held_back)} held back")
    # the base was looked at above
    before, adapted = (
        meta.adapt(support, instruction=task.instruction, steps=count, base=base, allow_base_variant=True) for count in (0, steps)
    )
    adapted.save_pretrained(output)
    console.print(comparison(before.evaluate(held_back), adapted.evaluate(held_back), steps))
    say(console, f"saved a plain PEFT adapter to {output}")
    return adapted


def hold_back(task: Task, shots: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """A fixed shuffle's first `shots` examples, and at most 256 of the others.

    Raises:
        SuiteError: there would be no other.
    """
    if len(task.examples) <= shots:
        raise SuiteError(
            f"{task.name}: {len(task.examples)} different inputs, too few for {shots} shots and a row to hold back; lower --shots"
        )
    order = np.random.default_rng(0x686F6C64).permutation(len(task.examples))
    shuffled = [task.examples[int(index)] for index in order]
    return tuple(shuffled[:shots]), tuple(shuffled[shots : shots + MOST_HELD_BACK])


def comparison(before: Metrics, after: Metrics, steps: int) -> Table:
    """Loss and accuracy at step 0 and after the last step."""
    table = Table(title=f"{before.examples} held-back rows", box=SIMPLE_HEAD, show_edge=False)
    for column in ("", "before", f"after {steps} steps"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    table.add_row("loss", f"{before.loss:.3f}", f"{after.loss:.3f}")
    table.add_row("accuracy (exact match)", f"{before.accuracy:.1%}", f"{after.accuracy:.1%}")
    return table
