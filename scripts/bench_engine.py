"""One FOMAML episode, headstart's engine against the loop that people write by hand on PEFT.

Three inner Adam steps over a task's support examples and a pass over its query, gradients of learned rates included; r = 8 on all
linear layers, from the same initialisation. Sides, in turns:

  peft_loop  the usual loop on stock PEFT: one task after another, its examples padded into one batch (the prefix repeated in each),
             logits of every position, labels of -100 and shifted cross entropy, adapters copied in, gradients by `backward`
  peft_best  the same by someone careful: logits of labels alone, examples of like length together, Adam over all tensors at once,
             one set of adapters reset in place, gradients by `autograd.grad`; still task by task, as PEFT has no task axis
  padded     headstart, every example a row of its own, as many tasks together as fit into some 5,000 tokens
  packed     headstart, examples in shared-prefix rows, all tasks together
  limit      the bare frozen base there and back over as many tokens as `packed` has, in rows of that size, four times

All take a task's loss as the mean over examples of the mean over label tokens, so that their meta-gradients can be compared. Token
tensors are made before and outside of what is timed, for all sides alike; what headstart works out from its rows is not. The stock
sides run bitsandbytes' own 4-bit product, kept from repacking weights, which would make gradients wrong. All sides share one base,
wrapped and unwrapped between runs. A side that runs out of memory is left out, and said so.

The meta-gradients of `packed` and of the loop differ by rounding. How much rounding does alone is seen in the difference of the two
stock sides: Adam's first step is a gradient's sign, which a rounded gradient near zero does not have right.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from _bench import (
    DTYPES,
    LLAMA_8B,
    LORA,
    Conversations,
    Measured,
    Run,
    Shape,
    Side,
    attending,
    attention_sides,
    base_of,
    batch_of,
    begin,
    conversations,
    document,
    gradient_error,
    headstart_side,
    initialisation,
    inner_loop,
    interleaved,
    limit_side,
    listed,
    parser,
    passes_of,
    pieces_of,
    profiled,
    random_base,
    ratio,
    show,
    whole_error,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from headstart.algorithms.types import InnerLoop, MetaGradient
from headstart.model.base import Base
from headstart.tasks.rows import Candidates

STEPS = 3
SHAPES = {
    "short": Shape(tasks=8, examples=16, prefix=24, own=12),
    "medium": Shape(tasks=8, examples=8, prefix=48, own=24),
    "long": Shape(tasks=4, examples=16, prefix=96, own=48),
}
LARGE = "8b"
SIDES = ("peft_loop", "peft_best", "padded", "packed", "limit")
WASTE = 0.1
"""`peft_best` starts another batch rather than fill one up by more than this share."""

# the stock sides


@dataclass(frozen=True)
class Padded:
    """Examples of one task as people batch them: `(B, L)` each, padded on the right, labels of -100 where nothing is trained."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


@dataclass(frozen=True)
class StockTask:
    """One task's batches; together they are its support, and its query."""

    support: list[Padded]
    query: list[Padded]


def stock_tasks(talks: Conversations, device: torch.device, bucketed: bool) -> list[StockTask]:
    """The episode task by task; `bucketed` puts examples of like length together."""

    def batches(examples: Sequence[Candidates]) -> list[Padded]:
        groups = like_lengths(examples) if bucketed else [list(examples)]
        return [collate(group, device) for group in groups]

    return [StockTask(batches(support), batches(query)) for support, query in zip(talks.support, talks.query, strict=True)]


def like_lengths(examples: Sequence[Candidates]) -> list[list[Candidates]]:
    """Groups of like length, in none of which more than a share `WASTE` of the tokens is filling."""
    groups: list[list[Candidates]] = []
    real = 0
    for example in sorted(examples, key=lambda one: -len(one[0].ids)):
        size = len(example[0].ids)
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0][0].ids) * (1 - WASTE) > real + size:
            groups.append([])
            real = 0
        groups[-1].append(example)
        real += size
    return groups


