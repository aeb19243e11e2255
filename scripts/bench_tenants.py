"""Many tenants adapted at once, headstart's adapting against the loop that people write on PEFT, one tenant after another.

Each tenant has rows of one task (of the builtin suite, so that lengths are unlike) and takes a number of AdamW steps on all of them, at
one constant rate, from one initialisation. Sides, in turns, over one base:

  headstart  as `headstart adapt` does it: tenants of like length together, rows packed; rendering included, saving not
  peft_loop  stock PEFT and `torch.optim.AdamW`, the adapter set back for each tenant; its rows padded into one batch, logits of
             every position
  peft_best  the same by someone careful: logits of labels alone, rows of like length together

Token tensors of the stock sides are made before and outside of what is timed. They go one by one, so that a share of the tenants,
evenly spread over all of them, tells their speed; how many is said (`--stock-tenants`). The same tenants' losses before the last step show
that all sides do the same work.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _bench import DTYPES, LORA, Measured, Run, base_of, begin, document, initialisation, interleaved, listed, parser, ratio, show
from bench_engine import Padded, collate, like_lengths, stock
from torch import Tensor
from torch.nn import functional as F

from headstart.adapter.meta_adapter import Adaptation, MetaAdapter
from headstart.adapting.data import Job
from headstart.adapting.flow import adapt_batch
from headstart.adapting.run import batches
from headstart.adapting.settings import Settings
from headstart.model.base import Base
from headstart.model.learner import Learner
from headstart.passes import passes_over
from headstart.tasks.builtin import builtin_suite
from headstart.tasks.render import Renderer

RATE = 1e-3
MAX_LENGTH = 512
SIDES = ("headstart", "peft_loop", "peft_best")
Losses = dict[str, float]
"""A tenant's loss before its last step."""


def tenants(count: int, examples: int) -> list[Job]:
    """Jobs of the builtin suite's tasks in turn; where there are more tenants than tasks, of their next rows."""
    tasks = [task for task in builtin_suite().tasks.values() if len(task.examples) >= examples]
    found = []
    for number in range(count):
        round_, place = divmod(number, len(tasks))
        rows = tasks[place].examples[round_ * examples : (round_ + 1) * examples]
        if len(rows) < examples:
            raise SystemExit(f"the builtin suite has rows for {number} tenants of {examples} rows; lower --tenants or --examples")
        found.append(Job(f"{tasks[place].name}-{round_}", replace(tasks[place], examples=rows)))
    return found


@contextmanager
def headstart_side(base: Base, meta: MetaAdapter, jobs: Sequence[Job], settings: Settings) -> Iterator[Run]:
    """As the command does it."""
    with passes_over(base, meta.lora, MAX_LENGTH) as passes:

        def run() -> Losses:
            parts = (adapt_batch(part, meta, passes, settings) for part in batches(jobs, settings, passes))
            return {outcome.job.name: outcome.losses[-1] for part in parts for outcome in part}

        yield run


@contextmanager
def stock_side(
    base: Base, meta: MetaAdapter, rows: Mapping[str, Sequence[Padded]], steps: int, loss_of: Callable[[Any, Padded], Tensor]
) -> Iterator[Run]:
    """Stock PEFT and PyTorch's optimiser, tenant by tenant."""
    with stock(base) as adapter:

        def run() -> Losses:
            return {name: _adapted(base.model, adapter, meta.theta, own, steps, loss_of) for name, own in rows.items()}

        yield run


def _adapted(
    model: Any,
    adapter: Mapping[str, Tensor],
    theta: Mapping[str, Tensor],
    rows: Sequence[Padded],
    steps: int,
    loss_of: Callable[[Any, Padded], Tensor],
) -> float:
    with torch.no_grad():
        for name, tensor in adapter.items():
            tensor.copy_(theta[name])
    optimiser = torch.optim.AdamW(adapter.values(), lr=RATE, weight_decay=0.0)
    examples, loss = sum(len(batch.labels) for batch in rows), 0.0
    for _ in range(steps):
        optimiser.zero_grad()
        loss = 0.0
        for batch in rows:
            part = loss_of(model, batch) / examples
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        optimiser.step()
    return loss


def usual_loss(model: Any, batch: Padded) -> Tensor:
    """The sum over examples of the mean over label tokens, from logits of every position."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    labels = batch.labels[:, 1:]
    nll = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return (nll.view(labels.shape).sum(1) / (labels != -100).sum(1)).sum()


def careful_loss(model: Any, batch: Padded) -> Tensor:
    """The same from logits of labels alone."""
    keep = torch.zeros_like(batch.labels, dtype=torch.bool)
    keep[:, :-1] = batch.labels[:, 1:] != -100
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=keep, use_cache=False).logits
    counts = keep.sum(1)
    nll = F.cross_entropy(logits.float(), batch.labels[batch.labels != -100], reduction="none")
    return (nll / torch.repeat_interleave(counts, counts)).sum()


def stock_rows(base: Base, jobs: Sequence[Job], bucketed: bool) -> dict[str, list[Padded]]:
    """Each tenant's rows as batches; `bucketed` puts rows of like length together."""
    renderer = Renderer(base.tokenizer, MAX_LENGTH)
    found = {}
    for job in jobs:
        examples = [[one] for one in renderer.render(job.task.instruction, job.rows)]
        found[job.name] = [collate(group, base.device) for group in (like_lengths(examples) if bucketed else [examples])]
    return found


