"""How the time of a FOMAML episode grows with its tasks and with its tokens, beside that of the bare base.

Three inner Adam steps and a query pass in packed rows, all tasks together. `tasks` varies T at a fixed shape, `tokens` the examples'
own tokens at a fixed T; `limit` is the bare frozen base there and back over as many tokens in rows of that size, as in
bench_engine.py. Each sweep's sides and sizes are timed in turns.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from _bench import (
    DTYPES,
    Shape,
    Side,
    base_of,
    batch_of,
    begin,
    conversations,
    document,
    headstart_side,
    initialisation,
    inner_loop,
    interleaved,
    limit_side,
    numbers,
    parser,
    passes_of,
    ratio,
    show,
)

from headstart.algorithms.types import Batch
from headstart.model.base import Base

STEPS = 3


def measure(base: Base, shapes: Sequence[Shape], repeats: int) -> list[dict[str, Any]]:
    """One row a shape, with how many times the first one's time it takes; one that runs out of memory has no times."""
    theta = initialisation(base)
    inner = inner_loop(theta, STEPS)
    vocabulary = base.model.config.get_text_config().vocab_size
    batches: list[Batch] = [batch_of(conversations(shape, vocabulary), base, "packed") for shape in shapes]
    sides: dict[str, Side] = {}
    for index, batch in enumerate(batches):
        sides[f"packed {index}"] = partial(headstart_side, base, theta, inner, [batch])
        sides[f"limit {index}"] = partial(limit_side, base, passes_of(batch, STEPS))
    found = interleaved(sides, repeats, base.device)
    rows = []
    for index, (shape, batch) in enumerate(zip(shapes, batches, strict=True)):
        packed, limit = found[f"packed {index}"], found[f"limit {index}"]
        rows.append(
            {
                "T": shape.tasks,
                "own": shape.own,
                "tokens": batch.query.tokens,
                "rows": list(batch.query.input_ids.shape),
                "packed_s": packed.median,
                "limit_s": limit.median,
                "of_limit": ratio(limit.median, packed.median),
                "spread": {"packed_s": packed.spread, "limit_s": limit.spread},
                "peak_bytes": packed.peak_bytes,
            }
        )
    for row in rows:
        row.update({f"{side}_growth": ratio(row[f"{side}_s"], rows[0][f"{side}_s"]) for side in ("packed", "limit")})
    return rows


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument("--tasks", type=numbers, default=[1, 2, 4, 8, 16, 32], help="the T of the first sweep (1,2,4,8,16,32)")
    found.add_argument("--own", type=numbers, default=[6, 12, 24, 48, 96], help="own tokens of the second sweep (6,12,24,48,96)")
    found.add_argument("--fixed-tasks", type=int, default=4, help="the T of the second sweep (4)")
    found.add_argument("--fixed-own", type=int, default=12, help="own tokens of the first sweep (12)")
    found.add_argument("--examples", type=int, default=8, help="of a task (8)")
    found.add_argument("--prefix", type=int, default=24, help="tokens that a task's examples share (24)")
    found.add_argument("--dtype", choices=list(DTYPES), default="nf4", help=f"of {', '.join(DTYPES)} (nf4)")
    found.add_argument("--base", default="bundled", help="bundled, small (random), a hub id, or a folder")
    return found.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = options_of(arguments)
    device = begin(options)
    base = base_of(options.base, options.dtype, device)
    fixed = Shape(options.fixed_tasks, options.examples, options.prefix, options.fixed_own)
    sweeps = {
        "tasks": [replace(fixed, tasks=tasks) for tasks in options.tasks],
        "tokens": [replace(fixed, own=own) for own in options.own],
    }
    rows = [{"sweep": name, **row} for name, shapes in sweeps.items() for row in measure(base, shapes, options.repeats)]
    columns = {key: key for key in ("sweep", "T", "own", "tokens")}
    times = {"packed_s": "packed", "limit_s": "limit", "of_limit": "of limit", "packed_growth": "packed grew", "limit_growth": "limit grew"}
    show(f"seconds per episode, medians; {base.spec.id}, {options.dtype}", {**columns, **times}, rows)
    about = {"base": base.spec.id, "dtype": options.dtype, "quantization": base.spec.quantization, "steps": STEPS}
    return document("scaling", options, arguments, rows, repeats=options.repeats, examples=options.examples, prefix=options.prefix, **about)


if __name__ == "__main__":
    main()