def collate(examples: Sequence[Candidates], device: torch.device) -> Padded:
    """Fill up to the longest."""
    shape = (len(examples), max(len(one[0].ids) for one in examples))
    ids, mask, labels = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for index, (one, *_) in enumerate(examples):
        ids[index, : len(one.ids)] = torch.tensor(one.ids)
        mask[index, : len(one.ids)] = 1
        labels[index, one.answer : len(one.ids)] = torch.tensor(one.ids[one.answer :])
    return Padded(ids.to(device), mask.to(device), labels.to(device))


@contextmanager
def stock(base: Base) -> Iterator[dict[str, Tensor]]:
    """The base as transformers and bitsandbytes make it, wrapped by stock PEFT; gives PEFT's parameters by headstart's names.

    Every module has its class's forward again, bitsandbytes' 4-bit product among them. Its flag stays as headstart sets it, or else
    gradients would be wrong.
    """
    own = {module: module.__dict__.pop("forward") for module in base.model.modules() if "forward" in module.__dict__}
    wrapped: Any = None
    try:
        with attending(base.model, "sdpa"):
            config = LoraConfig(r=LORA.r, lora_alpha=LORA.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
            wrapped = get_peft_model(base.model, config)
            wrapped.eval()
            trained = ((name, tensor) for name, tensor in wrapped.named_parameters() if tensor.requires_grad)
            yield {name.removeprefix("base_model.model.").removesuffix(".default.weight"): tensor for name, tensor in trained}
    finally:
        if wrapped is not None:
            wrapped.unload()
        for module, forward in own.items():
            module.forward = forward


@contextmanager
def peft_loop(base: Base, theta: Mapping[str, Tensor], inner: InnerLoop, tasks: Sequence[StockTask]) -> Iterator[Run]:
    """The loop as it is usually written."""
    with stock(base) as adapter:
        yield lambda: _loop(base.model, adapter, theta, inner, tasks)


def _loop(
    model: Any, adapter: Mapping[str, Tensor], theta: Mapping[str, Tensor], inner: InnerLoop, tasks: Sequence[StockTask]
) -> MetaGradient:
    meta = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    log_rates = {name: torch.zeros_like(rate) for name, rate in inner.rates.items()}
    for task in tasks:
        with torch.no_grad():
            for name, tensor in adapter.items():
                tensor.copy_(theta[name])
        first, second = ({name: torch.zeros_like(tensor) for name, tensor in adapter.items()} for _ in range(2))
        directions = []
        for step in range(inner.steps):
            gradient = _by_backward(model, adapter, task.support)
            directions.append(_adam(inner, adapter, gradient, first, second, step))
        query = _by_backward(model, adapter, task.query)
        for name, tensor in query.items():
            meta[name] += tensor / len(tasks)
            for step, direction in enumerate(directions):
                log_rates[name][step] -= inner.rates[name][step] * (tensor * direction[name]).sum() / len(tasks)
    return MetaGradient(meta, log_rates)


def _by_backward(model: Any, adapter: Mapping[str, Tensor], batches: Sequence[Padded]) -> dict[str, Tensor]:
    for tensor in adapter.values():
        tensor.grad = None
    for batch in batches:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        labels = batch.labels[:, 1:]
        nll = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        each = nll.view(labels.shape).sum(1) / (labels != -100).sum(1)
        (each.sum() / sum(len(one.labels) for one in batches)).backward()
    return {name: tensor.grad for name, tensor in adapter.items()}


@torch.no_grad()
def _adam(
    inner: InnerLoop,
    adapter: Mapping[str, Tensor],
    gradient: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    step: int,
) -> dict[str, Tensor]:
    """One step in place, tensor by tensor; gives the directions."""
    rule: Any = inner.rule
    directions = {}
    for name, tensor in adapter.items():
        first[name].lerp_(gradient[name], 1 - rule.beta1)
        second[name].mul_(rule.beta2).addcmul_(gradient[name], gradient[name], value=1 - rule.beta2)
        root = (second[name] / (1 - rule.beta2 ** (step + 1))).sqrt().add_(rule.eps)
        directions[name] = first[name] / (1 - rule.beta1 ** (step + 1)) / root
        tensor.sub_(inner.rates[name][step] * directions[name])
    return directions


@contextmanager
def peft_best(base: Base, theta: Mapping[str, Tensor], inner: InnerLoop, tasks: Sequence[StockTask]) -> Iterator[Run]:
    """The loop as someone careful writes it."""
    with stock(base) as adapter:
        yield lambda: _best(base.model, adapter, theta, inner, tasks)


def _best(
    model: Any, adapter: Mapping[str, Tensor], theta: Mapping[str, Tensor], inner: InnerLoop, tasks: Sequence[StockTask]
) -> MetaGradient:
    names, tensors = list(adapter), list(adapter.values())
    start = [theta[name] for name in names]
    rates = torch.stack([inner.rates[name] for name in names])
    by_step = rates.T.tolist()
    meta = [torch.zeros_like(tensor) for tensor in start]
    log_rates = torch.zeros_like(rates)
    for task in tasks:
        with torch.no_grad():
            torch._foreach_copy_(tensors, start)
        first, second = ([torch.zeros_like(tensor) for tensor in tensors] for _ in range(2))
        directions = []
        for step in range(inner.steps):
            gradient = _by_grad(model, tensors, task.support)
            directions.append(_adam_at_once(inner.rule, tensors, gradient, first, second, by_step[step], step))
        query = _by_grad(model, tensors, task.query)
        torch._foreach_add_(meta, query, alpha=1 / len(tasks))
        for step, direction in enumerate(directions):
            products = torch.stack([product.sum() for product in torch._foreach_mul(query, direction)])
            log_rates[:, step] -= rates[:, step] * products / len(tasks)
    return MetaGradient(dict(zip(names, meta, strict=True)), dict(zip(names, log_rates, strict=True)))


def _by_grad(model: Any, tensors: Sequence[Tensor], batches: Sequence[Padded]) -> list[Tensor]:
    found: list[Tensor] | None = None
    examples = sum(len(batch.labels) for batch in batches)
    for batch in batches:
        keep = torch.zeros_like(batch.labels, dtype=torch.bool)
        keep[:, :-1] = batch.labels[:, 1:] != -100
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=keep, use_cache=False).logits
        nll = F.cross_entropy(logits.float(), batch.labels[batch.labels != -100], reduction="none")
        counts = keep.sum(1)
        loss = (nll / torch.repeat_interleave(counts, counts)).sum() / examples
        gradient = list(torch.autograd.grad(loss, tensors))
        if found is None:
            found = gradient
        else:
            torch._foreach_add_(found, gradient)
    assert found is not None
    return found