def initial(base: Base) -> MetaAdapter:
    """An initialisation with B away from zero, and one rate."""
    with Learner(base, LORA) as learner:
        spec = learner.spec
    return MetaAdapter(initialisation(base), {}, spec, Adaptation("adam", 1, RATE), base.spec, base.fingerprint)


def measure(base: Base, options: argparse.Namespace) -> dict[str, Any]:
    """One row: seconds and tenants a minute of each side, and how far their losses are apart."""
    jobs, settings, meta = (
        tenants(options.tenants, options.examples),
        Settings(steps=options.steps, batch_size=options.examples, measure=False),
        initial(base),
    )
    few = jobs[:: -(-len(jobs) // options.stock_tenants)]
    usual, careful = (stock_rows(base, few, bucketed) for bucketed in (False, True))
    first = {few[0].name: usual[few[0].name]}
    sides = {
        "headstart": partial(headstart_side, base, meta, jobs, settings),
        "peft_loop": partial(stock_side, base, meta, usual, options.steps, usual_loss),
        "peft_best": partial(stock_side, base, meta, careful, options.steps, careful_loss),
    }
    shorter = {
        "headstart": partial(headstart_side, base, meta, jobs[:1], settings),
        "peft_loop": partial(stock_side, base, meta, first, 1, usual_loss),
        "peft_best": partial(stock_side, base, meta, first, 1, careful_loss),
    }
    wanted, first_runs = ({name: each[name] for name in options.sides} for each in (sides, shorter))
    found = interleaved(wanted, options.repeats, base.device, first_runs)
    counts = {"headstart": len(jobs), "peft_loop": len(few), "peft_best": len(few)}
    speeds = {name: ratio(60.0 * counts[name], found[name].median if name in found else None) for name in SIDES}
    return {
        "tenants": len(jobs),
        "examples": options.examples,
        "steps": options.steps,
        "stock_tenants": len(few),
        **{f"{name}_per_minute": speed for name, speed in speeds.items()},
        "seconds": {name: measured.seconds for name, measured in found.items()},
        "speedup": ratio(speeds["headstart"], speeds["peft_loop"]),
        "speedup_best": ratio(speeds["headstart"], speeds["peft_best"]),
        **{f"{name}_loss_error": _apart(found, name) for name in SIDES[1:]},
    }


def _apart(found: Mapping[str, Measured], name: str) -> float | None:
    """The largest difference of a tenant's loss before the last step from headstart's, as a share of it."""
    if not all(side in found and found[side].result for side in ("headstart", name)):
        return None
    ours, theirs = found["headstart"].result, found[name].result
    return max(abs(theirs[tenant] - ours[tenant]) / ours[tenant] for tenant in theirs)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, show, and write what was asked for."""
    found = parser(__doc__)
    found.add_argument("--base", default="bundled", help="bundled, a folder, or a hub id (bundled)")
    found.add_argument("--dtypes", type=listed(list(DTYPES)), default=["nf4"], help=f"of {', '.join(DTYPES)} (nf4)")
    found.add_argument("--sides", type=listed(SIDES), default=list(SIDES), help=f"of {', '.join(SIDES)} (all)")
    found.add_argument("--tenants", type=int, default=64, help="how many there are (64)")
    found.add_argument("--stock-tenants", type=int, default=8, help="how many of them the stock sides are timed on (8)")
    found.add_argument("--examples", type=int, default=16, help="rows of a tenant (16)")
    found.add_argument("--steps", type=int, default=10, help="steps of a tenant (10)")
    options = found.parse_args(arguments)
    device = begin(options)
    rows = [{"dtype": dtype, **measure(base_of(options.base, dtype, device), options)} for dtype in options.dtypes]
    columns = {"dtype": "base", "tenants": "tenants", **{f"{name}_per_minute": f"{name}, a minute" for name in SIDES}}
    show(
        f"tenants of {options.examples} rows, {options.steps} steps each",
        {**columns, "speedup": "over peft_loop", "speedup_best": "over peft_best", "peft_loop_loss_error": "losses apart"},
        rows,
    )
    return document("tenants", options, arguments, rows, repeats=options.repeats)


if __name__ == "__main__":
    main()
