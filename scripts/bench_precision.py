"""How far a gradient in bfloat16 is from the same in float32, by definition and by hand.

One gradient of four tasks of the short shape, of an adapter away from zero, on SmolLM2-135M (or `--base`) as bf16 and as nf4 with
bfloat16 activations, against the same weights with float32 activations. The error is the norm of the difference over the norm, of all
tensors together. Four ways: PyTorch's attention or attention over blocks, each with twins by definition or by hand.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _bench import LORA, Shape, base_of, batch_of, begin, conversations, document, parser, show
from torch import Tensor

from headstart.algorithms.inner import gradients
from headstart.algorithms.types import Batch
from headstart.model import learner, sites
from headstart.model.base import Base
from headstart.model.block_attention import BLOCKS
from headstart.model.learner import Learner

SHAPE = Shape(tasks=4, examples=16, prefix=24, own=12)
AGAINST = {"bf16": "fp32", "nf4": "nf4-fp32"}


@contextmanager
def by_definition(only: bool) -> Iterator[None]:
    """Inside, if `only`, LoRA products and the label loss are computed by their definitions."""
    before = sites.compute
    if only:
        sites.compute = learner.compute = lambda twin, *inputs: twin.plain(*inputs)
    try:
        yield
    finally:
        sites.compute = learner.compute = before


def gradient(base: Base, batch: Batch, attention: str, definition: bool) -> dict[str, Tensor]:
    """One gradient at an adapter whose tasks all differ."""
    base.model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(1)
    with Learner(base, LORA) as own, by_definition(definition):
        phi = {
            name: tensor.cpu() + (0.01 if name.endswith("lora_B") else 0.003) * torch.randn(batch.tasks, *tensor.shape, generator=generator)
            for name, tensor in own.fresh_adapter().items()
        }
        on_device = {name: tensor.to(base.device) for name, tensor in phi.items()}
        return gradients(own.losses, on_device, batch.query)[1]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print and save the errors."""
    read = parser(__doc__)
    read.add_argument("--base", default="bundled", help="bundled, small, a hub id or a folder")
    options = read.parse_args(arguments)
    device = begin(options)
    rows = []
    for dtype, reference in AGAINST.items():
        exact = base_of(options.base, reference, device)
        talks = conversations(SHAPE, exact.model.config.get_text_config().vocab_size)
        wanted = gradient(exact, batch_of(talks, exact, "packed"), "sdpa", True)
        base = base_of(options.base, dtype, device)
        for attention in ("sdpa", BLOCKS):
            for by in ("definition", "hand"):
                found = gradient(base, batch_of(talks, base, "packed"), attention, by == "definition")
                rows.append({"dtype": dtype, "attention": attention, "by": by, "error": error(found, wanted)})
    show("error of a gradient against float32", {key: key for key in ("dtype", "attention", "by", "error")}, rows)
    return document("precision", options, arguments, rows, base=options.base)


def error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The norm of the difference over the norm, of all tensors together."""
    apart = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return (apart / sum(float(each.square().sum()) for each in wanted.values())) ** 0.5


if __name__ == "__main__":
    main()