@torch.no_grad()
def _adam_at_once(
    rule: Any,
    tensors: list[Tensor],
    gradient: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    rates: list[float],
    step: int,
) -> list[Tensor]:
    """One step in place, over all tensors in each operation; gives the directions."""
    torch._foreach_lerp_(first, gradient, 1 - rule.beta1)
    torch._foreach_mul_(second, rule.beta2)
    torch._foreach_addcmul_(second, gradient, gradient, 1 - rule.beta2)
    root = torch._foreach_div(second, 1 - rule.beta2 ** (step + 1))
    torch._foreach_sqrt_(root)
    torch._foreach_add_(root, rule.eps)
    direction = torch._foreach_div(first, 1 - rule.beta1 ** (step + 1))
    torch._foreach_div_(direction, root)
    torch._foreach_sub_(tensors, torch._foreach_mul(direction, rates))
    return list(direction)


# what is measured


def sides_of(base: Base, talks: Conversations, wanted: Sequence[str]) -> dict[str, Side]:
    """The sides by name."""
    theta = initialisation(base)
    inner = inner_loop(theta, STEPS)
    packed = batch_of(talks, base, "packed")
    made: dict[str, Side] = {
        "peft_loop": partial(peft_loop, base, theta, inner, stock_tasks(talks, base.device, bucketed=False)),
        "peft_best": partial(peft_best, base, theta, inner, stock_tasks(talks, base.device, bucketed=True)),
        "padded": partial(headstart_side, base, theta, inner, pieces_of(talks, base, "padded")),
        "packed": partial(headstart_side, base, theta, inner, [packed]),
        "limit": partial(limit_side, base, passes_of(packed, STEPS)),
    }
    return {name: made[name] for name in wanted}


