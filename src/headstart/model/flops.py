"""Counted floating-point operations: what an equal-compute comparison is made equal in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from headstart.model.layers import decoder_layers, under_decoder
from headstart.model.sites import linear_shape
from headstart.model.targets import expert_weights, linear_names
from headstart.tasks.rows import Rows

Order = Literal["value", "gradient", "tangent", "double"]
"""A pass without gradients, a gradient, a gradient with its tangent (forward over reverse), a gradient differentiated in reverse."""


BACK: dict[Order, tuple[int, int, int]] = {"gradient": (1, 2, 1), "tangent": (3, 8, 3), "double": (8, 15, 3)}
"""How often more than once, on its way forth, a product is computed: in the layers that the way back goes through, where one of its
operands varies and where both do, and in the output layer. A double backward computes layers again in any case."""
AGAIN: dict[Order, tuple[int, int]] = {"gradient": (1, 1), "tangent": (2, 3), "double": (0, 0)}
"""And how often more, in such layers, where they are computed again."""


@dataclass(frozen=True)
class PassCost:
    """The multiply-accumulates of one base with LoRA sites, by what they are proportional to.

    Args:
        linear: per token, in the frozen inner linear layers and the experts that a token is sent to.
        lora: per token, in the LoRA factors.
        head: per label token, in the output layer.
        attention: per pair of query and key whose score is computed.
        reached: the share of the decoder layers that the way back goes through, from the first that is adapted on.
        layers: how many decoder layers there are.
    """

    linear: int
    lora: int
    head: int
    attention: int
    reached: float = 1.0
    layers: int = 1

    def flops(self, rows: Rows, pairs: int, order: Order = "gradient", skipped: int = 0, frozen: int = 0, again: bool = False) -> int:
        """Operations of a pass, two a multiply-accumulate.

        Going back, a frozen product costs once more (its weights get no gradient); attention and the LoRA factors, where both
        operands do, cost twice more. This goes for the first adapted layer too, though nobody wants what its q, k and v pass on
        to its input; nothing else that a gradient of first order counts is not computed. Layers computed again cost one more pass
        forward. In forward mode every product is computed of the tangent too, of either operand's where both have one. Under
        double backward, a layer is computed forth, again forth and back, once more forth and back to be gone through in reverse,
        and forth and back for what that leaves.

        Args:
            rows: what is computed.
            pairs: of query and key, in each layer.
            order: what derivative is taken of the losses.
            skipped: how many of the lowest layers are not computed, but taken over.
            frozen: how many of the lowest layers have nothing in them that a gradient is wanted of.
            again: whether the layers that the way back goes through are computed again there.
        """
        kept, reached = 1 - skipped / self.layers, min(self.reached, 1 - frozen / self.layers)
        head, linear, attention = self.head * len(rows.targets), self.linear * rows.tokens, self.attention * pairs
        # the sites' layers that are computed, and those that the way back goes through
        lora, lora_back = (self.lora * rows.tokens * min(1.0, share / self.reached) for share in (kept, reached))
        forth = head + kept * (linear + attention) + lora
        if order == "value":
            return round(2 * forth)
        one, both, of_head = BACK[order]
        if again:
            one, both = one + AGAIN[order][0], both + AGAIN[order][1]
        return round(2 * (forth + of_head * head + reached * (one * linear + both * attention) + both * lora_back))


def pass_cost(model: nn.Module, adapted: Sequence[str] = (), r: int = 0) -> PassCost:
    """Read the cost off a plain model's layers and configuration; the layers named in `adapted` carry LoRA factors of rank r."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    inside = under_decoder(model)
    linear = [math.prod(linear_shape(model.get_submodule(name))) for name in linear_names(model) if inside(name)]
    per_token = getattr(config, "num_experts_per_tok", None) or 1
    experts = [math.prod(shape[1:]) * per_token for shape in expert_weights(model).values()]
    return PassCost(
        linear=sum(linear) + sum(experts),
        lora=sum(r * sum(linear_shape(model.get_submodule(name))) for name in adapted),
        head=math.prod(linear_shape(head)),
        attention=2 * width * config.num_hidden_layers,
        reached=_reached(model, adapted),
        layers=max(1, len(decoder_layers(model))),
    )


def _reached(model: nn.Module, adapted: Sequence[str]) -> float:
    layers = list(decoder_layers(model))
    first = next((index for index, name in enumerate(layers) if any(site.startswith(f"{name}.") for site in adapted)), 0)
    return (len(layers) - first) / len(layers) if layers else 1.0
