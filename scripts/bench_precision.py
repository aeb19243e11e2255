"""How far gradients in bfloat16 are from the same in float32.

  gradient       one gradient of four tasks of the short shape, of an adapter away from zero: PyTorch's attention or attention over blocks,
                 each with twins by definition or by hand
  meta-gradient  of a FOMAML episode of two tasks of eight examples, three inner Adam steps: the loop on stock PEFT, and headstart packed

On SmolLM2-135M (or `--base`) as bf16, and as nf4 with bfloat16 activations, against the same weights with float32 activations, for three
draws of conversations and adapters (`--repeats`). `error` is the median over tensors of the norm of the difference over the norm, and
`whole_error` the same of all tensors together, which a few sensitive ones dominate: medians over draws, with the least and the most.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from _bench import (
    LORA,
    Conversations,
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
    parser,
    show,
    whole_error,
)
from bench_engine import STEPS, peft_loop, stock_tasks
from torch import Tensor

from headstart.algorithms.inner import gradients
from headstart.algorithms.types import Batch
from headstart.model import block_attention, learner, sites
from headstart.model.base import Base
from headstart.model.block_attention import BLOCKS
from headstart.model.learner import Learner

SHAPE = Shape(tasks=4, examples=16, prefix=24, own=12)
EPISODE = Shape(tasks=2, examples=8, prefix=24, own=12)
AGAINST = {"bf16": "fp32", "nf4": "nf4-fp32"}


@contextmanager
def by_definition(only: bool) -> Iterator[None]:
    """Inside, if `only`, LoRA products, attention over blocks and the label loss are computed by their definitions."""
    before = sites.compute
    if only:
        sites.compute = learner.compute = block_attention.compute = lambda twin, *inputs: twin.plain(*inputs)
    try:
        yield
    finally:
        sites.compute = learner.compute = block_attention.compute = before


def gradient(base: Base, batch: Batch, attention: str, definition: bool, seed: int) -> dict[str, Tensor]:
    """One gradient at an adapter whose tasks all differ."""
    base.model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(seed)
    with Learner(base, LORA) as own, by_definition(definition):
        phi = {
            name: tensor.cpu() + (0.01 if name.endswith("lora_B") else 0.003) * torch.randn(batch.tasks, *tensor.shape, generator=generator)
            for name, tensor in own.fresh_adapter().items()
        }
        on_device = {name: tensor.to(base.device) for name, tensor in phi.items()}
        return gradients(own.losses, on_device, batch.query)[1]


def meta_gradient(base: Base, talks: Conversations, stock: bool, seed: int) -> dict[str, Tensor]:
    """The meta-gradient in theta, of the loop on stock PEFT or of headstart."""
    theta = initialisation(base, seed)
    inner = inner_loop(theta, STEPS)
    side: Side = (
        partial(peft_loop, base, theta, inner, stock_tasks(talks, base.device, bucketed=False))
        if stock
        else partial(headstart_side, base, theta, inner, [batch_of(talks, base, "packed")])
    )
    with side() as run:
        return dict(run().theta)


def errors(exact: Base, base: Base, seed: int) -> Iterator[tuple[str, str, tuple[float, float]]]:
    """What is compared, the way, and its errors, for one draw."""
    vocabulary = exact.model.config.get_text_config().vocab_size
    talks, episode = conversations(SHAPE, vocabulary, seed=seed), conversations(EPISODE, vocabulary, seed=seed)
    wanted = gradient(exact, batch_of(talks, exact, "packed"), "sdpa", True, seed)
    for attention in ("sdpa", BLOCKS):
        for by in ("definition", "hand"):
            found = gradient(base, batch_of(talks, base, "packed"), attention, by == "definition", seed)
            yield "gradient", f"{attention}, by {by}", both_errors(found, wanted)
    exact.model.set_attn_implementation(BLOCKS)
    wanted = meta_gradient(exact, episode, False, seed)
    for way in ("peft_loop", "packed"):
        yield "meta-gradient", way, both_errors(meta_gradient(base, episode, way == "peft_loop", seed), wanted)


def both_errors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[float, float]:
    """The median of the tensors' relative errors, and that of all together."""
    each = [float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted]
    return median(each), whole_error(found, wanted)


def over_draws(draws: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and the least and the most."""
    of_tensors, whole = zip(*draws, strict=True)
    ranges = {"range": [min(of_tensors), max(of_tensors)], "whole_range": [min(whole), max(whole)]}
    return {"error": median(of_tensors), "whole_error": median(whole), **ranges}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print and save the errors."""
    read = parser(__doc__)
    read.add_argument("--base", default="bundled", help="bundled, small, a hub id or a folder")
    options = read.parse_args(arguments)
    device = begin(options)
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for dtype, reference in AGAINST.items():
        exact, base = base_of(options.base, reference, device), base_of(options.base, dtype, device)
        for seed in range(options.repeats):
            for of, way, error in errors(exact, base, seed):
                found[of, dtype, way].append(error)
    rows = [{"of": of, "dtype": dtype, "way": way, **over_draws(each)} for (of, dtype, way), each in found.items()]
    show("errors against float32", {key: key for key in ("of", "dtype", "way", "error", "range", "whole_error", "whole_range")}, rows)
    return document("precision", options, arguments, rows, repeats=options.repeats, base=options.base)


if __name__ == "__main__":
    main()