def measure(base: Base, talks: Conversations, wanted: Sequence[str], repeats: int) -> dict[str, Any]:
    """One row: the sides' times, how well their meta-gradients agree, and attention by itself."""
    # the stock sides go task by task, so one task warms them up
    first = Conversations(talks.support[:1], talks.query[:1])
    shorter = sides_of(base, first, [name for name in wanted if name.startswith("peft")])
    found = interleaved(sides_of(base, talks, wanted), repeats, base.device, shorter)
    packed = batch_of(talks, base, "packed")
    rows = packed.support[0]
    layers = base.model.config.get_text_config().num_hidden_layers
    alone = interleaved(attention_sides(base, rows), max(repeats, 5), base.device)
    seconds = {name: found[name].median if name in found else None for name in SIDES}
    return {
        **{f"{name}_s": value for name, value in seconds.items()},
        "spread": {f"{name}_s": measured.spread for name, measured in found.items()},
        "speedup": ratio(seconds["peft_loop"], seconds["packed"]),
        "speedup_best": ratio(seconds["peft_best"], seconds["packed"]),
        "of_limit": ratio(seconds["limit"], seconds["packed"]),
        "max_rel_grad_error": _error(found, "packed", "peft_loop"),
        "whole_rel_grad_error": _error(found, "packed", "peft_loop", whole_error),
        "rel_grad_error_padded": _error(found, "packed", "padded"),
        "rel_grad_error_stock": _error(found, "peft_best", "peft_loop"),
        "tokens": rows.tokens,
        "rows": list(rows.input_ids.shape),
        "padding_share": rows.filling / rows.tokens,
        "attention_packed_s": _layers(alone["packed"], layers),
        "attention_causal_s": _layers(alone["causal"], layers),
        "peak_bytes": {name: measured.peak_bytes for name, measured in found.items()},
        "failed": {name: measured.failed for name, measured in found.items() if measured.failed},
    }


def _error(found: Mapping[str, Measured], one: str, other: str, error: Callable[..., float] = gradient_error) -> float | None:
    results = [found[name].result if name in found else None for name in (one, other)]
    return None if None in results else error(results[0].theta, results[1].theta)


def _layers(measured: Measured, layers: int) -> float | None:
    return None if measured.median is None else measured.median * layers


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    found = parser(__doc__)
    found.add_argument(
        "--shapes", type=listed([*SHAPES, LARGE]), default=list(SHAPES), help=f"of {', '.join([*SHAPES, LARGE])} (the first three)"
    )
    found.add_argument(
        "--dtypes", type=listed(list(DTYPES)), default=["bf16", "nf4"], help=f"of {', '.join(DTYPES)} (bf16,nf4); {LARGE} is nf4"
    )
    found.add_argument("--base", default="bundled", help="bundled, small (random), a hub id, or a folder")
    found.add_argument("--sides", type=listed(SIDES), default=list(SIDES), help=f"of {', '.join(SIDES)} (all)")
    found.add_argument("--jitter", type=float, default=0.0, metavar="F", help="vary examples' own lengths by up to this share (0)")
    found.add_argument("--tasks", type=int, metavar="T", help="so many tasks instead of the shape's")
    found.add_argument("--examples", type=int, metavar="K", help="so many examples of a task instead of the shape's")
    found.add_argument("--profile", action="store_true", help="instead of timing, the operations that packed and limit spend most time in")
    options = found.parse_args(arguments)
    if LARGE in options.shapes and options.device == "cpu":
        found.error(
            f"--shapes {LARGE}: a base of 8 billion weights needs a GPU; on a CPU, one pass over its tokens takes many minutes, and five "
            "sides make several dozens of them"
        )
    if not 0 <= options.jitter < 1:
        found.error("--jitter: a share from 0 to below 1")
    return options


def shape_of(name: str, options: argparse.Namespace) -> Shape:
    shape = SHAPES["long" if name == LARGE else name]
    return replace(shape, tasks=options.tasks or shape.tasks, examples=options.examples or shape.examples)


def cases(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, str, Base]]:
    """Shape, type and base; each base is loaded once, and is alone in memory."""
    for dtype in options.dtypes:
        names = [name for name in options.shapes if name != LARGE]
        if names:
            base = base_of(options.base, dtype, device)
            yield from ((name, dtype, base) for name in names)
            del base
    if LARGE in options.shapes:
        yield LARGE, "nf4", random_base(LLAMA_8B, device, "nf4")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = options_of(arguments)
    device = begin(options)
    rows = []
    for name, dtype, base in cases(options, device):
        shape = shape_of(name, options)
        talks = conversations(shape, base.model.config.get_text_config().vocab_size, options.jitter)
        if options.profile:
            for side, made in sides_of(base, talks, ["packed", "limit"]).items():
                print(f"\n{name}, {dtype}, {side}:\n{profiled(made, device)}")
            continue
        sizes = {"tasks": shape.tasks, "examples": shape.examples, "prefix": shape.prefix, "own": shape.own}
        about = {"shape": name, "dtype": dtype, "quantization": base.spec.quantization, "base": base.spec.id, "steps": STEPS}
        rows.append({**about, **sizes, **measure(base, talks, options.sides, options.repeats)})
        _say(rows[-1])
        # what is measured is not lost with what comes after
        document("engine", options, arguments, rows, repeats=options.repeats, jitter=options.jitter)
    _show(rows)
    return document("engine", options, arguments, rows, repeats=options.repeats, jitter=options.jitter)


def _say(row: Mapping[str, Any]) -> None:
    spreads = {name.removesuffix("_s"): spread for name, spread in row["spread"].items() if spread}
    ranges = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in spreads.items())
    print(f"{row['shape']}, {row['dtype']}: {ranges} s", flush=True)
    peaks = [f"{name} {count / 1e9:.2f}" for name, count in row["peak_bytes"].items() if count]
    if peaks:
        print(f"  peak memory in GB: {', '.join(peaks)}")
    for name, why in row["failed"].items():
        print(f"  {name} left out, {why}")


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    case = {"shape": "shape", "dtype": "type"}
    times = {f"{name}_s": name for name in SIDES}
    ratios = {"speedup": "loop / packed", "speedup_best": "best / packed", "of_limit": "limit / packed"}
    show("seconds per episode, medians", {**case, **times, **ratios}, rows)
    errors = {
        "max_rel_grad_error": "packed from loop",
        "whole_rel_grad_error": "over all tensors",
        "rel_grad_error_padded": "packed from padded",
        "rel_grad_error_stock": "best from loop",
    }
    counts = {"tokens": "tokens", "padding_share": "filling"}
    attention = {"attention_packed_s": "attention packed", "attention_causal_s": "plain causal"}
    show(
        "relative differences of meta-gradients, the largest of a tensor's; tokens and attention of one pass",
        {**case, **errors, **counts, **attention},
        rows,
    )


if __name__ == "__main__":
    main()
